import dataclasses
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.poker import phh, phh_writer, pokerstars
from lqlm.poker.arena.actions import BlindChoices, PotFractions, is_legal, pot_total, resolve
from lqlm.poker.arena.bots import BOTS, LEAKS, CallBot, FoldBot, RandomBot
from lqlm.poker.arena.observation import Mixed
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import deal, play_hand
from lqlm.poker.prompts import read_prompt, write_prompt
from lqlm.poker.record import Act, ActKind, Game
from lqlm.poker.replay import replay, validate
from lqlm.poker.state import ViewConfig, state_of

RULES = Rules()


class Watched:
    """An agent that remembers what it was shown."""

    def __init__(self, agent):
        self.agent, self.seen = agent, []

    def act(self, observation, rng):
        self.seen.append(observation)
        return self.agent.act(observation, rng)


class Says:
    """Gives one answer, whatever is legal."""

    def __init__(self, kind, amount=0):
        self.kind, self.amount = kind, amount

    def act(self, observation, rng):
        return None if self.kind is None else Act(observation.seat, self.kind, self.amount)


def rngs(seed, count):
    return [np.random.default_rng([seed, at, 1]) for at in range(count)]


def play(agents, seed=0, rules=RULES, **more):
    count = len(agents)
    return play_hand(
        rules, agents, deal(np.random.default_rng(seed), count, rules.game.hole_cards), rngs(seed, count), **more
    )


@given(
    count=st.integers(2, 9),
    seed=st.integers(0, 10**6),
    game=st.sampled_from([Game.HOLDEM, Game.OMAHA]),
    ante=st.sampled_from([0, 25]),
    stacks=st.lists(st.integers(1, 4000), min_size=9, max_size=9) | st.none(),
    menu=st.sampled_from([PotFractions(), BlindChoices()]),
)
@settings(max_examples=60)
def test_a_hand_keeps_its_chips_and_its_record_replays(count, seed, game, ante, stacks, menu):
    agent = Watched(RandomBot(menu))
    given_stacks = [max(stack, 130) for stack in stacks[:count]] if stacks else None
    played = play([agent] * count, seed, Rules(game=game, ante=ante), stacks=given_stacks)
    assert sum(played.chips) == 0 and sum(played.illegal) == 0 and sum(played.decisions) == len(agent.seen)
    before = {seat.number: seat.stack for seat in played.hand.seats}
    after = validate(played.hand).stacks
    assert [after[seat] - before[seat] for seat in range(1, count + 1)] == list(played.chips)
    assert phh.parse(phh_writer.render(played.hand)) == played.hand


def test_a_short_all_in_frees_nobody_who_has_acted():
    """The button calls, the small blind is all-in for 130, the big blind calls: the button may call, not raise."""
    button, small = Watched(CallBot()), types.SimpleNamespace()
    small.act = lambda seen, rng: Act(seen.seat, ActKind.RAISE, 130, True)
    played = play([small, CallBot(), button], stacks=[130, 10_000, 10_000])
    assert [seen.legal.most > 0 for seen in button.seen[:2]] == [True, False] and button.seen[1].legal.call == 30
    validate(played.hand)


def test_who_cannot_pay_the_big_blind_does_not_sit_down():
    with pytest.raises(UserError, match="the big blind cannot be paid in full"):
        play([CallBot(), CallBot(), CallBot()], stacks=[1000, 30, 1000])


@given(count=st.integers(2, 6), seed=st.integers(0, 10**6), short=st.booleans())
def test_an_agent_is_shown_what_the_record_says_and_no_other_cards(count, seed, short):
    agent = Watched(RandomBot())
    stacks = [int(x) for x in np.random.default_rng(seed).integers(130, 3000, count)] if short else None
    played = play([agent] * count, seed, stacks=stacks)
    for seen, decision in zip(agent.seen, replay(played.hand).decisions, strict=True):
        shown = dataclasses.replace(seen.decision, act=decision.act)
        assert shown == decision
        assert {hole.seat for hole in seen.hand.holes} == {seen.seat} and not seen.hand.results
        assert seen.hand.boards == (decision.board,)
        state = state_of(seen.hand, seen.decision, seen.cards, ViewConfig())
        assert read_prompt(write_prompt(state)) == state


def test_the_record_is_read_back_from_a_log():
    for seed in range(10):
        hand = dataclasses.replace(play([RandomBot()] * 4, seed, hand_id="7").hand, site="PokerStars")
        assert pokerstars.parse(pokerstars.render(hand)) == hand


