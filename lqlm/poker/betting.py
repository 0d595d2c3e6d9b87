"""The rules of betting: whose turn it is, what may be done, and what a decision changes."""

import dataclasses

from lqlm.poker.record import Act, ActKind, Hand, HandError, Limit, Post, PostKind, Returned

BOARD_CARDS = (0, 3, 4, 5)
MOST_BETS = 4
"""Bets of a street in fixed limit, the big blind being one, unless it began with two players."""


@dataclasses.dataclass(frozen=True, slots=True)
class Legal:
    """What a player may do: fold always; ``call`` is what a call adds (0: check); raise totals, 0 when not allowed."""

    call: int
    least: int = 0
    most: int = 0


@dataclasses.dataclass(slots=True)
class Betting:
    """The state of a hand while it is played; changed by :func:`post`, :func:`act` and :func:`next_street`."""

    hand: Hand
    order: list[int]
    stacks: dict[int, int]
    bets: dict[int, int]
    live_in: dict[int, int]
    antes: dict[int, int]
    dead: dict[int, int]
    street: int = 0
    bet: int = 0
    step: int = 0
    raises: int = 0
    several: bool = True
    folded: set[int] = dataclasses.field(default_factory=set)
    waiting: list[int] = dataclasses.field(default_factory=list)
    returned: Returned | None = None
    bound: set[int] = dataclasses.field(default_factory=set)

    @property
    def pot(self) -> int:
        """All chips that were put in."""
        return sum(self.dead.values()) + sum(self.antes.values()) + sum(self.live_in.values())


def in_hand(hand: Hand) -> list[int]:
    """Seats that are dealt in, from the left of the button on."""
    busy = {post.seat for post in hand.posts} | {act.seat for acts in hand.streets for act in acts}
    busy |= {hole.seat for hole in hand.holes}
    numbers = sorted(seat.number for seat in hand.seats if not seat.status or seat.number in busy)
    return [n for n in numbers if n > hand.table.button] + [n for n in numbers if n <= hand.table.button]


def begin(hand: Hand) -> Betting:
    """The state before the first decision: blinds and antes are in."""
    order = in_hand(hand)
    zero = dict.fromkeys(order, 0)
    stacks = {seat.number: seat.stack for seat in hand.seats if seat.number in zero}
    state = Betting(hand, order, stacks, dict(zero), dict(zero), dict(zero), dict(zero))
    for item in hand.posts:
        post(state, item)
    # A blind that is all-in for less does not make the price of a call less.
    state.bet = max([hand.big_blind * any(p.kind in _LIVE for p in hand.posts), *state.bets.values()])
    state.step = max(state.bet, hand.big_blind)
    state.waiting = [seat for seat in _after(order, _opener(hand, order)) if state.stacks[seat]]
    state.several = len(order) > 2
    state.raises = int(state.bet > 0)
    _settle(state)
    return state


_LIVE = (PostKind.BIG, PostKind.BOTH, PostKind.STRADDLE, PostKind.BUTTON)


def _opener(hand: Hand, order: list[int]) -> int:
    """The seat whose left neighbour is the first to decide: the last straddle, else the big blind."""
    straddles = [p for p in hand.posts if p.kind in (PostKind.STRADDLE, PostKind.BUTTON)]
    if straddles:
        return max(straddles, key=lambda p: p.amount).seat
    big = big_blind_seat(hand)
    smalls = [p.seat for p in hand.posts if p.kind is PostKind.SMALL]
    return big if big is not None else smalls[0] if smalls else order[-1]


def big_blind_seat(hand: Hand) -> int | None:
    """The seat in the big blind: the first one after the small blind, where others bought in with a blind too."""
    blinds = [p.seat for p in hand.posts if p.kind is PostKind.BIG]
    smalls = [p.seat for p in hand.posts if p.kind is PostKind.SMALL]
    if smalls and len(blinds) > 1:
        return next(seat for seat in _after(in_hand(hand), smalls[0]) if seat in blinds)
    return blinds[0] if blinds else None


def _after(order: list[int], seat: int) -> list[int]:
    """The seats in order, from the left of one on, that one last."""
    start = order.index(seat) + 1
    return order[start:] + order[:start]


def post(state: Betting, item: Post) -> None:
    """Put in a blind, an ante or a straddle."""
    _pay(state, item.seat, item.amount, item.all_in)
    if item.kind is PostKind.ANTE:
        state.antes[item.seat] += item.amount
        return
    live = min(item.amount, state.hand.big_blind) if item.kind is PostKind.BOTH else item.amount
    state.dead[item.seat] += item.amount - live
    _bet(state, item.seat, live)


def _pay(state: Betting, seat: int, amount: int, all_in: bool) -> None:
    if seat not in state.stacks:
        raise HandError(f"seat {seat} is not in the hand")
    left = state.stacks[seat] - amount
    if left < 0 or amount < 0:
        raise HandError(f"seat {seat} puts in {amount} of {state.stacks[seat]}")
    if all_in != (left == 0 and amount > 0) and not state.hand.stakes.cap:  # a cap is said in place of all-in
        raise HandError(f"seat {seat} has {left} left and is {'' if all_in else 'not '}said to be all-in")
    state.stacks[seat] = left


def _bet(state: Betting, seat: int, amount: int) -> None:
    state.bets[seat] += amount
    state.live_in[seat] += amount


def live(state: Betting) -> list[int]:
    """Seats that have not folded."""
    return [seat for seat in state.order if seat not in state.folded]


