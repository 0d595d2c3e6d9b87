"""A table as text for the terminal: what happened, where the hand stands, what may be done, and advice."""

from decimal import Decimal

from experiments.poker.advice import Advice
from experiments.poker.play_game import PlayedTable, bb, final_pot, name_of, shown_cards
from lqlm.poker import cards
from lqlm.poker.arena.observation import Observation
from lqlm.poker.explain import SUITS
from lqlm.poker.facts import position_of
from lqlm.poker.record import Act, Hand, collected
from lqlm.poker.replay import BOARD_CARDS

SHORT = 'Type "help" for what can be typed, "?" for advice, "quit" to leave.'
STREETS = ("Before the flop", "Flop", "Turn", "River")
HELP = (
    "fold (f)           give the hand up",
    "check (k), call (c)",
    "bet 3, raise 9 (r 9)  to a total of so many big blinds on this street",
    "pot (p), all-in (a)   a raise by the pot, a raise by everything",
    "?                  equity, pot odds, the model's probabilities and an explanation",
    "quit (q)           leave; so do Ctrl-C and Ctrl-D",
)


def help_text() -> str:
    """What can be typed."""
    return "\n".join(f"  {line}" for line in HELP)


def what_happened(table: PlayedTable) -> list[str]:
    """All lines of a hand so far, for the person: what was decided, public cards, and how it ended."""
    seen, over = table.seen, table.over
    assert seen or over
    hand = seen.hand if seen else over.hand  # type: ignore[union-attr]
    big, own = hand.big_blind, next(hole.cards for hole in hand.holes)
    lines = [f"\nHand {table.number}: you hold {cards.text(own)}"]
    for street, acts in enumerate(hand.streets):
        if street:
            lines.append(f"{STREETS[street]}: {cards.text(hand.boards[0][: BOARD_CARDS[street]])}")
        lines += [f"  {_did(table, act, big)}" for act in acts]
    return lines + ([*table.notes, *_ending(table, hand, big)] if over else [])


def _did(table: PlayedTable, act: Act, big: int) -> str:
    amount = {"calls": f" {bb(act.amount, big)} bb", "bets": f" {bb(act.amount, big)} bb"}
    amount["raises"] = f" to {bb(act.amount, big)} bb"
    verb = act.kind.value.removesuffix("s") if act.seat == 1 else act.kind.value
    return f"{table.names[act.seat]} {verb}{amount.get(act.kind.value, '')}{', all-in' if act.all_in else ''}"


def _ending(table: PlayedTable, hand: Hand, big: int) -> list[str]:
    assert table.over is not None
    shown = [
        f"  {table.names[seat]} shows {cards.text(held)}" if seat != 1 else f"  You show {cards.text(held)}"
        for seat, held in shown_cards(hand).items()
    ]
    won = [
        f"  {table.names[seat]} win{'s' * (seat != 1)} {bb(amount, big)} bb" for seat, amount in collected(hand).items()
    ]
    hands = f"{table.number} hand{'s' * (table.number > 1)}"
    return [
        *shown,
        *won,
        f"  Pot {bb(final_pot(hand), big)} bb. This hand {signed(table.over.chips, big)} bb, "
        f"after {hands} {signed(table.won, big)} bb",
    ]


def signed(chips: int, big: int) -> str:
    """A result in big blinds with its sign.

    >>> signed(250, 100), signed(0, 100), signed(-100, 100)
    ('+2.5', '0', '-1')
    """
    return f"{'+' * (chips > 0)}{bb(chips, big)}"


def where_we_are(table: PlayedTable) -> str:
    """The table and what may be done, when it is the person's turn."""
    seen = table.seen
    assert seen is not None
    big, order = seen.opening.big_blind, list(seen.stacks)
    board = f"  {cards.text(seen.board)}" if seen.board else ""
    lines = [f"{STREETS[seen.street]}{board}   pot {bb(seen.pot, big)} bb"]
    for seat in order:
        place = position_of(order.index(seat), len(order))
        stack = f"{bb(seen.stacks[seat], big):>7} bb"
        bet = f"  in front {bb(seen.bets[seat], big)} bb" if seen.bets[seat] else ""
        mark = "folded" if seat not in seen.live else cards.text(seen.cards) if seat == 1 else ""
        lines.append(f"  {'>' if seat == 1 else ' '} {table.names[seat]:18} {place:16}{stack}  {mark}{bet}".rstrip())
    return "\n".join([*lines, f"You can {', '.join(may(seen))}"])


def may(seen: Observation) -> list[str]:
    """What may be done, in words."""
    big, legal = seen.opening.big_blind, seen.legal
    words = ["fold", f"call {bb(legal.call, big)} bb"] if legal.call else ["check"]
    if legal.most:
        word = "raise to" if seen.bet else "bet"
        least, most = bb(legal.least, big), bb(legal.most, big)
        words.append(f"{word} {least} bb" if least == most else f"{word} {least}..{most} bb")
    return words


def advice_text(advice: Advice, big: int) -> str:
    """Probabilities with bars, and the sentences."""
    lines = [
        f"  {name_of(act, big):18} {chance:6.1%}  {'#' * round(30 * chance)}".rstrip() for act, chance in advice.acts
    ]
    if advice.call_value is not None:
        value = Decimal(advice.call_value / big).quantize(Decimal("0.01"))
        lines.append(f"  A call is worth {value:+} bb more than a fold, if nobody bets any more.")
    letters = str.maketrans({sign: letter for letter, sign in SUITS.items()})
    return "\n".join([*(f"  {sentence.translate(letters)}" for sentence in advice.sentences), *lines])


def end_text(table: PlayedTable) -> str:
    """The result when the person leaves."""
    count = len(table.hands)
    rate = f", {signed(round(table.won / count), table.rules.big)} bb a hand" if count else ""
    return f"{count} hand{'s' * (count != 1)} played: {signed(table.won, table.rules.big)} bb{rate}. Good-bye."
