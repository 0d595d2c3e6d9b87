"""A compact prompt: everything of the state in about a third of the tokens of PokerGPT's template.

    NLH USD 0.5/1 1-2-3-4-5-6 sb1
    me 5 AdKd 100 ; -
    1 99.5 p0.5
    ...
    pot 1.5 ; fold call raise 3 6 10 all 100

A seat's actions are letters with amounts, streets parted by "/": a ante, p post, f fold, k check, c call, b bet,
r raise.  A line of features comes before the last: ``eq 62; req 41; odds 25; outs 8; draws gutshot; made top pair;
spot 2 1 0 300`` (req: equity against ranges; spot: opponents, those who act later, raises on the street, what a call
costs).
"""

import re
from decimal import Decimal
from typing import TypeVar

from lqlm.poker import cards
from lqlm.poker.record import Game, HandError, Limit
from lqlm.poker.state import Habits, Said, State, View
from lqlm.poker.told import Features, Spot

_Name = TypeVar("_Name", Game, Limit)
ACTION_LETTERS = {"ante": "a", "post": "p", "fold": "f", "check": "k", "call": "c", "bet": "b", "raise": "r"}
ACTION_WORDS = {letter: word for word, letter in ACTION_LETTERS.items()}
LIMIT_LETTERS = {Limit.NO_LIMIT: "NL", Limit.POT_LIMIT: "PL", Limit.FIXED: "FL"}
GAME_LETTERS = {
    Game.HOLDEM: "H",
    Game.OMAHA: "O",
    Game.OMAHA_HILO: "O8",
    Game.OMAHA5: "O5",
    Game.OMAHA5_HILO: "O58",
    Game.OMAHA6: "O6",
    Game.OMAHA6_HILO: "O68",
}


def plain(amount: Decimal) -> str:
    """The shortest text of an amount.

    >>> plain(Decimal("2.50")), plain(Decimal("1E+2"))
    ('2.5', '100')
    """
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def write_compact(state: State) -> str:
    """The compact prompt of a state."""
    game = LIMIT_LETTERS[state.limit] + GAME_LETTERS[state.game]
    blinds = f"{plain(state.small)}/{plain(state.big)}"
    seats = "-".join(map(str, state.order))
    lines = [f"{game} {state.currency or 'chips'} {blinds} {seats} sb{state.small_blind}"]
    held, board = cards.text(state.cards, ""), cards.text(state.board, "") or "-"
    lines.append(f"me {state.me} {held} {plain(state.money)}{_actions(state.actions)} ; {board}")
    lines += [f"{v.seat} {plain(v.money)}{_actions(v.actions)}{_habits(v.habits)}" for v in state.views]
    lines += _features(state.features)
    choices = "".join(f" {plain(choice)}" for choice in state.choices)
    everything = f" all {plain(state.all_in)}" if state.all_in else ""
    return "\n".join([*lines, f"pot {plain(state.pot)} ; {' '.join(state.legal)}{choices}{everything}"])


def _actions(said: tuple[Said, ...]) -> str:
    text, street = "", 0
    for item in said:
        text += (
            " " + "/" * (item.street - street) + ACTION_LETTERS[item.word] + (plain(item.amount) if item.amount else "")
        )
        street = item.street
    return text


def _habits(habits: Habits | None) -> str:
    if habits is None:
        return ""
    values = (habits.hands, habits.vpip, habits.pfr, habits.aggression, habits.fold_to_raise)
    return " ; " + " ".join("-" if value is None else str(value) for value in values)


def _features(features: Features) -> list[str]:
    named = {"eq": features.equity, "req": features.range_equity, "odds": features.pot_odds, "outs": features.outs}
    parts = [f"{name} {value}" for name, value in named.items() if value is not None]
    parts += [f"draws {', '.join(features.draws)}"] if features.draws else []
    parts += [f"made {features.made}"] if features.made else []
    if spot := features.spot:
        parts.append(f"spot {spot.live} {spot.behind} {spot.raises} {plain(spot.call)}")
    return (["; ".join(parts)] if parts else []) + ([f"style {features.style}"] if features.style else [])


