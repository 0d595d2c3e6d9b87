"""The web table: nothing hidden leaves the server, requests that do not fit are refused, and a browser can play it."""

import contextlib
import re
import socket
import threading

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from experiments.poker.advice import Adviser
from experiments.poker.play import OPPONENTS
from experiments.poker.play_game import TableSettings
from experiments.poker.web import app as web
from lqlm.poker import cards
from lqlm.poker.arena.actions import PotFractions
from lqlm.poker.arena.bots import RandomBot
from lqlm.poker.arena.match import DECK, stream
from lqlm.poker.arena.table import deal
from lqlm.poker.pokerstars import parse
from lqlm.poker.record import known_cards
from tests.browser import NEEDS_A_BROWSER, browse, found_in

URL = "http://127.0.0.1"


def app(seats=3, game="holdem", opponents=("call", "random"), adviser=None, seed=5):
    settings = TableSettings(game, seats, opponents, 100, seed)
    return web.make_app(settings, OPPONENTS, adviser or Adviser(samples=100), fixed_seed=True)


def client(**settings):
    return TestClient(app(**settings), base_url=URL)


def hidden(number, seats, game, seed=5):
    """Seat -> cards of hand ``number`` (from 1), as texts."""
    settings = TableSettings(game, seats, ("call",), 100, seed)
    dealt = deal(stream(seed, number - 1, DECK), seats, settings.rules.game.hole_cards)
    order = [(number - 1 + 1 + at) % seats + 1 for at in range(seats)]
    return {seat: [cards.DECK[card] for card in held] for seat, held in zip(order, dealt.holes)}


def step(table, state, number):
    """One request of a person who raises now and then and otherwise checks, calls and, at last, folds."""
    if state["over"]:
        return table.post("/api/next", json={"hand": state["hand"]})
    said = {"hand": state["hand"], "index": state["index"]}
    if state["legal"]["call"] and number % 7 == 6:
        said["action"] = "fold"
    elif state["legal"]["raise"] and number % 5 == 1:
        said |= {"action": state["legal"]["raise"]["word"], "amount": state["legal"]["raise"]["presets"][0]["total"]}
    else:
        said["action"] = "call" if state["legal"]["call"] else "check"
    return table.post("/api/act", json=said)


@pytest.mark.parametrize(("seats", "game"), [(2, "holdem"), (4, "holdem"), (3, "omaha")])
def test_no_hidden_card_leaves_the_server(seats, game):
    table = client(seats=seats, game=game, adviser=Adviser(RandomBot(PotFractions()), samples=100))
    answer = table.get("/api/state")
    shown, ended = 0, set()
    for number in range(50):
        state, said = answer.json(), [answer.text, str(answer.headers)]
        if not state["over"]:
            where = {"hand": state["hand"], "index": state["index"]}
            if number % 5 == 0:
                said.append(table.get("/api/advice", params=where).text)
        held = hidden(state["hand"], seats, game)
        assert state["seats"][0]["cards"] == held[1]
        seen = {seat["seat"]: seat["cards"] for seat in state["seats"] if seat["cards"]}
        out = {seat["seat"] for seat in state["seats"] if seat["folded"]}
        showdown = state["over"] and len(out) < seats - 1
        if showdown:
            shown += 1
            assert set(seen) == set(held) - out | {1}, "those who are in at the end show, nobody else"
        else:
            assert set(seen) == {1}
        assert all(held[seat] == texts for seat, texts in seen.items())
        secret = {text for seat, several in held.items() if seat not in seen for text in several}
        found = {text for text in secret for page in said if re.search(rf"(?<!\w){text}(?!\w)", page)}
        assert not found, f"hand {state['hand']}: {found} of other players"
        ended.add(state["hand"])
        answer = step(table, state, number)
        assert answer.status_code == 200, answer.text
    assert len(ended) > 5 and shown > 1


