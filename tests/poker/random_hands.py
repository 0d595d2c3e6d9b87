"""Random legal hands of every game, limit and table, whose winners are drawn by lot or by a given rule."""

import dataclasses
import datetime
import random
from collections.abc import Callable, Sequence

from lqlm.poker.record import (
    Act,
    ActKind,
    Collected,
    Finish,
    Game,
    Hand,
    Hole,
    Limit,
    Money,
    Mucked,
    Post,
    PostKind,
    Result,
    Seat,
    Shown,
    Stakes,
    Table,
    Time,
    Tournament,
    Unshown,
)
from lqlm.poker.replay import BOARD_CARDS, act, begin, in_hand, legal, live, next_street, outcome
from lqlm.poker.units import canonical

NAMES = ("Ada", "Bo b", "c: d", "[Dot]", "E (1)", "fé", "g'h", "said, no", "Zed folds", "x.y-z", "$tack", "l33t")
Winners = Callable[[Hand, tuple[int, ...], int], Sequence[int]]
"""Who wins a pot: the hand with all hole cards, the seats that may win, which board."""


def random_hand(seed: int, winners: Winners | None = None, **fixed: object) -> Hand:
    """A hand of a seed; ``fixed`` sets game, limit, money, unit, extras (antes, straddles and the like) or twice."""
    draw = random.Random(seed)
    hand = _table(draw, fixed)
    deck = draw.sample(range(52), 52)
    seats, count = in_hand(hand), hand.game.hole_cards
    held = {seat: tuple(deck.pop() for _ in range(count)) for seat in seats}
    hand = _play(draw, hand, deck)
    if hand.streets and len(hand.boards[0]) == 5 and fixed.get("twice", not hand.tournament and draw.random() < 0.3):
        hand = _run_twice(draw, hand, deck)
    everything = dataclasses.replace(hand, holes=tuple(Hole(seat, held[seat]) for seat in sorted(held)))
    hand = dataclasses.replace(hand, returned=outcome(hand).returned)
    hand = _results(
        draw,
        hand,
        everything,
        winners or (lambda hand, able, board: draw.sample(able, draw.choice([1, 1, 2]) if len(able) > 1 else 1)),
        fixed,
    )
    known = fixed.get("known", draw.choice(["all", "hero", "none"]))
    shown = {"all": sorted(held), "hero": seats[:1], "none": []}[str(known)]
    hand = dataclasses.replace(hand, holes=tuple(Hole(seat, held[seat]) for seat in shown))
    return canonical(hand)


def _table(draw: random.Random, fixed: dict[str, object]) -> Hand:
    game, limit = fixed.get("game") or draw.choice(list(Game)), fixed.get("limit") or draw.choice(list(Limit))
    tournament = (
        Tournament("77", "$1+$0.10 USD", "IV", draw.choice(["", "Match Round I"])) if draw.random() < 0.4 else None
    )
    monies = [Money("", "", 0)] if tournament else [Money("USD", "$", 2), Money("EUR", "€", 2), Money("", "", 0)]
    money = fixed.get("money") or draw.choice(monies)
    if fixed.get("money"):
        tournament = None
    unit = int(str(fixed.get("unit") or draw.choice([1, 5, 50])))
    stakes = Stakes(
        unit,
        2 * unit,
        40 * unit
        if fixed.get("extras", True) and limit is Limit.NO_LIMIT and not tournament and draw.random() < 0.2
        else 0,
    )
    players = draw.randint(2, 7)
    numbers = sorted(draw.sample(range(1, 11), players))
    stacks = [unit * draw.choice([1, 3, 10, 40, 200]) + unit * draw.randint(0, 30) for _ in numbers]
    names = draw.sample(NAMES, players)
    seats = [Seat(number, name, stack) for number, name, stack in zip(numbers, names, stacks)]
    if players > 3 and fixed.get("extras", True) and draw.random() < 0.3:
        seats[-1] = dataclasses.replace(seats[-1], status="is sitting out")
    present = [seat.number for seat in seats if not seat.status]
    hand = Hand(
        hand_id=str(draw.randrange(10**12)),
        game=Game(str(game)),
        limit=Limit(str(limit)),
        stakes=stakes,
        money=money,  # type: ignore[arg-type]
        table=Table(
            draw.choice(["Vega", "Isildur's 2", "77 3"]),
            10,
            draw.choice(present),
            not tournament and draw.random() < 0.3,
            money.symbol == "" and not tournament,
        ),  # type: ignore[attr-defined]
        seats=tuple(seats),
        tournament=tournament,
        time=Time(datetime.datetime(2020, 2, 3, 4, 5, 6), "ET"),
        mixed=draw.choice(["", "", "8-Game"]),
    )
    return dataclasses.replace(hand, posts=_posts(draw, hand, bool(fixed.get("extras", True))))


