"""A terse prompt for small models: a tenth of the tokens of PokerGPT's template, and still everything of the state.

    JsTs sp sp m s s s pot1.5 eq57 odds40 fcr chA
    AhKd As7c2d sp/ mpr9/ sr3c6/ pot19 ...

Amounts are in big blinds.  Cards and board come first, then every seat from the left of the button on, "m" mine and "s"
another's, with its actions as in :mod:`lqlm.poker.compact`; then the pot, the features, the legal words by their first
letters ("k" is check), and the choices, "a" to "h" for :data:`lqlm.poker.state.CHOICES`, first and last of a run,
others as amounts, and "A" for all-in.  What is usual is left out: the header of a no-limit hold'em game of 50/100
without a currency whose seats are numbered from 1 and begin with the small blind; the amount of a blind; and money
that is what is left of 100 big blinds.
"""

import itertools
import re
from collections.abc import Iterator
from decimal import Decimal

from lqlm.poker import cards
from lqlm.poker.compact import ACTION_LETTERS, ACTION_WORDS, GAME_LETTERS, LIMIT_LETTERS, named, plain
from lqlm.poker.record import Game, HandError, Limit
from lqlm.poker.state import CHOICES, Habits, Said, State, View
from lqlm.poker.told import Features, Spot

USUAL = (Game.HOLDEM, Limit.NO_LIMIT, "", Decimal(50), Decimal(100))
STACK = 100
"""Big blinds that a player usually begins with."""
_LEGAL = {"f": "fold", "k": "check", "c": "call", "b": "bet", "r": "raise"}
_MARK = {word: letter for letter, word in _LEGAL.items()}
_RUN = "abcdefgh"


def write_terse(state: State) -> str:
    """The terse prompt of a state."""
    unit = _Unit(state.small, state.big, state.small_blind)
    board = [cards.text(state.board, "")] if state.board else []
    items = [cards.text(state.cards, ""), *board, *_seats(state, unit), f"pot{unit.text(state.pot)}"]
    items += [*_features(state.features, unit), "".join(_MARK[word] for word in state.legal), *_sizes(state, unit)]
    style = [f"style {state.features.style}"] if state.features.style else []
    return "\n".join([*_header(state), " ".join(items), *style])


class _Unit:
    """Amounts in big blinds; one that is no short number of them is written in chips after a "$"."""

    def __init__(self, small: Decimal, big: Decimal, small_blind: int) -> None:
        self.small, self.big, self.small_blind = small, big, small_blind

    def read(self, text: str) -> Decimal:
        """The amount of a text."""
        return Decimal(text[1:]) if text.startswith("$") else Decimal(text) * self.big

    def text(self, amount: Decimal) -> str:
        """The text of an amount."""
        blinds = amount / self.big
        short = blinds.quantize(Decimal("0.001"))
        return plain(short) if short * self.big == amount else f"${plain(amount)}"

    def blind(self, seat: int) -> Decimal:
        """What a seat posts."""
        return self.small if seat == self.small_blind else self.big

    def usual(self, actions: tuple[Said, ...]) -> Decimal:
        """What is left of the usual stack after such actions."""
        return STACK * self.big - sum(_paid(actions).values(), Decimal(0))


def _paid(actions: tuple[Said, ...]) -> dict[int, Decimal]:
    """Street -> chips put in; bets and raises are totals of their street."""
    paid: dict[int, Decimal] = {}
    for said in actions:
        before = Decimal(0) if said.word in ("bet", "raise") else paid.get(said.street, Decimal(0))
        paid[said.street] = before + said.amount
    return paid


def _everything(money: Decimal, actions: tuple[Said, ...], board_cards: int) -> Decimal:
    """The usual total of a bet of everything."""
    return money + _paid(actions).get(max(0, board_cards - 2), Decimal(0))


def _header(state: State) -> list[str]:
    game = (state.game, state.limit, state.currency, state.small, state.big)
    order = tuple(range(1, len(state.order) + 1))
    if game == USUAL and state.order == order and state.small_blind == 1:
        return []
    name = LIMIT_LETTERS[state.limit] + GAME_LETTERS[state.game]
    seats = "-".join(map(str, state.order))
    blinds = f"{plain(state.small)}/{plain(state.big)}"
    return [f"{name} {state.currency or 'chips'} {blinds} {seats} sb{state.small_blind}"]