def test_saved_hands_hold_only_what_was_seen():
    table = client(seats=3)
    state = table.get("/api/state").json()
    for number in range(40):
        state = step(table, state, number).json()
    saved = table.get("/api/hands")
    assert "attachment" in saved.headers["content-disposition"]
    texts = re.split(r"(?m)^(?=PokerStars )", saved.text)[1:]
    hands = [parse(text) for text in texts]
    assert len(hands) == state["hands"] >= 5
    for number, hand in enumerate(hands, 1):
        held = hidden(number, 3, "holdem")
        told = {seat: [cards.DECK[card] for card in those] for seat, those in known_cards(hand).items()}
        assert told.items() <= held.items()
        assert [hole.seat for hole in hand.holes] == [1]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("act", {"hand": 1, "index": 0, "action": "bet", "amount": "1e99999"}, 400, "no number of big blinds"),
        ("act", {"hand": 1, "index": 0, "action": "raise", "amount": "7000"}, 400, "not allowed; give"),
        ("act", {"hand": 1, "index": 0, "action": "raise", "amount": "2.001"}, 400, "not allowed; give"),
        ("act", {"hand": 1, "index": 0, "action": "dance"}, 400, "no decision"),
        ("act", {"hand": 1, "index": 0, "action": "check"}, 400, "call or fold"),
        ("act", {"hand": 2, "index": 0, "action": "fold"}, 409, "over"),
        ("act", {"hand": 1, "index": 9, "action": "fold"}, 409, "over"),
        ("next", {"hand": 1}, 409, "not the one that is over"),
        ("act", [], 400, "no JSON object"),
        ("act", {"x": "y" * 5000}, 400, "longer than"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_changes_nothing(path, body, status, words):
    table = client(seats=3)
    before = table.get("/api/state").json()
    assert before["index"] == 0
    answer = table.post(f"/api/{path}", json=body)
    assert answer.status_code == status and words in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert table.get("/api/state").json() == before


def test_other_sites_are_refused():
    table = client()
    table.get("/api/state")
    assert table.post("/api/act", content="{}", headers={"content-type": "text/plain"}).status_code == 400
    assert table.get("/", headers={"host": "evil.example"}).status_code == 400
    cookie = table.get("/api/state").headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    policy = table.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy


def test_sessions_are_apart_and_the_oldest_is_dropped(monkeypatch):
    monkeypatch.setattr(web, "MOST_SESSIONS", 2)
    table = app()
    first, second, third = (TestClient(table, base_url=URL) for _ in range(3))
    one = first.get("/api/state").json()
    assert step(first, one, 0).json() != one
    assert second.get("/api/state").json() == one, "the same seed, a game of its own"
    kept = second.cookies[web.COOKIE]
    third.get("/api/state")
    assert second.get("/api/state").json() == one and second.cookies[web.COOKIE] == kept
    assert first.get("/api/state").json() == one, "dropped: it begins anew"


def test_the_page_loads_nothing():
    text = web.page()
    assert not re.search(r"(src|href)=\"(?!data:,|/api/hands)|@import|url\(|https?:", text)
    assert "no assistance while playing for money" in text


DRIVER = """
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const until = async (holds) => { for (let i = 0; i < 400 && !holds(); i++) await wait(10); return holds(); };
const press = (key, target = document) => target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
(async () => {
  const found = { errors: [], acts: 0, hands: 0, raises: 0, showdowns: 0, bars: 0, equities: 0,
    sentences: 0, leaks: 0 };
  window.addEventListener("error", (event) => found.errors.push(String(event.message)));
  try {
    for (let i = 0; i < STEPS; i++) {
      const ready = () => state && !busy && document.querySelector("#actions button:not([disabled])");
      if (!(await until(ready))) throw "no buttons";
      const before = JSON.stringify(state);
      if (state.over) {
        found.hands += 1;
        const others = state.seats.filter((seat) => !seat.you && seat.cards);
        found.showdowns += others.length > 0;
        press("n");
      } else {
        await until(() => document.getElementById("equity"));
        found.bars = Math.max(found.bars, document.querySelectorAll("#model .fill").length);
        found.equities += Boolean(document.getElementById("equity"));
        const told = document.querySelectorAll("#advised p:not(.note)").length;
        found.sentences = Math.max(found.sentences, told);
        found.leaks += document.querySelectorAll(".seat:not(.you) .card:not(.back)").length;
        const size = document.getElementById("size");
        if (size && i % 4 === 1) {
          press("2");
          size.focus();
          press("Enter", size);
          found.raises += 1;
        } else press("c");
        found.acts += 1;
      }
      if (!(await until(() => JSON.stringify(state) !== before))) throw "nothing changed";
    }
    found.wide = document.documentElement.scrollWidth - window.innerWidth;
  } catch (error) { found.errors.push(String(error)); }
  const end = Object.assign(document.createElement("pre"), { id: "found", textContent: JSON.stringify(found) });
  document.body.append(end);
})();
"""


@contextlib.contextmanager
def served(inner, steps):
    """The application on a port of this machine, and beside it its page with a player in it."""

    async def driven(request):
        script = DRIVER.replace("STEPS", str(steps))
        return HTMLResponse(web.page().replace("</body>", f"<script>{script}</script></body>"))

    outer = Starlette(routes=[Route("/driven", driven), Mount("/", inner)])
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(outer, log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@NEEDS_A_BROWSER
def test_a_browser_plays(tmp_path):
    advised = app(seats=3, opponents=("call",), adviser=Adviser(RandomBot(PotFractions()), samples=100))
    with served(advised, 14) as address:
        page = browse(f"{address}/driven", tmp_path / "profile", "--window-size=390,800", "--dump-dom")
    found = found_in(page)
    assert found["errors"] == [] and found["leaks"] == 0
    assert found["acts"] >= 10 and found["hands"] >= 1 and found["raises"] >= 1 and found["showdowns"] >= 1
    assert found["bars"] >= 3 and found["sentences"] >= 4 and found["equities"] == found["acts"]
    assert found["wide"] <= 0, "nothing is wider than a phone"


@NEEDS_A_BROWSER
def test_the_page_runs_under_its_own_policy(tmp_path):
    with served(app(), 0) as address:
        page = browse(f"{address}/", tmp_path / "profile", "--dump-dom")
    assert 'class="seat you turn"' in page and page.count('class="card back"') == 4