def _posts(draw: random.Random, hand: Hand, extras: bool) -> tuple[Post, ...]:
    order, left = in_hand(hand), {seat.number: seat.stack for seat in hand.seats}
    big = hand.big_blind
    small_seat, big_seat = (order[1], order[0]) if len(order) == 2 else (order[0], order[1])
    wanted = [(small_seat, PostKind.SMALL, max(big // 2, 1)), (big_seat, PostKind.BIG, big)]
    if extras and len(order) > 3 and draw.random() < 0.3:
        kind = draw.choice([PostKind.STRADDLE, PostKind.BIG, PostKind.BOTH])
        amount = {PostKind.STRADDLE: 2 * big, PostKind.BIG: big, PostKind.BOTH: big + max(big // 2, 1)}[kind]
        wanted.append((order[2 if kind is PostKind.STRADDLE else 3], kind, amount))
    if extras and draw.random() < 0.4:
        ante = max(big // 4, 1)
        wanted = [(seat, PostKind.ANTE, ante) for seat in order] + wanted
    posts = []
    for seat, kind, amount in wanted:
        amount = min(amount, left[seat])
        left[seat] -= amount
        if amount:
            posts.append(Post(seat, kind, amount, left[seat] == 0 and not hand.stakes.cap))
    return tuple(posts)


def _play(draw: random.Random, hand: Hand, deck: list[int]) -> Hand:
    state, streets, board = begin(hand), [list[Act]()], list[int]()
    for street in range(4):
        if street:
            next_street(state)
            streets.append([])
            while len(board) < BOARD_CARDS[street]:
                board.append(deck.pop())
        while state.waiting:
            item = _choose(draw, state)
            act(state, item)
            streets[-1].append(item)
        if len(live(state)) == 1:
            break
    return dataclasses.replace(hand, streets=tuple(map(tuple, streets)), boards=(tuple(board),))


def _choose(draw, state) -> Act:
    seat, allowed = state.waiting[0], legal(state)
    own, stack = state.bets[seat], state.stacks[seat]
    no_flag = bool(state.hand.stakes.cap)
    if allowed.most and draw.random() < 0.25:
        total = draw.choice([allowed.least, allowed.most, draw.randint(allowed.least, allowed.most)])
        kind = ActKind.RAISE if state.bet else ActKind.BET
        return Act(seat, kind, total, total - own == stack and not no_flag)
    if not allowed.call:
        return Act(seat, ActKind.CHECK)
    if draw.random() < 0.35:
        return Act(seat, ActKind.FOLD)
    return Act(seat, ActKind.CALL, allowed.call, allowed.call == stack and not no_flag)


def _run_twice(draw: random.Random, hand: Hand, deck: list[int]) -> Hand:
    """A second board from the first street without decisions on."""
    last = max((street for street, acts in enumerate(hand.streets) if acts), default=0)
    if last == 3 or len(outcome(hand).pots[0].seats) < 2:
        return hand
    kept = hand.boards[0][: BOARD_CARDS[last]]
    return dataclasses.replace(hand, boards=(hand.boards[0], kept + tuple(deck.pop() for _ in range(5 - len(kept)))))


def _results(draw, hand: Hand, everything: Hand, winners: Winners, fixed: dict[str, object]) -> Hand:
    played = outcome(hand)
    total = sum(pot.amount for pot in played.pots)
    rake = 0 if hand.tournament or fixed.get("no_rake") else min(total // 20, played.pots[0].amount // 4)
    results: list[Result] = []
    held = {hole.seat: hole.cards for hole in everything.holes}
    contested = len(played.pots[0].seats) > 1
    won_by = set[int]()
    for board in range(len(hand.boards)):
        shares = list[Collected]()
        for number, pot in enumerate(played.pots):
            amount = pot.amount - (rake if number == 0 else 0)
            amount = amount // 2 + (amount % 2) * (board == 0) if hand.ran_twice else amount
            lucky = sorted(winners(everything, pot.seats, board))
            name = _pot_name(len(played.pots), number)
            for place, seat in enumerate(lucky):
                share = amount // len(lucky) + (place < amount % len(lucky))
                shares += [Collected(seat, share, name, board)] if share else []
        won_by |= {share.seat for share in shares}
        for seat in played.pots[0].seats if contested else ():
            if seat in {share.seat for share in shares} or draw.random() < 0.5 or fixed.get("show_all"):
                results.append(
                    Shown(
                        seat,
                        held[seat],
                        draw.choice(["a pair of Kings", "HI: a flush (x), Ace high; LO: 8,6,4"]),
                        board,
                    )
                )
            elif not hand.ran_twice:
                part = draw.random() < 0.3
                results.append(Shown(seat, held[seat][:1]) if part else Mucked(seat, draw.choice([(), held[seat]])))
            else:
                results.append(Mucked(seat, (), board))
        results += shares
    if not contested and draw.random() < 0.7:
        seat = played.pots[0].seats[0]
        results.append(draw.choice([Unshown(seat), Shown(seat, held[seat], "high card Ace")]))
    gone = [
        seat for seat in hand.seats if hand.tournament and played.stacks[seat.number] == 0 and seat.number not in won_by
    ]
    ends = tuple(Finish(seat.player, "finished the tournament in 9th place") for seat in gone)
    return dataclasses.replace(hand, results=tuple(results), rake=rake, finishes=ends)


def _pot_name(pots: int, number: int) -> str:
    if pots == 1:
        return "pot"
    if number == 0:
        return "main pot"
    return "side pot" if pots == 2 else f"side pot-{number}"
