"""What a text claims about a decision, held against its facts.

Looked at are numbers, cards, hand categories, draws, streets, positions, seats and comparisons.
"""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal

from lqlm.poker.cards import CATEGORIES, DECK
from lqlm.poker.explain import SUITS, at_position, percent
from lqlm.poker.facts import POSITIONS, STREETS, Facts

_DRAWS = (
    "backdoor flush draw",
    "flush draw",
    "open-ended straight draw",
    "gutshot",
    "straight draw",
    "overcards",
)
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_UNITS = r"%|percent\b|bb\b|big blinds?\b|outs?\b|opponents?\b|raises?\b|bets?\b"
_SPELLED = re.compile(rf"\b({'|'.join(_WORDS)})(?= (?:{_UNITS}))", re.IGNORECASE)
_NUMBER = re.compile(rf"(?<![\w.])([+-]?\d+(?:,\d{{3}})*(?:\.\d+)?)\s*({_UNITS})?", re.IGNORECASE)
_SAYS = re.compile(
    r"\b(fold|check|call|all-in(?: for \d+(?:\.\d+)? bb)?|(?:bet|raise to) \d+(?:\.\d+)? bb):? (\d+(?:\.\d+)?)%"
)
_SEAT = re.compile(rf"\bseat (\d+)(?:(?:,| is)? (?:(?:on|in) (?:the )?)?({'|'.join(POSITIONS)}))?", re.IGNORECASE)
_OWN_PLACE = re.compile(rf"\byou are (?:(?:on|in) )?(?:the )?({'|'.join(POSITIONS)})", re.IGNORECASE)
_CARD = re.compile(r"(?<!\w)([2-9TJQKA])([cdhs♣♦♥♠])(?!\w)")

_Values = Callable[[Facts], list[float | Decimal | int | None]]
# A number belongs to the last of these words before it that can have its unit.
_QUANTITIES: dict[str, list[tuple[str, _Values]]] = {
    "%": [
        (r"give or take|margin|±|\+/-", lambda f: [f.margin if f.equity is not None else None]),
        (r"equity", lambda f: [f.equity]),
        (r"needs?\b|needed|pot odds|break(?:s|ing)? even", lambda f: [f.needed]),
        (r"model|probabilit(?:y|ies)", lambda f: [chance for _, chance in f.policy]),
    ],
    "bb": [
        (r"effective stack", lambda f: [f.effective]),
        (r"stack", lambda f: [f.stack, f.effective]),
        (r"\bwin\b", lambda f: [f.winnable]),
        (r"\bpot\b(?! odds)", lambda f: [f.pot]),
        (r"\bcall(?:s|ing)?\b|\bcosts?\b", lambda f: [f.call]),
    ],
    "outs": [(r"", lambda f: [f.outs])],
    "opponents": [(r"", lambda f: [f.opponents])],
    "raises": [(r"", lambda f: [f.raises])],
    "": [(r"stack-to-pot(?: ratio)?|\bSPR\b", lambda f: [f.spr])],
}
_UNIT_OF = {
    "percent": "%",
    "big blind": "bb",
    "out": "outs",
    "opponent": "opponents",
    "raise": "raises",
    "bet": "raises",
}


def check_facts(text: str, facts: Facts) -> tuple[str, ...]:
    """What a text says of a decision that its facts do not hold.

    Looked at are all numbers (a number belongs to the last word before it that names a quantity of its unit: "equity",
    "needs", "pot", "call", "effective stack", ..; it may be rounded to the decimals that it is written with), cards,
    hand categories, draws, streets, positions, seats, "suited" and "offsuit", whether anybody has bet, and whether the
    equity is more or less than what a call needs.  "no" or "not a" before a category or draw denies it.  What is said
    in other words is not looked at.

    Args:
        text: any.
        facts: of the decision.

    Returns:
        One line for each claim, empty when all of them hold.

    >>> from lqlm.poker.cards import cards
    >>> known = Facts(1, cards("AhKh"), cards("Qh7h2c"), "high card", True, ("flush draw",), 9, "button", 1,
    ...     Decimal(6), Decimal(6), Decimal(2), Decimal(90), Decimal(90), needed=0.25, equity=0.5)
    >>> check_facts("Nine outs, an equity of 50% and a call that needs 25%.", known)
    ()
    >>> check_facts("You have a gutshot and an equity of 60%.", known)
    ('"60%": equity is 50%', '"gutshot" is not so')
    """
    left = text.replace(facts.against, " ") if facts.against else text
    found: list[str] = []
    for step in (_check_policy, _check_seats, _check_cards):
        left, wrong = step(left, facts)
        found += wrong
    left = _SPELLED.sub(lambda m: str(_WORDS.index(m[1].lower())), left)
    for sentence in re.split(r"(?<=[.;!?])\s+", left):
        found += _check_numbers(sentence, facts)
        found += _check_relation(sentence, facts)
    return (*found, *_check_words(left, facts))


