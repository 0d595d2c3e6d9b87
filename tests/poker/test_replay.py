import dataclasses

import pytest

from lqlm.poker.pokerstars import parse
from lqlm.poker.record import Act, ActKind, HandError, Limit, Post, PostKind, Seat, Stakes
from lqlm.poker.replay import Legal, Pot, act, begin, in_hand, legal, next_street, replay, to_win, validate
from tests.poker import texts


def table(limit=Limit.NO_LIMIT, stacks=(1000, 1000, 1000, 1000), button=4, small=5, big=10, **changes):
    """Seats 1..n with a button, blinds posted by the two seats after it."""
    seats = tuple(Seat(i, f"p{i}", stack) for i, stack in enumerate(stacks, 1))
    hand = parse(texts.OLD)
    hand = dataclasses.replace(hand, limit=limit, seats=seats, stakes=Stakes(small, big), posts=(), streets=((),))
    hand = dataclasses.replace(hand, results=(), returned=None, table=dataclasses.replace(hand.table, button=button))
    order = in_hand(hand)
    first, second = (order[1], order[0]) if len(order) == 2 else (order[0], order[1])
    blind = hand.big_blind
    posts = ((first, PostKind.SMALL, blind // 2), (second, PostKind.BIG, blind))
    made = tuple(Post(s, k, min(a, stacks[s - 1]), stacks[s - 1] <= a) for s, k, a in posts)
    return dataclasses.replace(hand, posts=made, **changes)


def played(hand, *acts):
    """The betting after decisions of the players in turn: (kind, amount) or a kind."""
    state = begin(hand)
    for step in acts:
        kind, amount = step if isinstance(step, tuple) else (step, 0)
        seat = state.waiting[0]
        amount = legal(state).call if kind is ActKind.CALL else amount
        added = amount - (state.bets[seat] if kind is not ActKind.CALL else 0)
        act(state, Act(seat, kind, amount, amount > 0 and added == state.stacks[seat]))
    return state


FOLD, CHECK, CALL, BET, RAISE = ActKind


def test_the_first_to_decide_sits_left_of_the_big_blind_then_left_of_the_button():
    state = played(table())
    assert state.waiting == [3, 4, 1, 2]
    for kind in (CALL, CALL, CALL, CHECK):
        seat = state.waiting[0]
        act(state, Act(seat, kind, legal(state).call))
    next_street(state)
    assert state.waiting == [1, 2, 3, 4]


def test_heads_up_the_button_posts_the_small_blind_and_decides_first_and_later_last():
    state = played(table(stacks=(1000, 1000), button=2))
    assert state.waiting == [2, 1]
    state = played(table(stacks=(1000, 1000), button=2), CALL, CHECK)
    next_street(state)
    assert state.waiting == [1, 2]


def price(hand, seat):
    """What a call of a seat's first decision can win, and what it costs."""
    decision = next(one for one in replay(hand).decisions if one.seat == seat)
    return to_win(hand, decision), decision.legal.call


def folded(hand, *seats):
    """The record in which these fold, which leaves one."""
    return dataclasses.replace(hand, streets=(tuple(Act(seat, FOLD) for seat in seats),))


def test_what_is_the_main_pots_alone_can_be_won_by_everyone():
    """Dead blinds, and an ante of the big blind for all; they are no part of what a short call matches."""
    hand = folded(table(), 3, 4, 1)
    assert price(hand, 3) == (15, 10)
    bought = dataclasses.replace(hand, posts=(*hand.posts, Post(4, PostKind.BOTH, 15)))
    assert price(bought, 3) == (30, 10)
    ante = dataclasses.replace(hand, posts=(*hand.posts, Post(2, PostKind.ANTE, 10)))
    assert price(ante, 3) == (25, 10)
    short = table(stacks=(1000, 1000, 6, 1000))
    assert price(folded(short, 3, 4, 1), 3) == (5 + 6, 6)
    both = (*short.posts, Post(2, PostKind.ANTE, 10), Post(4, PostKind.BOTH, 15))
    assert price(folded(dataclasses.replace(short, posts=both), 3, 4, 1), 3) == (5 + 6 + 10 + 6 + 5, 6)
    every = tuple(Post(seat, PostKind.ANTE, 2) for seat in (1, 2, 3, 4))
    assert price(folded(dataclasses.replace(short, posts=(*every, *short.posts)), 3, 4, 1), 3) == (8 + 5 - 1 + 4, 4)


def test_after_a_straddle_the_next_seat_decides_first():
    hand = table()
    state = begin(dataclasses.replace(hand, posts=(*hand.posts, Post(3, PostKind.STRADDLE, 20))))
    assert state.waiting == [4, 1, 2, 3]
    assert legal(state) == Legal(20, 40, 1000)


def test_no_limit_raises_by_at_least_the_last_raise():
    assert legal(played(table())) == Legal(10, 20, 1000)
    assert legal(played(table(), (RAISE, 30))) == Legal(30, 50, 1000)
    assert legal(played(table(), (RAISE, 30), (RAISE, 100))) == Legal(95, 170, 1000)


def test_pot_limit_raises_to_the_pot_after_the_call():
    state = played(table(Limit.POT_LIMIT))
    assert legal(state) == Legal(10, 20, 35)  # 5 + 10 + a call of 10, on top of 10
    assert legal(played(table(Limit.POT_LIMIT), (RAISE, 35))) == Legal(35, 60, 120)  # 15 + 35 + 35, on top of 35


def test_fixed_limit_bets_twice_as_much_from_the_turn_on_and_four_times():
    hand = table(Limit.FIXED)
    assert legal(played(hand)) == Legal(5, 10, 10)
    four = (RAISE, 10), (RAISE, 15), (RAISE, 20)
    assert legal(played(hand, *four)) == Legal(15)
    two = table(Limit.FIXED, stacks=(1000, 1000), button=2)
    assert legal(played(two, *four)).least == 25
    state = played(two, CALL, CHECK)
    for size in (5, 10):
        next_street(state)
        if size == 10:
            assert legal(state) == Legal(0, 5, 5) or legal(state) == Legal(0, 10, 10)
        for _ in range(2):
            act(state, Act(state.waiting[0], CHECK))
    next_street(state)
    assert legal(state) == Legal(0, 10, 10)


def test_a_short_all_in_does_not_open_the_betting_again():
    hand = table(stacks=(1000, 1000, 1000, 120))
    state = played(hand, (RAISE, 100), (RAISE, 120), FOLD, FOLD)
    assert state.waiting == [3] and legal(state) == Legal(20)
    with pytest.raises(HandError, match="allowed is 0 to 0"):
        act(state, Act(3, RAISE, 500))


def test_nobody_raises_those_who_are_all_in():
    state = played(table(stacks=(1000, 1000, 50, 1000)), (RAISE, 50), FOLD, FOLD)
    assert legal(state) == Legal(40)


def test_nobody_raises_those_who_cannot_call_it():
    state = played(table(stacks=(100, 100, 500, 1000)), (RAISE, 500))
    assert state.waiting == [4, 1, 2] and legal(state) == Legal(500)


def test_a_short_big_blind_leaves_the_price_of_a_call():
    state = begin(table(stacks=(1000, 4, 1000, 1000)))
    assert legal(state) == Legal(10, 20, 1000)


def test_everybody_all_in_needs_no_decision():
    state = played(table(stacks=(50, 40), button=2), (RAISE, 40))
    assert state.waiting == [1]
    act(state, Act(1, CALL, 30))
    assert state.waiting == []
    next_street(state)
    assert state.waiting == []


def test_side_pots():
    hand = table(stacks=(30, 100, 60, 200))
    state = played(hand, (RAISE, 60), (RAISE, 120), CALL, CALL)
    acts = tuple(Act(s, k, a, i) for s, k, a, i in ((3, RAISE, 60, True), (4, RAISE, 120, False)))
    acts += (Act(1, CALL, 25, True), Act(2, CALL, 90, True))
    del state
    found = replay(dataclasses.replace(hand, streets=(acts,)))
    assert found.pots == (Pot(120, (1, 2, 3, 4)), Pot(90, (2, 3, 4)), Pot(80, (2, 4)))
    assert (found.returned.seat, found.returned.amount) == (4, 20)


def test_a_single_ante_is_the_main_pots():
    hand = table(stacks=(1000, 1000, 1000))
    hand = dataclasses.replace(hand, table=dataclasses.replace(hand.table, button=3))
    hand = dataclasses.replace(hand, posts=(Post(2, PostKind.ANTE, 10), *hand.posts))
    found = replay(dataclasses.replace(hand, streets=((Act(3, CALL, 10), Act(1, FOLD), Act(2, CHECK)),)))
    assert found.pots == (Pot(35, (2, 3)),) and found.returned is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: {"rake": 1}, "chips before the hand"),
        (lambda h: {"seats": (*h.seats, h.seats[0])}, "there twice"),
        (lambda h: {"boards": ((1, 2, 3),)}, "1 streets, but 3 public cards"),
        (lambda h: {"returned": None}, "uncalled bet"),
        (lambda h: {"results": (dataclasses.replace(h.results[0], seat=2),)}, "folds and collects"),
        (lambda h: {"holes": (dataclasses.replace(h.results[1], cards=(1,)),)}, "hole cards"),
        (lambda h: {"streets": ((Act(2, FOLD),),)}, "it is seat 1's turn"),
        (lambda h: {"streets": ((Act(1, CHECK),),)}, "5 to call"),
        (lambda h: {"streets": ((Act(1, BET, 30),),)}, "but the bet is 10"),
        (lambda h: {"streets": ((Act(1, CALL, 5),),)}, "the hand ends while"),
        (lambda h: {"posts": (dataclasses.replace(h.posts[0], seat=9),)}, "not in the hand"),
    ],
)
def test_what_validate_refuses(change, message):
    hand = parse(texts.OLD)
    with pytest.raises(HandError, match=message):
        validate(dataclasses.replace(hand, **change(hand)))
