"""Values of decisions by playing on: against the end that the log has, and cases worked by hand."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.poker.arena.actions import BlindChoices
from lqlm.poker.arena.bots import BOTS, LOOSE, TIGHT, CallBot, FoldBot, RandomBot
from lqlm.poker.arena.luck import luck_of
from lqlm.poker.arena.playable import check_playable, put_in, seen_at
from lqlm.poker.arena.playout import Asked, PlayoutConfig, play_on, play_on_many
from lqlm.poker.arena.rules import Rules
from lqlm.poker.arena.table import Deal, deal, play_hand
from lqlm.poker.cards import cards
from lqlm.poker.record import Act, ActKind, Game, Hole, Limit, Post, PostKind, known_cards
from lqlm.poker.replay import in_hand, replay
from tests.poker.random_hands import random_hand

RULES, RANDOM = Rules(), RandomBot()
FOLD, CHECK, CALL, BET, RAISE = ActKind


class Replays:
    """Does what the log says, to its end."""

    def __init__(self, hand):
        self.acts = [act for acts in hand.streets for act in acts]

    def act(self, observation, rng):
        return self.acts[observation.index]


class Watched:
    """Checks and calls, and remembers what it was shown."""

    def __init__(self):
        self.seen = []

    def act(self, observation, rng):
        self.seen.append(observation)
        return CallBot().act(observation, rng)


def self_played(seed, count=3, rules=RULES, stacks=None, agent=RANDOM):
    rngs = [np.random.default_rng([seed, at, 1]) for at in range(count)]
    dealt = deal(np.random.default_rng(seed), count, rules.game.hole_cards)
    return play_hand(rules, [agent] * count, dealt, rngs, stacks=stacks, hand_id=str(seed)).hand


def scripted(holes, board, acts, stack=10_000):
    """A heads-up hand: big blind first in ``holes``, the button and small blind (seat 2) first to act."""
    script = iter(acts)

    class Says:
        def act(self, observation, rng):
            kind, amount = next(script)
            return Act(observation.seat, kind, amount, amount == observation.stacks[observation.seat])

    dealt = Deal(tuple(map(cards, holes)), cards(board))
    rngs = [np.random.default_rng(at) for at in range(2)]
    return play_hand(Rules(stack=stack), [Says(), Says()], dealt, rngs).hand


@given(
    seed=st.integers(0, 10**6),
    count=st.integers(2, 6),
    rules=st.sampled_from([Rules(), Rules(ante=25), Rules(game=Game.OMAHA), Rules(small=40, big=90)]),
    short=st.booleans(),
)
def test_to_play_on_as_the_log_does_ends_as_the_log_does(seed, count, rules, short):
    stacks = np.random.default_rng(seed).integers(130, 3000, count).tolist() if short else None
    hand = self_played(seed, count, rules, stacks)
    assert check_playable(hand) == ""
    played, order = replay(hand), in_hand(hand)
    script = Replays(hand)
    for decision in played.decisions[:: max(1, len(played.decisions) // 3)]:
        (found,) = play_on(hand, decision.index, [decision.act], script, [script], PlayoutConfig(1))
        # The all-in adjustment of a hand without betting before the flop is an average over drawn boards.
        lucky = luck_of(hand, np.random.default_rng(0)).all_in[order.index(decision.seat)]
        if not lucky or any(hand.streets[1:]):
            won = played.stacks[decision.seat] - decision.stacks[decision.seat] - lucky
            assert found == pytest.approx([won / hand.big_blind], abs=1e-9)
        start = next(seat.stack for seat in hand.seats if seat.number == decision.seat)
        seen = seen_at(hand, decision.index)
        assert put_in(hand, seen) == (start - decision.stacks[decision.seat]) / hand.big_blind
        if decision.legal.call:
            folds = play_on(hand, decision.index, [Act(decision.seat, FOLD)], TIGHT, [TIGHT], PlayoutConfig(3))
            assert folds.tolist() == [[0.0] * 3]


@given(seed=st.integers(0, 10**6), limit=st.sampled_from([Limit.NO_LIMIT, Limit.POT_LIMIT]))
@settings(max_examples=30)
def test_a_logged_hand_is_the_tables_or_is_refused_in_one_line(seed, limit):
    game = Game.HOLDEM if limit is Limit.NO_LIMIT else Game.OMAHA
    hand = random_hand(seed, game=game, limit=limit, known="all")
    if reason := check_playable(hand):
        assert "\n" not in reason and any(words in reason for words in ("forced bets", "with a cap", "blinds"))
        return
    for decision in replay(hand).decisions:
        seen = seen_at(hand, decision.index)
        assert (seen.seat, seen.street, seen.pot, seen.bet) == (
            decision.seat,
            decision.street,
            decision.pot,
            decision.bet,
        )
        assert (seen.legal, seen.stacks, seen.board) == (decision.legal, decision.stacks, decision.board)
        assert seen.opening.money == hand.money and not known_cards(seen.opening)


RIVER = [(CALL, 50), (CHECK, 0), *[(CHECK, 0)] * 4, (BET, 9900)]
BOARD = "Qh7h2c3d8s"


@pytest.mark.parametrize(
    ("holes", "worth"),
    [
        (("AsAd", "QsQd"), 101.0),  # wins the 200 of before and the bet
        (("QsQd", "AsAd"), -99.0),  # loses the call
        (("AhKs", "AsKd"), 1.0),  # gets the call back and half of the 200
    ],
)
def test_a_call_on_the_river_is_worth_what_the_cards_say(holes, worth):
    hand = scripted(holes, BOARD, [*RIVER, (CALL, 9900)])
    acts = [Act(2, FOLD), Act(2, CALL, 9900, True)]
    found = play_on(hand, 7, acts, TIGHT, [LOOSE], PlayoutConfig(3))
    assert found.dtype == np.float64 and found.tolist() == [[0.0] * 3, [worth] * 3]


def test_an_all_in_on_the_turn_is_worth_the_mean_over_all_rivers():
    turn = [(CALL, 50), (CHECK, 0), *[(CHECK, 0)] * 2, (BET, 9900), (CALL, 9900)]
    hand = scripted(("QsQd", "AhKh"), BOARD, turn)
    # A flush wins: 9 hearts are left, of which 2h and 3h fill up the set; 44 cards are not seen.
    worth = 7 / 44 * 101 - 37 / 44 * 99
    found = play_on(hand, 5, [Act(2, CALL, 9900, True)], TIGHT, [TIGHT], PlayoutConfig(4))
    np.testing.assert_allclose(found, [[worth] * 4], rtol=1e-12)


def test_who_bets_wins_what_is_in_the_pot_from_one_who_folds():
    hand = scripted(("QsQd", "AhKh"), BOARD, [(RAISE, 300), (FOLD, 0)])
    acts = [Act(2, RAISE, 300), Act(2, RAISE, 10_000, True)]
    assert play_on(hand, 0, acts, TIGHT, [FoldBot()], PlayoutConfig(2)).tolist() == [[1.5] * 2] * 2
    # Against one who never folds nor raises, 3 big blinds each are won or lost.
    again = play_on(hand, 0, acts[:1], CallBot(), [CallBot()], PlayoutConfig(20, seed=3))
    assert set(np.round(again[0], 9)) <= {3.5, -2.5, 0.5} and len(set(again[0])) > 1


def test_what_one_wins_the_other_loses():
    hand = scripted(("QsQd", "AhKh"), BOARD, [(CALL, 50), (CHECK, 0), *[(CHECK, 0)] * 6])
    how = PlayoutConfig(12, seed=1)
    button = play_on(hand, 0, [Act(2, CALL, 50)], CallBot(), [CallBot()], how)
    blind = play_on(hand, 1, [Act(1, CHECK)], CallBot(), [CallBot()], how)
    np.testing.assert_allclose(button - 0.5 + blind - 1, 0)  # less what each has put in before


@given(seed=st.integers(0, 10**6))
@settings(max_examples=4)
def test_alternatives_share_cards_and_draws(seed):
    hand = self_played(seed, 4, agent=BOTS["loose"])
    seen = seen_at(hand, 0)
    acts = [Act(seen.seat, CALL, 100), Act(seen.seat, RAISE, 300), Act(seen.seat, CALL, 100)]
    field = [TIGHT, LOOSE, RandomBot()]
    found = play_on(hand, 0, acts, TIGHT, field, PlayoutConfig(3, seed))
    alone = [play_on(hand, 0, [act], TIGHT, field, PlayoutConfig(3, seed))[0] for act in acts]
    assert found.shape == (3, 3) and (found == alone).all() and (found[0] == found[2]).all()
    fewer = play_on(hand, 0, acts, TIGHT, field, PlayoutConfig(2, seed))
    assert (fewer == found[:, :2]).all()  # a playout is its own


def test_shared_cards_cut_the_variance_of_a_difference():
    hand = scripted(("9s9d", "AhKh"), BOARD, [(CALL, 50), (CHECK, 0), *[(CHECK, 0)] * 6])
    acts = [Act(2, CALL, 50), Act(2, RAISE, 300)]
    how = PlayoutConfig(40, seed=2)
    limp, raised = play_on(hand, 0, acts, CallBot(), [CallBot()], how)
    other = play_on(hand, 0, acts[1:], CallBot(), [CallBot()], dataclasses.replace(how, seed=3))[0]
    assert (raised - limp).std() < 0.7 * (other - limp).std()


@pytest.mark.parametrize("game", [Game.HOLDEM, Game.OMAHA])
@pytest.mark.parametrize("redraw", [False, True])
def test_what_is_seen_stays_and_what_is_not_is_dealt(game, redraw):
    hand = self_played(5, 4, Rules(game=game), agent=CallBot())
    decision = next(each for each in replay(hand).decisions if each.street == 1)
    seen, mine, others = seen_at(hand, decision.index), Watched(), Watched()
    play_on(hand, decision.index, [Act(decision.seat, CHECK)], mine, [others], PlayoutConfig(5, redraw=redraw))
    rivers = [each for each in mine.seen + others.seen if each.street == 3]
    assert all(each.board[:3] == seen.board for each in rivers) and {each.seat for each in rivers} == {1, 2, 3, 4}
    boards = list(dict.fromkeys(each.board for each in mine.seen if each.street == 3))
    assert len(boards) == 5 and (boards[0] == hand.boards[0]) == (not redraw)
    for at, board in enumerate(boards):
        held = {each.seat: each.cards for each in rivers if each.board == board}
        every = [*board, *(card for cards_ in held.values() for card in cards_)]
        assert len(set(every)) == len(every) == 5 + 4 * game.hole_cards and max(every) < 52
        assert held[decision.seat] == known_cards(hand)[decision.seat]
        assert (held == known_cards(hand)) == (not redraw), at


def test_the_asked_player_and_the_field_go_on_as_named():
    hand = self_played(5, 4, agent=CallBot())
    mine, first, second = Watched(), Watched(), Watched()
    act, asked = hand.streets[0][0], hand.streets[0][0].seat
    play_on(hand, 0, [act], mine, [first, second], PlayoutConfig(8))
    assert {seen.seat for seen in mine.seen} == {asked}
    assert {seen.seat for seen in first.seen} == {seen.seat for seen in second.seen} == {1, 2, 3, 4} - {asked}


def test_bad_input_is_refused_in_one_line():
    hand = self_played(5)
    seat = in_hand(hand)[0]
    straddle = Post(seat, PostKind.STRADDLE, 200)
    refused = {
        "cards of seat 1 are not known": dataclasses.replace(
            hand, holes=tuple(Hole(h.seat, h.cards) for h in hand.holes if h.seat != 1), results=()
        ),
        "a card is there twice": dataclasses.replace(hand, boards=((known_cards(hand)[1][0],),)),
        "forced bets": dataclasses.replace(hand, posts=(*hand.posts, straddle)),
        "Hold'em Limit": dataclasses.replace(hand, limit=Limit.FIXED),
        "with a cap": dataclasses.replace(hand, stakes=dataclasses.replace(hand.stakes, cap=4000)),
        "5 Card Omaha": dataclasses.replace(hand, game=Game.OMAHA5),
        "blinds": dataclasses.replace(hand, stakes=dataclasses.replace(hand.stakes, small=0)),
    }
    for words, wrong in refused.items():
        with pytest.raises(UserError, match=words) as error:
            seen_at(wrong, 0)
        assert str(error.value) == check_playable(wrong) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="there is no number 99"):
        seen_at(hand, 99)
    with pytest.raises(UserError, match="is not legal there"):
        play_on(hand, 0, [Act(seen_at(hand, 0).seat, CHECK)], TIGHT, [TIGHT], PlayoutConfig(1))
    wrong = dataclasses.replace(hand, streets=((Act(seat, CHECK), *hand.streets[0]), *hand.streets[1:]))
    with pytest.raises(UserError, match=r"cannot be replayed to decision 2|is not seat"):
        seen_at(wrong, 2)
    with pytest.raises(UserError, match="playouts 0"):
        PlayoutConfig(0)


class InBatches:
    """A bot that is asked for many tables at once, and remembers how many these were."""

    def __init__(self, bot):
        self.bot, self.counts = bot, []

    def act(self, observation, rng):
        return self.act_many([observation], [rng])[0]

    def act_many(self, observations, rngs):
        self.counts.append(len(observations))
        return [self.bot.act(*each) for each in zip(observations, rngs, strict=True)]


@pytest.mark.parametrize(("game", "abreast"), [(Game.HOLDEM, 1), (Game.OMAHA, 7), (Game.HOLDEM, 500)])
def test_many_decisions_are_played_on_as_each_alone(game, abreast):
    asked = []
    for seed in range(4):
        hand = self_played(seed, 3, Rules(game=game))
        for decision in replay(hand).decisions[:3]:
            seen = seen_at(hand, decision.index)
            acts = BlindChoices()(seen)
            asked.append(Asked(hand, decision.index, acts, PlayoutConfig(2 + seed % 2, seed)))
    bot, others = InBatches(LOOSE), [TIGHT, RANDOM]
    found = play_on_many(asked, bot, others, abreast=abreast)
    for one, won in zip(asked, found):
        np.testing.assert_array_equal(won, play_on(one.hand, one.number, one.acts, LOOSE, others, one.config))
    assert (max(bot.counts) > 20) if abreast == 500 else (max(bot.counts) <= abreast)
    backwards = play_on_many(asked[::-1], bot, others, abreast=abreast)
    assert all(np.array_equal(*pair) for pair in zip(found, backwards[::-1]))


def test_an_illegal_alternative_among_many_is_refused_before_anything_is_played():
    hand, watched = self_played(1), Watched()
    asked = [Asked(hand, 0, (replay(hand).decisions[0].act,), PlayoutConfig(1))]
    asked.append(Asked(hand, 0, (Act(9, CHECK),), PlayoutConfig(1)))
    with pytest.raises(UserError, match="take legal alternatives"):
        play_on_many(asked, watched, [watched])
    assert not watched.seen