def test_heads_up_the_button_has_the_small_blind_and_acts_first():
    first, second = Watched(CallBot()), Watched(CallBot())
    played = play([first, second])
    assert played.hand.table.button == 2 and played.hand.posts[0].seat == 2
    assert second.seen[0].index == 0 and second.seen[0].legal.call == 50
    assert [seen.street for seen in first.seen] == [0, 1, 2, 3]
    assert first.seen[1].index == 2  # after the flop the big blind is first


def test_who_always_folds_loses_the_blinds():
    played = play([FoldBot()] * 3)
    assert played.chips == (-50, 50, 0) and played.illegal == (0, 0, 0)


@given(count=st.integers(2, 5), seed=st.integers(0, 1000))
def test_menus_are_legal_and_have_no_double(count, seed):
    agent = Watched(RandomBot())
    play([agent] * count, seed)
    for seen in agent.seen:
        for menu in (PotFractions((0.01, 0.5, 100.0)), BlindChoices()):
            acts = menu(seen)
            assert len(set(acts)) == len(acts) and all(is_legal(act, seen) for act in acts)
            assert (acts[0].kind is ActKind.FOLD) == (seen.legal.call > 0)
            assert not seen.legal.most or acts[-1].amount == seen.legal.most


@pytest.mark.parametrize(
    ("kind", "amount", "facing", "becomes", "illegal"),
    [
        (ActKind.RAISE, 10, True, (ActKind.RAISE, 200), True),  # too small
        (ActKind.RAISE, 10**9, True, (ActKind.RAISE, 10_000), True),
        (ActKind.RAISE, 300, True, (ActKind.RAISE, 300), False),
        (ActKind.BET, 300, True, (ActKind.RAISE, 300), True),  # the wrong word
        (ActKind.RAISE, 300, False, (ActKind.BET, 300), True),
        (ActKind.CALL, 7, True, (ActKind.CALL, 100), True),
        (ActKind.CALL, 100, False, (ActKind.CHECK, 0), True),
        (ActKind.CHECK, 0, True, (ActKind.FOLD, 0), True),
        (ActKind.FOLD, 0, False, (ActKind.CHECK, 0), True),
        (ActKind.FOLD, 0, True, (ActKind.FOLD, 0), False),
        (None, 0, True, (ActKind.FOLD, 0), True),
        (None, 0, False, (ActKind.CHECK, 0), True),
    ],
)
def test_an_illegal_answer_becomes_the_stated_one_and_is_counted(kind, amount, facing, becomes, illegal):
    watched = Watched(CallBot())
    play([watched] * 3)
    seen = next(seen for seen in watched.seen if (seen.street == 0) == facing)
    act, found = resolve(Says(kind, amount).act(seen, None), seen)
    assert ((act.kind, act.amount), found) == (becomes, illegal)
    assert is_legal(act, seen)


def test_a_pot_raise_is_the_call_and_the_pot_after_it():
    watched = Watched(CallBot())
    play([watched] * 3)
    assert pot_total(watched.seen[0], 1.0) == 100 + (150 + 100)
    assert pot_total(watched.seen[3], 0.5) == 150  # a bet into 300


def test_a_raise_that_is_not_allowed_becomes_the_call():
    played = play([Says(ActKind.RAISE, 600), Says(ActKind.RAISE, 500)], stacks=[5000, 500])
    assert played.illegal[0] == 1 and played.hand.streets[0][-1].kind is ActKind.CALL


def test_illegal_answers_are_counted_at_the_table():
    played = play([Says(None), Says(ActKind.CHECK), CallBot()])
    assert played.illegal == (1, 0, 0) or played.illegal[0] == played.decisions[0]
    assert sum(played.chips) == 0


def test_a_distribution_is_drawn_from():
    class Often:
        def act(self, observation, rng):
            return Mixed((Act(observation.seat, ActKind.FOLD), Act(observation.seat, ActKind.CALL, 100)), (0.25, 0.75))

    folds = [play([CallBot(), CallBot(), Often()], seed).hand.streets[0][0].kind is ActKind.FOLD for seed in range(200)]
    assert 0.15 < np.mean(folds) < 0.35


def test_bots_play_legally_with_any_number_of_seats():
    for count in (2, 5, 10):
        agents = ([*BOTS.values(), *LEAKS.values()] * 2)[3 : 3 + count]
        played = play(agents, count)
        assert sum(played.illegal) == 0 and sum(played.chips) == 0


def test_what_does_not_fit_together_is_said():
    with pytest.raises(UserError, match="2 to 10 players can sit down"):
        play([CallBot()])
    with pytest.raises(UserError, match="it is no-limit Hold'em or pot-limit Omaha"):
        Rules(game=Game.OMAHA5)
