"""Random hands: pokerkit, from the PHH of a record, ends with the stacks of our replay."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lqlm.poker.record import Money, PostKind
from lqlm.poker.replay import validate
from tests.poker.random_hands import random_hand
from tests.poker.referee import best_hands, final_stacks
from tests.poker.test_phh import GAMES


@pytest.mark.parametrize("game", GAMES)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), extras=st.booleans())
def test_pokerkit_ends_with_the_same_stacks(game, seed, extras):
    fixed = {"game": game[0], "limit": game[1], "unit": 60, "money": Money(), "twice": False, "extras": extras}
    hand = random_hand(seed, best_hands, known="all", no_rake=True, show_all=True, **fixed)
    assume(not hand.stakes.cap)
    # pokerkit calls a short big blind for what was posted, the site for the whole blind.
    assume(all(post.amount >= hand.big_blind for post in hand.posts if post.kind is PostKind.BIG))
    # pokerkit allows four bets heads-up too.
    assume(all(sum(act.kind in ("bets", "raises") for act in acts) < 4 for acts in hand.streets))
    ours, theirs = validate(hand).stacks, final_stacks(hand)
    assert {seat: ours[seat] for seat in theirs} == theirs
