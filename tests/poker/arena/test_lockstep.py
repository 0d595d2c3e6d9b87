"""Many hands side by side are the hands that are played one after the other."""

import dataclasses

import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.poker.arena.bots import BOTS, FOLDS_TOO_MUCH, LOOSE, TIGHT, CallBot, FoldBot, RandomBot
from lqlm.poker.arena.language import LanguageAgent
from lqlm.poker.arena.lockstep import play_hands, play_lockstep
from lqlm.poker.arena.luck import luck_of, lucks_of
from lqlm.poker.arena.match import LUCK, difference, mbb, play_match, seat_players, stream
from lqlm.poker.arena.observation import act_many
from lqlm.poker.arena.rules import Rules
from lqlm.poker.record import Game

RULES = Rules()


def same(one, two):
    for name in ("chips", "all_in", "terms", "decisions", "illegal"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


def both(rules, hero, field, deals, abreast, samples=16):
    """The hands of a match played one by one and side by side."""
    kept = [], []
    one = play_match(rules, hero, field, deals, 3, samples=samples, keep=kept[0].append)
    two = play_lockstep(rules, hero, field, deals, 3, samples=samples, keep=kept[1].append, abreast=abreast)
    same(one, two)
    assert [played.hand for played in kept[0]] == [played.hand for played in kept[1]]
    return one, two


@pytest.mark.parametrize(
    ("hero", "field", "abreast"),
    [
        (TIGHT, [LOOSE], 5),
        (FOLDS_TOO_MUCH, [RandomBot(), TIGHT, CallBot()], 64),
        (LOOSE, [LOOSE, FoldBot()], 1),
    ],
)
def test_bots_play_the_same_hands_bit_for_bit(hero, field, abreast):
    one, two = both(RULES, hero, field, 6, abreast)
    assert one.chips.any() and two.thinking > 0


def test_omaha_too():
    one, two = both(Rules(game=Game.OMAHA), TIGHT, [BOTS["random"]], 5, 8)
    assert one.chips.any() and one.hands == two.hands == 10


def prefers(text):
    """A log-probability that depends on the words and nothing else."""
    return float(np.random.default_rng(list(text.encode())).normal())


def test_a_model_is_asked_once_for_all_its_tables():
    calls = []

    def score(prompts, answers):
        calls.append(len(prompts))
        return [np.array([prefers(p[-40:] + a) for a in some]) for p, some in zip(prompts, answers)]

    model = LanguageAgent(score)
    one = play_match(RULES, model, [RandomBot()], 10, 0, samples=16)
    assert set(calls) == {1}
    alone, calls[:] = len(calls), []
    two = play_lockstep(RULES, model, [RandomBot()], 10, 0, samples=16)
    same(one, two)
    assert sum(calls) == alone and max(calls) > 5 and len(calls) < alone / 3


class Watched:
    """Remembers who asked it about which cards, and how many at once."""

    def __init__(self):
        self.asked = []

    def act(self, observation, rng):
        raise AssertionError("asked one by one")

    def act_many(self, observations, rngs):
        self.asked.append(len(observations))
        return [CallBot().act(seen, rng) for seen, rng in zip(observations, rngs)]


def test_places_are_filled_as_they_become_free_and_hands_come_in_order():
    watched = Watched()
    seatings = (seat_players(RULES, watched, [FoldBot()], number, number % 2, 0) for number in range(9))
    played = list(play_hands(RULES, seatings, abreast=4))
    assert [hand.hand.hand_id for hand in played] == [f"0-{n}-{n % 2}" for n in range(9)]
    assert max(watched.asked) <= 4
    assert list(play_hands(RULES, [], abreast=4)) == []


def test_agents_that_cannot_answer_many_are_asked_one_by_one():
    seen = []
    (played,) = play_hands(RULES, [seat_players(RULES, CallBot(), [CallBot()], 0, 0, 0)])

    class Keeps:
        def act(self, observation, rng):
            seen.append(observation)
            return CallBot().act(observation, rng)

    (again,) = play_hands(RULES, [seat_players(RULES, Keeps(), [CallBot()], 0, 0, 0)])
    assert again.hand == played.hand and len(seen) == played.decisions[0]
    before = list(seen)
    rngs = [np.random.default_rng(0) for _ in before]
    assert act_many(Keeps(), before, rngs) == [CallBot().act(each, None) for each in before]
    assert act_many(Watched(), [], []) == []


def test_luck_of_many_hands_is_that_of_each():
    hands = []
    play_lockstep(RULES, LOOSE, [RandomBot(), TIGHT], 6, 1, samples=16, keep=lambda played: hands.append(played.hand))
    rngs = [[stream(1, number // 3, LUCK) for number in range(18)] for _ in range(2)]
    many = lucks_of(hands, rngs[0], 32)
    for hand, rng, luck in zip(hands, rngs[1], many, strict=True):
        alone = luck_of(hand, rng, 32)
        np.testing.assert_array_equal(luck.terms, alone.terms)
        np.testing.assert_array_equal(luck.all_in, alone.all_in)


def test_the_difference_of_two_heroes_loses_the_luck_that_both_had():
    """A hero who also gives away 10 chips in every hand: the difference is exactly that."""
    one = play_lockstep(RULES, RandomBot(), [CallBot()], 40, 0, samples=16)
    other = dataclasses.replace(one, chips=one.chips - 10)
    for name, found in difference(one, other).items():
        assert found.mean == pytest.approx(100) and found.half < 1e-9, name
    tight = play_lockstep(RULES, TIGHT, [CallBot()], 40, 0, samples=16)
    found = difference(tight, one)
    for name in ("hands", "duplicate", "all-in"):
        assert found[name].mean == pytest.approx(mbb(tight)[name].mean - mbb(one)[name].mean)
    with pytest.raises(UserError, match="cannot be compared"):
        difference(one, play_lockstep(RULES, TIGHT, [CallBot()], 3, 0, samples=16))