def _check_policy(text: str, facts: Facts) -> tuple[str, list[str]]:
    """Probabilities of decisions, "call 30%"."""
    chances = dict(facts.policy)
    wrong = [
        f'"{m[0]}": the model says {percent(chances[m[1]]) if m[1] in chances else "nothing of it"}'
        for m in _SAYS.finditer(text)
        if m[1] not in chances or not _same(m[2], 100 * chances[m[1]])
    ]
    return _SAYS.sub(" ", text), wrong


def _check_seats(text: str, facts: Facts) -> tuple[str, list[str]]:
    last = f"seat {facts.raiser}, {facts.raiser_position}, raised last" if facts.raiser else "nobody has raised"
    wrong = [
        f'"{m[0]}": {last}'
        for m in _SEAT.finditer(text)
        if int(m[1]) != facts.raiser or not facts.raiser or (m[2] and m[2].lower() != facts.raiser_position)
    ]
    wrong += [
        f'"{m[0]}": you are {at_position(facts.position)}'
        for m in _OWN_PLACE.finditer(text)
        if m[1].lower() != facts.position
    ]
    return _SEAT.sub(" ", _OWN_PLACE.sub(" ", text)), wrong


def _check_cards(text: str, facts: Facts) -> tuple[str, list[str]]:
    known = {DECK[card] for card in (*facts.cards, *facts.board)}
    letters = {sign: letter for letter, sign in SUITS.items()}

    def is_word(match: re.Match[str]) -> bool:  # "As you see": no ace
        return match[0] == "As" and bool(re.match(r"\s+[a-z]{2,}|\s+a\b", text[match.end() :]))

    said = [m for m in _CARD.finditer(text) if not is_word(m)]
    wrong = [f'"{m[0]}": nobody sees this card' for m in said if m[1] + letters.get(m[2], m[2]) not in known]
    return _CARD.sub(" ", text), wrong


def _check_numbers(sentence: str, facts: Facts) -> Iterator[str]:
    for match in _NUMBER.finditer(sentence):
        unit = (match[2] or "").lower()
        unit = _UNIT_OF.get(unit.rstrip("s"), unit)
        name, values = _quantity(sentence[: match.start()], unit)
        scale = 100 if unit == "%" else 1
        known = [scale * value for value in values(facts) if value is not None]
        if not any(_same(match[1], value) for value in known):
            is_what = " or ".join(f"{_plain(value)}{'%' if unit == '%' else ''}" for value in known) or "not known"
            yield f'"{match[0].strip()}": {name or unit or "this"} is {is_what}'


def _quantity(before: str, unit: str) -> tuple[str, _Values]:
    """The quantity that a number of this unit belongs to: the last that is named, else any of the unit."""
    named: list[tuple[int, int, str, _Values]] = []
    for place, (pattern, values) in enumerate(_QUANTITIES[unit]):
        named += [(m.end(), -place, m[0], values) for m in re.finditer(pattern, before, re.IGNORECASE) if pattern]
    if named:
        return max(named, key=lambda one: one[:2])[2:]
    if unit == "":
        return "", lambda f: []
    every = [values for _, values in _QUANTITIES[unit]]
    return "", lambda f: [value for values in every for value in values(f)]


def _same(said: str, value: float | Decimal | int) -> bool:
    """Whether a number as written is the value, rounded to its decimals."""
    decimals = len(said.partition(".")[2])
    return abs(float(said.replace(",", "")) - float(value)) <= 0.5 * 10**-decimals + 1e-9


def _plain(value: float | Decimal | int) -> str:
    return f"{float(value):.4g}"


def _check_relation(sentence: str, facts: Facts) -> Iterator[str]:
    """ "Your equity is more than that": only where a sentence speaks of the equity."""
    if "equity" not in sentence.lower():
        return
    for said, pattern in (("more than", r"more than|above|exceeds|enough"), ("less than", r"less than|below|short of")):
        for match in re.finditer(rf"\b(not )?({pattern})\b", sentence, re.IGNORECASE):
            if (facts.relation == said) == bool(match[1]):
                yield f'"{match[0]}": the equity is {facts.relation or "not compared with"} what a call needs'


def _check_words(text: str, facts: Facts) -> Iterator[str]:
    """Words that stand for facts, the longest first, so that "flush draw" is no flush."""
    straight = {"straight draw"} if {"open-ended straight draw", "gutshot"} & set(facts.draws) else set()
    flush = {"flush draw"} & set(facts.draws)
    shape = {None: set(), True: {"suited"}, False: {"offsuit"}}[facts.suited]
    places = {facts.position, facts.raiser_position}
    acts = {"nobody has bet", "nobody has raised"} if not facts.raiser else set()
    true = {facts.made, *facts.draws, *straight, *flush, *shape, *places, STREETS[facts.street], *acts}
    for word in _VOCABULARY:
        pattern = re.compile(rf"\b(?:(no|not an?|without an?) )?{re.escape(word)}\b", re.IGNORECASE)
        for match in pattern.finditer(text):
            if (word in true) == bool(match[1]):
                yield f'"{match[0]}" is not so'
        text = pattern.sub(" ", text)


_VOCABULARY = sorted(
    {*CATEGORIES, *_DRAWS, *STREETS, *POSITIONS, "suited", "offsuit", "nobody has bet", "nobody has raised"},
    key=lambda word: -len(word),
)