_NUMBER = r"(\d+(?:\.\d+)?)"
_FIRST = re.compile(rf"(NL|PL|FL)(\w+) (\S+) {_NUMBER}/{_NUMBER} ([\d-]+) sb(\d+)")
_MINE = re.compile(rf"me (\d+) (\w+) {_NUMBER}((?: \S+)*?) ; (\S+)")
_VIEW = re.compile(rf"(\d+) {_NUMBER}((?: /*[apfkcbr][\d.]*)*)(?: ; (\d+(?: (?:\d+|-)){{4}}))?")
_LAST = re.compile(rf"pot {_NUMBER} ; ((?:[a-z]+ ?)+?)((?: ?{_NUMBER})*)(?: all {_NUMBER})?")


def read_compact(prompt: str) -> State:
    """The state that a compact prompt shows; ``read_compact(write_compact(state)) == state``.

    Raises:
        HandError: naming the line that is not as the template has it.
    """
    lines = prompt.split("\n")
    first, mine = _match(_FIRST, lines, 0), _match(_MINE, lines, 1)
    last = _match(_LAST, lines, len(lines) - 1)
    views = [found for line in lines[2:-1] if (found := _VIEW.fullmatch(line))]
    features = _read_features(lines[2 + len(views) : -1])
    return State(
        game=named(GAME_LETTERS, first[2]),
        limit=named(LIMIT_LETTERS, first[1]),
        currency="" if first[3] == "chips" else first[3],
        small=Decimal(first[4]),
        big=Decimal(first[5]),
        order=tuple(map(int, first[6].split("-"))),
        small_blind=int(first[7]),
        me=int(mine[1]),
        cards=cards.cards(mine[2]),
        board=() if mine[5] == "-" else cards.cards(mine[5]),
        money=Decimal(mine[3]),
        actions=_read_actions(mine[4]),
        views=tuple(View(int(v[1]), Decimal(v[2]), _read_actions(v[3]), _read_habits(v[4])) for v in views),
        pot=Decimal(last[1]),
        legal=tuple(last[2].split()),
        choices=tuple(map(Decimal, last[3].split())),
        all_in=Decimal(last[5] or 0),
        features=features,
    )


def _match(pattern: re.Pattern[str], lines: list[str], at: int) -> re.Match[str]:
    found = pattern.fullmatch(lines[at]) if at < len(lines) else None
    if found is None:
        line = lines[at] if at < len(lines) else "the end"
        raise HandError(f"prompt line {at + 1} is not as the compact template has it: {line[:80]!r}")
    return found


def named(names: dict[_Name, str], text: str) -> _Name:
    """The game or limit of such letters.

    Raises:
        HandError: when there is none.
    """
    for value, name in names.items():
        if name == text:
            return value
    raise HandError(f"no game {text!r} in a compact prompt")


def _read_actions(text: str) -> tuple[Said, ...]:
    said, street = [], 0
    for item in text.split():
        letters = item.lstrip("/")
        street += len(item) - len(letters)
        if letters[:1] not in ACTION_WORDS:
            raise HandError(f"no action {item!r} in a compact prompt")
        said.append(Said(street, ACTION_WORDS[letters[0]], Decimal(letters[1:] or 0)))
    return tuple(said)


def _read_habits(text: str | None) -> Habits | None:
    if not text:
        return None
    hands, *rest = text.split()
    return Habits(int(hands), *(None if value == "-" else int(value) for value in rest))


def _read_features(lines: list[str]) -> Features:
    style = lines.pop().removeprefix("style ") if lines and lines[-1].startswith("style ") else ""
    if len(lines) > 1:
        raise HandError(f"a compact prompt has a line too many: {lines[0][:80]!r}")
    told = dict(part.split(" ", 1) for part in lines[0].split("; ")) if lines else {}
    equity, ranged, odds, outs = (int(told[name]) if name in told else None for name in ("eq", "req", "odds", "outs"))
    draws = tuple(told["draws"].split(", ")) if "draws" in told else ()
    return Features(equity, odds, outs, draws, style, told.get("made", ""), _read_spot(told.get("spot")), ranged)


def _read_spot(text: str | None) -> Spot | None:
    if not text:
        return None
    live, behind, raises, call = text.split()
    return Spot(int(live), int(behind), int(raises), Decimal(call))