def _seats(state: State, unit: _Unit) -> Iterator[str]:
    views = {view.seat: view for view in state.views}
    mine = View(state.me, state.money, state.actions)
    for seat in state.order:
        view = views.get(seat, mine)
        money = "" if view.money == unit.usual(view.actions) else f"={unit.text(view.money)}"
        yield ("m" if seat == state.me else "s") + _actions(view, unit) + money + _habits(view.habits)


def _actions(view: View, unit: _Unit) -> str:
    text, street = "", 0
    for item in view.actions:
        blind = item.word == "post" and item.amount == unit.blind(view.seat)
        amount = unit.text(item.amount) if item.amount and not blind else ""
        text += "/" * (item.street - street) + ACTION_LETTERS[item.word] + amount
        street = item.street
    return text


def _habits(habits: Habits | None) -> str:
    if habits is None:
        return ""
    values = (habits.hands, habits.vpip, habits.pfr, habits.aggression, habits.fold_to_raise)
    return "h" + ":".join("-" if value is None else str(value) for value in values)


def _features(features: Features, unit: _Unit) -> Iterator[str]:
    numbers = {"eq": features.equity, "req": features.range_equity, "odds": features.pot_odds, "outs": features.outs}
    yield from (f"{name}{value}" for name, value in numbers.items() if value is not None)
    if features.draws:
        yield f"draws:{','.join(name.replace(' ', '_') for name in features.draws)}"
    if features.made:
        yield f"made:{features.made.replace(' ', '_')}"
    if spot := features.spot:
        yield f"live{spot.live} behind{spot.behind} raises{spot.raises} call{unit.text(spot.call)}"


def _sizes(state: State, unit: _Unit) -> list[str]:
    usual = state.all_in == _everything(state.money, state.actions, len(state.board))
    everything = "" if not state.all_in else "A" if usual else f"A{unit.text(state.all_in)}"
    if not state.choices:
        return [everything] if everything else []
    run = [choice * state.big for choice in CHOICES]
    first = run.index(state.choices[0]) if state.choices[0] in run else len(run)
    length = len(list(itertools.takewhile(lambda both: both[0] == both[1], zip(run[first:], state.choices))))
    named = [f"{_RUN[first]}{_RUN[first + length - 1]}"] if length else []
    return [",".join([*named, *map(unit.text, state.choices[length:])]) + everything]


_AMOUNT = r"\$?\d+(?:\.\d+)?"
_FIRST = re.compile(r"(NL|PL|FL)(\w+) (\S+) (\d+(?:\.\d+)?)/(\d+(?:\.\d+)?) ([\d-]+) sb(\d+)")
_SEAT = re.compile(rf"([sm])((?:/*[apfkcbr](?:{_AMOUNT})?)*)(?:=({_AMOUNT}))?(?:h(\d+(?::(?:\d+|-)){{4}}))?")
_ACTION = re.compile(rf"(/*)([apfkcbr])({_AMOUNT})?")
_SIZES = re.compile(rf"(?:([a-h])([a-h]))?((?:(?:^|,){_AMOUNT})*)(?:(A)({_AMOUNT})?)?")
_REST = re.compile(
    rf"pot({_AMOUNT})(?: eq(\d+))?(?: req(\d+))?(?: odds(\d+))?(?: outs(\d+))?(?: draws:(\S+))?(?: made:(\S+))?"
    rf"(?: live(\d+) behind(\d+) raises(\d+) call({_AMOUNT}))? ([fkcbr]+)(?: (\S+))?"
)


def read_terse(prompt: str) -> State:
    """The state that a terse prompt shows; ``read_terse(write_terse(state)) == state``.

    Raises:
        HandError: naming the line that is not as the template has it.
    """
    lines = prompt.split("\n")
    style = lines.pop().removeprefix("style ") if len(lines) > 1 and lines[-1].startswith("style ") else ""
    header, body = lines[:-1], lines[-1].split(" ")
    try:
        return _read(header, body, style)
    except (ValueError, IndexError, ArithmeticError, StopIteration) as error:
        raise HandError(f"prompt line {len(lines)} is not as the terse template has it: {lines[-1][:80]!r}") from error


