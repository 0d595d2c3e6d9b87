"""Rewards of decisions: chips by playing on, clipped and paid for legality; words like the player's."""

import dataclasses
import json

import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.poker.arena.bots import LOOSE, TIGHT
from lqlm.poker.arena.playout import PlayoutConfig, play_on
from lqlm.poker.codec import to_json
from lqlm.poker.record import Act, ActKind
from lqlm.rewards.combine import score_all
from lqlm.rewards.poker import agrees, chips, legal
from lqlm.rewards.specs import RewardSpec, Sample, bind_all
from lqlm.tasks.base import Item
from lqlm.tasks.poker import PokerConfig, poker_task
from lqlm.tasks.poker_values import Place, Playing, judged, worth
from tests.poker.arena.test_playout import BOARD, RIVER, scripted

CALL = ActKind.CALL
WINS, LOSES = ("AsAd", "QsQd"), ("QsQd", "KsKd")  # the second one calls; queens have made three of a kind


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A task of two hands, of which one is held out; the asked player wins what he calls in the first only."""
    folder = tmp_path_factory.mktemp("hands")
    for name, held in (("wins", WINS), ("loses", LOSES)):
        hand = scripted(held, BOARD, [*RIVER, (CALL, 9900)])
        (folder / f"{name}.jsonl").write_text(json.dumps({"session": name, "known": {}, "hand": to_json(hand)}) + "\n")

    def made(**changes):
        paths = {"source": str(folder / "wins.jsonl"), "heldout_source": str(folder / "loses.jsonl")}
        return poker_task(PokerConfig(**paths, streets=("river",), playouts=2, **changes))

    return made


def call_of(items):
    return next(item for item in items if item.answer == "call")


@pytest.mark.parametrize(
    ("text", "wins", "loses", "is_legal"),
    [
        ("fold", 0.0, 0.0, 1.0),
        ("call", 1.01, -0.99, 1.0),
        ("You should go all-in.", 1.01, -0.99, 1.0),  # the stack just covers the bet
        ("raise 20000", 0.51, -1.49, 0.0),  # no raise is allowed: the call
        (f"raise {'9' * 400}", 0.51, -1.49, 0.0),
        ("bet 300", 0.51, -1.49, 0.0),
        ("check", -0.5, -0.5, 0.0),  # not free: the fold
        ("I would rather not say", -0.5, -0.5, 0.0),
        ("", -0.5, -0.5, 0.0),
    ],
)
def test_an_answer_is_paid_what_it_wins_and_less_if_the_table_had_to_map_it(make, text, wins, loses, is_legal):
    task = make(scale=100.0)
    for item, value in ((call_of(task.train), wins), (call_of(task.heldout), loses)):
        assert chips(text, item) == pytest.approx(value) and legal(text, item) == is_legal
        assert chips(text, item, penalty=0.0) == pytest.approx(value + 0.5 * (1 - is_legal))


def test_chips_are_clipped_in_both_directions_before_the_penalty(make):
    task = make(scale=10.0, clip=2.0)
    assert chips("call", call_of(task.train)) == 2.0 and chips("call", call_of(task.heldout)) == -2.0
    assert chips("bet 1", call_of(task.heldout)) == -2.5
    assert chips("call", call_of(make(scale=10.0, clip=0.0).train)) == pytest.approx(10.1)


def test_the_word_is_compared_with_the_players(make):
    task = make()
    item = call_of(task.train)
    assert [agrees(text, task, item) for text in ("call", "all-in", "fold", "raise 20000", "?")] == [1, 1, 0, 0, 0]
    bet = next(item for item in task.train if item.answer != "call")
    assert bet.answer == "all-in" and [agrees(text, task, bet) for text in ("bet 300", "all-in", "check")] == [1, 1, 0]


def test_values_come_from_playing_on_with_the_named_players_and_numbers_of_their_own(make):
    hand = scripted(("9s9d", "AhKh"), BOARD, [(CALL, 50), (ActKind.CHECK, 0), *[(ActKind.CHECK, 0)] * 6])
    place, act = Place(json.dumps(to_json(hand)), 0), Act(2, ActKind.RAISE, 300)
    playing = Playing("tight", ("loose",), 4, False, 0)
    found = worth(place, act, playing)
    assert found == worth(place, act, playing) != worth(place, act, playing._replace(seed=1))
    assert found != worth(place, act, playing._replace(field=("call",)))
    assert worth(place, judged("fold", place).act, playing) == 0.0
    # As many playouts as that are close to those of any other seed.
    many = worth(place, act, playing._replace(playouts=100))
    other = play_on(hand, 0, [act], TIGHT, [LOOSE], PlayoutConfig(100, seed=5))
    assert abs(many - other.mean()) < 4 * other.std() / np.sqrt(50)


def test_values_are_found_once(make):
    item = call_of(make(seed=7).train)
    before = worth.cache_info().misses
    assert chips("call", item) == chips("call", dataclasses.replace(item)) and worth.cache_info().misses <= before + 1
    again = worth.cache_info().misses
    assert chips("You should call.", item) == chips("call", item) and worth.cache_info().misses == again


def test_the_rewards_of_samples(make):
    task = make()
    item = call_of(task.train)
    specs = [RewardSpec(name, f"lqlm.rewards.poker.{name}") for name in ("chips", "legal", "agrees")]
    samples = [Sample(item.question, text, item.answer, 3, False, item) for text in ("call", "fold", "raise")]
    found = score_all(bind_all(specs, task), samples, task=task, timeout_s=5.0)
    assert found.errors == 0 and found.components["chips"].tolist() == [5.0, 0.0, -0.5]
    assert found.components["legal"].tolist() == [1, 1, 0] and found.components["agrees"].tolist() == [1, 0, 0]


def test_items_of_another_task_are_refused(make):
    for reward in (chips, legal):
        with pytest.raises(UserError, match=r"item '7' is no decision of a poker hand; take task.kind 'poker'"):
            reward("call", Item("3 + 4?", "7", "7"))
