"""The answer to a prompt: from a decision to words, from words to a decision."""

import dataclasses
import math
import re
from collections.abc import Sequence
from decimal import Decimal

from lqlm.poker.record import Act, ActKind, HandError
from lqlm.poker.replay import Decision
from lqlm.poker.state import State, word_of

_SAID = re.compile(
    r"(?:You should )?(?:(?P<go>go )?(?P<all>all-in)|(?P<word>fold|check|call|bet|raise)"
    r"(?: (?:to )?(?P<amount>\d+(?:\.\d+)?))?)\.?",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """fold, check, call, bet, raise or all-in; the amount of a bet or the total of a raise, as the prompt writes it."""

    word: str
    amount: Decimal = Decimal(0)


def write_answer(answer: Answer) -> str:
    """The sentence of the paper.

    >>> write_answer(Answer("raise", Decimal("0.50"))), write_answer(Answer("call"))
    ('You should raise to 0.5.', 'You should call.')
    """
    if answer.word == "all-in":
        return "You should go all-in."
    return f"You should {_words(answer, ' to')}."


def write_short(answer: Answer) -> str:
    """The same in as few tokens as possible.

    >>> write_short(Answer("raise", Decimal("0.50"))), write_short(Answer("all-in"))
    ('raise 0.5', 'all-in')
    """
    return _words(answer, "")


def _words(answer: Answer, to: str) -> str:
    text = format(answer.amount, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{answer.word}{to if answer.word == 'raise' else ''} {text}" if answer.amount else answer.word


def read_answer(text: str) -> Answer:
    """The answer in a text: of either form, with spaces around it.

    Raises:
        HandError: when it is none, or a bet without an amount.

    >>> read_answer(" You should raise to 0.5.") == read_answer("raise 0.5")
    True
    """
    found = _SAID.fullmatch(text.strip())
    if not found:
        raise HandError(f"no answer: {text.strip()[:80]!r}")
    if found["all"]:
        return Answer("all-in")
    word = found["word"].lower()
    if (word in ("bet", "raise")) != bool(found["amount"]):
        raise HandError(f"no answer: {text.strip()[:80]!r} (an amount belongs to bet and raise, and to these only)")
    return Answer(word, Decimal(found["amount"] or 0))


def exact_answer(decision: Decision, decimals: int) -> Answer:
    """What the player did, with the amount of the log."""
    act = decision.act
    if act.all_in and act.kind in (ActKind.BET, ActKind.RAISE):
        return Answer("all-in")
    amount = act.amount if act.kind in (ActKind.BET, ActKind.RAISE) else 0
    return Answer(word_of(act), Decimal(amount).scaleb(-decimals))


def chosen_answer(decision: Decision, decimals: int, state: State) -> Answer:
    """What the player did, with the nearest of the prompt's choices (by ratio) for an amount."""
    exact = exact_answer(decision, decimals)
    if exact.word not in ("bet", "raise") or not state.choices:
        return exact
    return Answer(exact.word, nearest(exact.amount, state.choices))


def nearest(amount: Decimal, choices: Sequence[Decimal]) -> Decimal:
    """The choice with the least ``|log(choice / amount)|``, the smaller of two.

    >>> nearest(Decimal(4), [Decimal(1), Decimal(3), Decimal(6)])
    Decimal('3')
    """
    return min(sorted(choices), key=lambda choice: abs(math.log(choice / amount)))


def act_of(answer: Answer, decision: Decision, decimals: int) -> Act:
    """The decision that an answer means at the table.

    Raises:
        HandError: when it is not legal there; the message says what is.
    """
    legal, stack, seat = decision.legal, decision.stacks[decision.seat], decision.seat
    own = decision.bets[seat]
    if answer.word == "fold":
        return Act(seat, ActKind.FOLD)
    if answer.word == "check" and not legal.call:
        return Act(seat, ActKind.CHECK)
    # A stack that does not even cover the bet goes in by a call.
    if (answer.word == "call" or (answer.word == "all-in" and legal.call == stack)) and legal.call:
        return Act(seat, ActKind.CALL, legal.call, legal.call == stack)
    kind = ActKind.RAISE if decision.bet else ActKind.BET
    total = own + stack if answer.word == "all-in" else _units(answer.amount, decimals)
    if answer.word in ("all-in", word_of(Act(seat, kind))) and legal.most and legal.least <= total <= legal.most:
        return Act(seat, kind, total, total == own + stack)
    words = f"call {legal.call}" if legal.call else "check"
    more = f", {kind.value} {legal.least} to {legal.most}" if legal.most else ""
    raise HandError(f"{write_short(answer)!r} is not legal here: fold, {words}{more}")


def _units(amount: Decimal, decimals: int) -> int:
    units = amount.scaleb(decimals)
    if units != units.to_integral_value():
        raise HandError(f"{amount} has more than {decimals} decimals")
    return int(units)