def _read(header: list[str], body: list[str], style: str) -> State:
    game, limit, currency, small, big, order, small_blind = _read_header(header)
    held, *rest = body
    board = cards.cards(rest.pop(0)) if rest[0][0] not in "sm" else ()
    count = next(i for i, item in enumerate(rest) if item.startswith("pot"))
    order = order or tuple(range(1, count + 1))
    unit = _Unit(small, big, small_blind)
    marks, views = zip(*(_read_seat(item, seat, unit) for item, seat in zip(rest[:count], order, strict=True)))
    mine = views[marks.index("m")]
    found = _REST.fullmatch(" ".join(rest[count:]))
    if marks.count("m") != 1 or found is None:
        raise ValueError
    choices, everything = _read_sizes(found[13] or "", mine, board, unit)
    return State(
        game=game,
        limit=limit,
        currency=currency,
        small=small,
        big=big,
        order=order,
        small_blind=small_blind,
        me=mine.seat,
        cards=cards.cards(held),
        board=board,
        money=mine.money,
        actions=mine.actions,
        views=tuple(view for view in views if view is not mine),
        pot=unit.read(found[1]),
        legal=tuple(_LEGAL[letter] for letter in found[12]),
        choices=choices,
        all_in=everything,
        features=_read_features(found, unit, style),
    )


def _read_header(lines: list[str]) -> tuple[Game, Limit, str, Decimal, Decimal, tuple[int, ...], int]:
    """The game; no seats where they are as usual."""
    if not lines:
        return (*USUAL, (), 1)
    (line,) = lines
    found = _FIRST.fullmatch(line)
    if found is None:
        raise ValueError
    game, limit = named(GAME_LETTERS, found[2]), named(LIMIT_LETTERS, found[1])
    currency = "" if found[3] == "chips" else found[3]
    order = tuple(map(int, found[6].split("-")))
    return game, limit, currency, Decimal(found[4]), Decimal(found[5]), order, int(found[7])


def _read_seat(text: str, seat: int, unit: _Unit) -> tuple[str, View]:
    found = _SEAT.fullmatch(text)
    if found is None:
        raise ValueError
    actions, street = [], 0
    for slashes, letter, amount in _ACTION.findall(found[2]):
        street += len(slashes)
        blind = unit.blind(seat) if letter == "p" else Decimal(0)
        actions.append(Said(street, ACTION_WORDS[letter], unit.read(amount) if amount else blind))
    money = unit.read(found[3]) if found[3] else unit.usual(tuple(actions))
    return found[1], View(seat, money, tuple(actions), _read_habits(found[4]))


def _read_habits(text: str | None) -> Habits | None:
    if not text:
        return None
    hands, *rest = text.split(":")
    return Habits(int(hands), *(None if value == "-" else int(value) for value in rest))


def _read_features(found: re.Match[str], unit: _Unit, style: str) -> Features:
    equity, ranged, odds, outs = (None if found[i] is None else int(found[i]) for i in (2, 3, 4, 5))
    draws = tuple(name.replace("_", " ") for name in found[6].split(",")) if found[6] else ()
    spot = Spot(int(found[8]), int(found[9]), int(found[10]), unit.read(found[11])) if found[8] else None
    return Features(equity, odds, outs, draws, style, (found[7] or "").replace("_", " "), spot, ranged)


def _read_sizes(text: str, mine: View, board: tuple[int, ...], unit: _Unit) -> tuple[tuple[Decimal, ...], Decimal]:
    found = _SIZES.fullmatch(text)
    if found is None:
        raise ValueError
    everything = unit.read(found[5]) if found[5] else _everything(mine.money, mine.actions, len(board))
    run = CHOICES[_RUN.index(found[1]) : _RUN.index(found[2]) + 1] if found[1] else ()
    more = found[3].removeprefix(",").split(",") if found[3] else ()
    choices = (*(choice * unit.big for choice in run), *map(unit.read, more))
    return choices, everything if found[4] else Decimal(0)
