"""Record -> PokerStars text, as the site writes it."""

from lqlm.poker import cards
from lqlm.poker.amounts import with_symbol
from lqlm.poker.pokerstars_header import write_header, write_seat, write_table
from lqlm.poker.record import (
    Act,
    ActKind,
    Collected,
    Hand,
    HandError,
    Mucked,
    Post,
    PostKind,
    Result,
    Shown,
    collected,
    player_of,
)
from lqlm.poker.replay import big_blind_seat, in_hand

_STREETS = ("before Flop", "on the Flop", "on the Turn", "on the River")
_MARKS = ("FLOP", "TURN", "RIVER")
_ORDINALS = ("FIRST", "SECOND")


def render(hand: Hand) -> str:
    """The text of a hand; ``parse(render(hand)) == hand`` for a hand of this site.

    Raises:
        HandError: when a player neither folds nor wins nor shows nor mucks.
    """
    lines = [write_header(hand), write_table(hand)]
    lines += [write_seat(seat, hand.money) for seat in hand.seats]
    lines += [_post(hand, post) for post in hand.posts]
    lines += ["*** HOLE CARDS ***"]
    names = player_of(hand)
    lines += [f"Dealt to {names[hole.seat]} [{cards.text(hole.cards)}]" for hole in hand.holes]
    lines += _betting(hand) + _showdown(hand)
    lines += [f"{finish.player} {finish.words}" for finish in hand.finishes]
    return "\n".join(lines + _summary(hand)) + "\n"


def _post(hand: Hand, post: Post) -> str:
    said = f"{player_of(hand)[post.seat]}: posts {post.kind} {with_symbol(post.amount, hand.money)}"
    return said + _end(hand, post.all_in, False)


def _end(hand: Hand, all_in: bool, capped: bool) -> str:
    cap = f" and has reached the {with_symbol(hand.stakes.cap, hand.money)} cap" if capped else ""
    return cap + (" and is all-in" if all_in else "")


def _betting(hand: Hand) -> list[str]:
    lines, names = [], player_of(hand)
    level = _opening(hand)
    put = {post.seat: 0 for post in hand.posts}
    for post in hand.posts:
        put[post.seat] += _live(hand, post)
    before: dict[int, int] = {}
    shared = _shared(hand)
    for street, acts in enumerate(hand.streets):
        if street and street + 2 <= shared:
            lines.append(_mark(hand, street, 0, ""))
        for act in acts:
            said, level = _act(hand, act, level, put, before)
            lines.append(f"{names[act.seat]}: {said}")
        for seat, added in put.items():
            before[seat] = before.get(seat, 0) + added
        level, put = 0, {}
        if hand.returned and not any(hand.streets[street + 1 :]) and not any("Uncalled" in line for line in lines):
            amount = with_symbol(hand.returned.amount, hand.money)
            lines.append(f"Uncalled bet ({amount}) returned to {names[hand.returned.seat]}")
    return lines + _second(hand, shared)


def _live(hand: Hand, post: Post) -> int:
    if post.kind is PostKind.ANTE:
        return 0
    return min(post.amount, hand.big_blind) if post.kind is PostKind.BOTH else post.amount


def _opening(hand: Hand) -> int:
    """The bet before the first decision."""
    kinds = {post.kind for post in hand.posts}
    big = hand.big_blind if kinds & {PostKind.BIG, PostKind.BOTH} else 0
    return max([big, *(_live(hand, post) for post in hand.posts)])


def _act(hand: Hand, act: Act, level: int, put: dict[int, int], before: dict[int, int]) -> tuple[str, int]:
    """The words of a decision, and the bet after it."""
    money, own = hand.money, put.get(act.seat, 0)
    if act.kind in (ActKind.FOLD, ActKind.CHECK):
        return act.kind.value, level
    put[act.seat] = own + act.amount if act.kind is ActKind.CALL else act.amount
    capped = bool(hand.stakes.cap) and before.get(act.seat, 0) + put[act.seat] == hand.stakes.cap
    end = _end(hand, act.all_in, capped)
    if act.kind is ActKind.RAISE:
        said = f"raises {with_symbol(act.amount - level, money)} to {with_symbol(act.amount, money)}{end}"
        return said, act.amount
    return f"{act.kind} {with_symbol(act.amount, money)}{end}", act.amount if act.kind is ActKind.BET else level


def _shared(hand: Hand) -> int:
    """How many public cards all boards share."""
    if not hand.ran_twice:
        return len(hand.boards[0])
    first, second = hand.boards
    return next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), len(first))


def _mark(hand: Hand, street: int, board: int, ordinal: str) -> str:
    held = hand.boards[board]
    old = f" [{cards.text(held[: street + 1])}]" if street > 1 else ""
    new = held[:3] if street == 1 else held[street + 1 : street + 2]
    return f"*** {ordinal}{_MARKS[street - 1]} ***{old} [{cards.text(new)}]"


