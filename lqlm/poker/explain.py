"""A decision explained by its facts: sentences out of :class:`lqlm.poker.facts.Facts`, and of nothing else.

Whether a text, whoever wrote it, keeps to the facts is for :func:`lqlm.poker.claims.check_facts` to say.
"""

from decimal import Decimal

from lqlm.poker.cards import DECK
from lqlm.poker.facts import STREETS, Facts

SUITS = dict(zip("cdhs", "♣♦♥♠"))


def show_cards(numbers: tuple[int, ...]) -> str:
    """Cards with the signs of their suits.

    >>> show_cards((50, 45))
    'A♥ K♦'
    """
    return " ".join(DECK[n][0] + SUITS[DECK[n][1]] for n in numbers)


def show_amount(value: Decimal) -> str:
    """Big blinds with one decimal at most.

    >>> show_amount(Decimal("2.50")), show_amount(Decimal(12)), show_amount(Decimal("0.05"))
    ('2.5', '12', '0.1')
    """
    rounded = value.quantize(Decimal("0.1"), rounding="ROUND_HALF_UP")
    return str(int(rounded)) if rounded == int(rounded) else str(rounded)


def explain(facts: Facts) -> tuple[str, ...]:
    """Sentences on a decision, each made of facts and of nothing else.

    Args:
        facts: of the decision.

    Returns:
        The sentences; :func:`lqlm.poker.claims.check_facts` finds nothing in them.
    """
    return tuple(filter(None, (part(facts) for part in (_hand, _place, _money, _equity, _odds, _policy))))


def _hand(facts: Facts) -> str:
    if not facts.street:
        shape = {True: ", suited", False: ", offsuit", None: ""}[facts.suited] if facts.made != "pair" else ", a pair"
        return f"You hold {show_cards(facts.cards)} before the flop{shape}."
    draws = f", with {' and '.join(facts.draws)}" if facts.draws else ""
    outs = f"; {_count(facts.outs, 'out')}" if facts.outs else ""
    where = f"{STREETS[facts.street]}, {show_cards(facts.board)}"
    return f"You hold {show_cards(facts.cards)} on {where}: {facts.made}{draws}{outs}."


def _place(facts: Facts) -> str:
    if facts.raiser:
        noun, verb = ("raise", "raised last") if facts.raises > 1 or not facts.street else ("bet", "bet")
        times = _count(facts.raises, noun)
        last = f"seat {facts.raiser}, {at_position(facts.raiser_position)}, {verb} ({times} on this street)"
    else:
        last = "nobody has raised" if not facts.street else "nobody has bet"
    return f"You are {at_position(facts.position)} against {_count(facts.opponents, 'opponent')}; {last}."


def at_position(position: str) -> str:
    """Where somebody sits.

    >>> at_position("button"), at_position("cutoff"), at_position("under the gun")
    ('on the button', 'in the cutoff', 'under the gun')
    """
    if position in ("under the gun", "middle position"):
        return "under the gun" if position == "under the gun" else "in middle position"
    return f"{'on' if position == 'button' else 'in'} the {position}"


def _money(facts: Facts) -> str:
    call = f"a call costs {_bb(facts.call)}" if facts.call else "there is nothing to call"
    part = f", of which you can win {_bb(facts.winnable)}" if facts.winnable < facts.pot and facts.call else ""
    spr = f"a stack-to-pot ratio of {show_amount(facts.spr)}"
    return f"The pot is {_bb(facts.pot)}{part}, and {call}; the effective stack is {_bb(facts.effective)}, {spr}."


def _bb(value: Decimal) -> str:
    return f"{show_amount(value)} bb"


def _equity(facts: Facts) -> str:
    if facts.equity is None:
        return ""
    return f"Your equity is {percent(facts.equity)}, give or take {percent(facts.margin)}, against {facts.against}."


def _odds(facts: Facts) -> str:
    if facts.needed is None:
        return ""
    need = f"To break even a call needs {percent(facts.needed)}"
    if not facts.relation:
        return f"{need}."
    return f"{need}: your equity is {facts.relation} that{', too near to tell' if facts.relation == 'near' else ''}."


def _policy(facts: Facts) -> str:
    said = ", ".join(f"{name} {percent(chance)}" for name, chance in facts.policy)
    return f"The model says {said}." if said else ""


def percent(share: float) -> str:
    """A share of 0..1 in whole percent.

    >>> percent(0.526)
    '53%'
    """
    return f"{100 * share:.0f}%"


def _count(number: int | None, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