def legal(state: Betting) -> Legal:
    """What the next player may do."""
    seat = state.waiting[0]
    stack, bet = state.stacks[seat], state.bets[seat]
    call = min(state.bet - bet, stack, _room(state, seat))
    others = any(state.bets[other] + state.stacks[other] > state.bet for other in live(state) if other != seat)
    most = min(bet + stack, _most(state, seat), bet + _room(state, seat))
    capped = state.hand.limit is Limit.FIXED and state.several and state.raises >= MOST_BETS
    if not others or most <= state.bet or seat in state.bound or capped:
        return Legal(call)
    return Legal(call, min(most, _least(state)), most)


def _room(state: Betting, seat: int) -> int:
    """What the cap of a capped game still allows."""
    cap = state.hand.stakes.cap
    return cap - state.live_in[seat] if cap else state.stacks[seat]


def _size(state: Betting) -> int:
    """The bet of fixed limit on this street."""
    return state.hand.stakes.small if state.street < 2 else state.hand.stakes.big


def _least(state: Betting) -> int:
    if state.hand.limit is Limit.FIXED:  # a short all-in may be completed
        return state.bet + _size(state) - state.bet % _size(state)
    return state.bet + state.step


def _most(state: Betting, seat: int) -> int:
    if state.hand.limit is Limit.NO_LIMIT:
        return state.bets[seat] + state.stacks[seat]
    if state.hand.limit is Limit.FIXED:
        return state.bet + _size(state)
    return state.bet + state.pot + (state.bet - state.bets[seat])  # the pot after a call


def act(state: Betting, item: Act) -> None:
    """Take a decision.

    Raises:
        HandError: when it is another player's turn or the rules forbid it.
    """
    take(state, item, turn(state, item))


def turn(state: Betting, item: Act) -> Legal:
    """What may be done by the player whose turn it must be."""
    if not state.waiting or state.waiting[0] != item.seat:
        turn = f"seat {state.waiting[0]}'s" if state.waiting else "nobody's"
        raise HandError(f"seat {item.seat} {item.kind}, but it is {turn} turn")
    return legal(state)


def take(state: Betting, item: Act, allowed: Legal) -> None:
    """Take a decision of the player whose turn it is, when it is among what is allowed."""
    _check(state, item, allowed)
    state.waiting.pop(0)
    if item.kind is ActKind.FOLD:
        state.folded.add(item.seat)
    elif item.kind is ActKind.CALL:
        _pay(state, item.seat, item.amount, item.all_in)
        _bet(state, item.seat, item.amount)
    elif item.kind in (ActKind.BET, ActKind.RAISE):
        _raise(state, item)
    state.bound.add(item.seat)
    if len(state.order) - len(state.folded) == 1:
        state.waiting = []
    _settle(state)


def _check(state: Betting, item: Act, allowed: Legal) -> None:
    to_call = state.bet - state.bets[item.seat]
    said = f"seat {item.seat} {item.kind} {item.amount}"
    if item.kind is ActKind.CHECK and to_call:
        raise HandError(f"{said.removesuffix(' 0')}, but there are {to_call} to call")
    if item.kind is ActKind.CALL and (not to_call or item.amount != allowed.call):
        raise HandError(f"{said}, but a call is {allowed.call}")
    if item.kind in (ActKind.BET, ActKind.RAISE):
        if (item.kind is ActKind.BET) != (state.bet == 0):
            raise HandError(f"{said}, but the bet is {state.bet}")
        # A raise to the whole stack may be short; a short all-in of another before does not bind logs strictly.
        short = item.all_in and item.amount > state.bet
        if not (allowed.least <= item.amount or short) or item.amount > allowed.most:
            raise HandError(f"{said}, but allowed is {allowed.least} to {allowed.most}")


def _raise(state: Betting, item: Act) -> None:
    added = item.amount - state.bets[item.seat]
    _pay(state, item.seat, added, item.all_in)
    _bet(state, item.seat, added)
    grown = item.amount - state.bet
    state.raises += 1
    if grown >= state.step or state.hand.limit is Limit.FIXED:
        state.step, state.bound = max(grown, state.step), set()
    state.bet = item.amount
    state.waiting = [s for s in _after(state.order, item.seat)[:-1] if s not in state.folded and state.stacks[s]]


def next_street(state: Betting) -> None:
    """Deal the next street."""
    if state.waiting:
        raise HandError(f"a card is dealt while it is seat {state.waiting[0]}'s turn")
    give_back(state)
    state.street += 1
    state.bet, state.step = 0, state.hand.big_blind
    state.bets, state.bound = dict.fromkeys(state.order, 0), set()
    able = [seat for seat in live(state) if state.stacks[seat] and _room(state, seat)]
    state.waiting = able if len(able) > 1 else []
    state.several, state.raises = len(live(state)) > 2, 0
    _settle(state)


def _settle(state: Betting) -> None:
    """Let those pass who need not decide: all others are all-in and the bet is met."""
    if state.hand.stakes.cap:
        state.waiting = [s for s in state.waiting if _room(state, s)]
    if len(state.waiting) != 1:
        return
    able = [s for s in live(state) if state.stacks[s] and _room(state, s)]
    if len(able) == 1 and state.waiting == able:
        others = [state.bets[s] for s in live(state) if s != able[0]]
        if not others or state.bets[able[0]] >= max(others):
            state.waiting = []


def give_back(state: Betting) -> None:
    """Give back the part of the greatest bet that nobody matched; no betting can follow it."""
    back = _uncalled(state)
    if back:
        state.returned = back
        state.stacks[back.seat] += back.amount
        state.live_in[back.seat] -= back.amount
        state.bets[back.seat] -= back.amount


def _uncalled(state: Betting) -> Returned | None:
    by_size = sorted(state.bets.items(), key=lambda item: -item[1])
    rest = by_size[1][1] if len(by_size) > 1 else 0
    seat, bet = by_size[0]
    return Returned(seat, bet - rest) if bet > rest else None