def _second(hand: Hand, shared: int) -> list[str]:
    """The streets of two boards after they part."""
    if not hand.ran_twice:
        return []
    apart = [street for street in (1, 2, 3) if street + 2 > shared]
    return [_mark(hand, street, board, f"{_ORDINALS[board]} ") for board in (0, 1) for street in apart]


def _showdown(hand: Hand) -> list[str]:
    lines, names, at = [], player_of(hand), -1
    at_showdown = _is_showdown(hand)
    for result in hand.results:
        board = getattr(result, "board", 0)
        if at_showdown and board != at:
            lines.append(f"*** {_ORDINALS[board]} SHOW DOWN ***" if hand.ran_twice else "*** SHOW DOWN ***")
            at = board
        lines.append(_result(hand, result, names))
    return lines


def _is_showdown(hand: Hand) -> bool:
    folded = {act.seat for acts in hand.streets for act in acts if act.kind is ActKind.FOLD}
    return len(set(in_hand(hand)) - folded) > 1


def _result(hand: Hand, result: Result, names: dict[int, str]) -> str:
    name = names[result.seat]
    if isinstance(result, Collected):
        return f"{name} collected {with_symbol(result.amount, hand.money)} from {result.pot}"
    if isinstance(result, Shown):
        return f"{name}: shows [{cards.text(result.cards)}]" + (f" ({result.text})" if result.text else "")
    return f"{name}: mucks hand" if isinstance(result, Mucked) else f"{name}: doesn't show hand"


def _summary(hand: Hand) -> list[str]:
    taken = [result for result in hand.results if isinstance(result, Collected)]
    total = with_symbol(sum(result.amount for result in taken) + hand.rake, hand.money)
    line = f"Total pot {total}{_pots(hand, taken)} | Rake {with_symbol(hand.rake, hand.money)}"
    lines = ["*** SUMMARY ***", line]
    if hand.ran_twice:
        lines += ["Hand was run twice"]
        lines += [f"{word} Board [{cards.text(board)}]" for word, board in zip(_ORDINALS, hand.boards)]
    elif hand.boards[0]:
        lines.append(f"Board [{cards.text(hand.boards[0])}]")
    return lines + [f"Seat {seat.number}: {_fate(hand, seat.number)}" for seat in hand.seats]


def _pots(hand: Hand, taken: list[Collected]) -> str:
    """ " Main pot $3. Side pot $2." where there is more than one pot."""
    sums: dict[str, int] = {}
    for result in taken:
        sums[result.pot] = sums.get(result.pot, 0) + result.amount
    if len(sums) < 2:
        return ""
    return "".join(f" {pot.capitalize()} {with_symbol(sums[pot], hand.money)}." for pot in sorted(sums))


def _fate(hand: Hand, seat: int) -> str:
    """The summary's words on a seat."""
    who = player_of(hand)[seat] + "".join(f" ({word})" for word in _positions(hand, seat))
    won = collected(hand).get(seat)
    shown = [r for r in hand.results if isinstance(r, Shown) and r.seat == seat]
    if shown and len(shown[0].cards) < hand.game.hole_cards:
        return f"{who} mucked [{cards.text(shown[0].cards)}]"
    if shown and _is_showdown(hand):
        return f"{who} showed [{cards.text(shown[0].cards)}] and {_outcome(hand, seat, shown)}"
    if won is not None:
        return f"{who} collected ({with_symbol(won, hand.money)})"
    mucked = next((r for r in hand.results if isinstance(r, Mucked) and r.seat == seat), None)
    if mucked:
        return f"{who} mucked" + (f" [{cards.text(mucked.cards)}]" if mucked.cards else "")
    return f"{who} {_folded(hand, seat)}"


def _outcome(hand: Hand, seat: int, shown: list[Shown]) -> str:
    parts = []
    for show in shown:
        won = sum(
            r.amount for r in hand.results if isinstance(r, Collected) and r.seat == seat and r.board == show.board
        )
        words = f" with {show.text}" if show.text else ""
        parts.append((f"won ({with_symbol(won, hand.money)})" if won else "lost") + words)
    return ", and ".join(parts)


def _positions(hand: Hand, seat: int) -> list[str]:
    small = next((post.seat for post in hand.posts if post.kind is PostKind.SMALL), None)
    places = {"button": hand.table.button, "small blind": small, "big blind": big_blind_seat(hand)}
    return [word for word, place in places.items() if place == seat]


def _folded(hand: Hand, seat: int) -> str:
    for street, acts in enumerate(hand.streets):
        if any(act.seat == seat and act.kind is ActKind.FOLD for act in acts):
            paid = any(act.seat == seat and act.amount for acts in hand.streets for act in acts)
            blind = any(post.seat == seat and post.kind is not PostKind.ANTE for post in hand.posts)
            return f"folded {_STREETS[street]}" + ("" if paid or blind else " (didn't bet)")
    if seat not in in_hand(hand):
        return "is sitting out"
    raise HandError(f"seat {seat} neither folds nor wins nor shows nor mucks")
