"""One hand of poker as a typed record: what a log states, in exact integers.

Every amount is an integer in the smallest unit of ``Money`` (cents of a dollar, whole chips of a tournament), every
card an integer of :mod:`lqlm.poker.cards`, every player the number of the seat.
"""

import dataclasses
import datetime
import enum


class HandError(ValueError):
    """A hand that cannot be what it says; the message is one line."""


class Game(enum.StrEnum):
    """Which cards are dealt and how they are ranked."""

    HOLDEM = "Hold'em"
    OMAHA = "Omaha"
    OMAHA_HILO = "Omaha Hi/Lo"
    OMAHA5 = "5 Card Omaha"
    OMAHA5_HILO = "5 Card Omaha Hi/Lo"
    OMAHA6 = "6 Card Omaha"
    OMAHA6_HILO = "6 Card Omaha Hi/Lo"

    @property
    def hole_cards(self) -> int:
        """Private cards of a player."""
        return {"H": 2, "O": 4, "5": 5, "6": 6}[self.value[0]]

    @property
    def high_only(self) -> bool:
        """Whether the highest hand wins all of the pot."""
        return not self.value.endswith("Hi/Lo")


class Limit(enum.StrEnum):
    """What may be bet."""

    NO_LIMIT = "No Limit"
    POT_LIMIT = "Pot Limit"
    FIXED = "Limit"


class PostKind(enum.StrEnum):
    """A forced or bought bet before the cards."""

    ANTE = "the ante"
    SMALL = "small blind"
    BIG = "big blind"
    BOTH = "small & big blinds"
    STRADDLE = "straddle"
    BUTTON = "button blind"


class ActKind(enum.StrEnum):
    """A decision."""

    FOLD = "folds"
    CHECK = "checks"
    CALL = "calls"
    BET = "bets"
    RAISE = "raises"


@dataclasses.dataclass(frozen=True, slots=True)
class Money:
    """How amounts are written: ``decimals`` digits after the point are one unit; no symbol for chips."""

    currency: str = ""
    symbol: str = ""
    decimals: int = 0

    @property
    def least_decimals(self) -> int:
        """Decimals of a currency at rest; a hand has more only where an amount of it needs them."""
        return 2 if self.symbol else 0


@dataclasses.dataclass(frozen=True, slots=True)
class Stakes:
    """The blinds of no limit and pot limit, the bets of fixed limit; ``cap``: the most a player may put in, 0: none."""

    small: int
    big: int
    cap: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Where it was played."""

    name: str
    size: int
    button: int
    zoom: bool = False
    play_money: bool = False
    club: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Tournament:
    """Of which a hand is part; the buy-in is kept in words ("$3.19+$0.31 USD", "Freeroll")."""

    number: str
    buy_in: str
    level: str
    match: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Time:
    """When it was dealt: the local clock and its zone, and the site's Eastern time where the log has both."""

    local: datetime.datetime
    zone: str
    eastern: datetime.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Seat:
    """A chair with its player; ``status`` is empty, "is sitting out" or why the player is out of this hand."""

    number: int
    player: str
    stack: int
    status: str = ""
    bounty: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Post:
    """A blind, ante or straddle that was put in."""

    seat: int
    kind: PostKind
    amount: int
    all_in: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Hole:
    """Private cards that the log shows as dealt."""

    seat: int
    cards: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Act:
    """A decision; ``amount``: what a call adds, the size of a bet, the total that a raise goes to, 0 otherwise."""

    seat: int
    kind: ActKind
    amount: int = 0
    all_in: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Returned:
    """The part of the last bet that nobody matched."""

    seat: int
    amount: int


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """Cards turned up, some or all, and what the log calls them."""

    seat: int
    cards: tuple[int, ...]
    text: str = ""
    board: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Mucked:
    """A hand thrown away at the showdown; its cards where the log's summary tells them."""

    seat: int
    cards: tuple[int, ...] = ()
    board: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Unshown:
    """A winner who did not show."""

    seat: int


@dataclasses.dataclass(frozen=True, slots=True)
class Collected:
    """Chips taken from "pot", "main pot", "side pot" or "side pot-2", on the first or second board."""

    seat: int
    amount: int
    pot: str = "pot"
    board: int = 0


Result = Shown | Mucked | Unshown | Collected


@dataclasses.dataclass(frozen=True, slots=True)
class Finish:
    """A player's end of a tournament, in the log's words after the name."""

    player: str
    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class Hand:
    """A hand: ``streets`` has one tuple of decisions for each street that was dealt, ``boards`` one board, or two."""

    hand_id: str
    game: Game
    limit: Limit
    stakes: Stakes
    money: Money
    table: Table
    seats: tuple[Seat, ...]
    posts: tuple[Post, ...] = ()
    holes: tuple[Hole, ...] = ()
    streets: tuple[tuple[Act, ...], ...] = ((),)
    boards: tuple[tuple[int, ...], ...] = ((),)
    returned: Returned | None = None
    results: tuple[Result, ...] = ()
    rake: int = 0
    tournament: Tournament | None = None
    time: Time | None = None
    finishes: tuple[Finish, ...] = ()
    mixed: str = ""
    site: str = "PokerStars"

    @property
    def big_blind(self) -> int:
        """The big blind: half the big bet in fixed limit."""
        return self.stakes.small if self.limit is Limit.FIXED else self.stakes.big

    @property
    def session(self) -> str:
        """What a split must not cut: the tournament, the table, or the day of a zoom pool."""
        if self.tournament:
            return f"{self.site} tournament {self.tournament.number}"
        day = f" {self.time.local.date()}" if self.table.zoom and self.time else ""
        return f"{self.site} {self.table.name}{day}"

    @property
    def ran_twice(self) -> bool:
        """Whether there are two boards."""
        return len(self.boards) == 2


def player_of(hand: Hand) -> dict[int, str]:
    """Seat -> player."""
    return {seat.number: seat.player for seat in hand.seats}


def known_cards(hand: Hand) -> dict[int, tuple[int, ...]]:
    """Seat -> private cards, all of them, dealt openly, shown or told in the summary."""
    found = {hole.seat: hole.cards for hole in hand.holes}
    for result in hand.results:
        if isinstance(result, Shown | Mucked) and len(result.cards) == hand.game.hole_cards:
            found.setdefault(result.seat, result.cards)
    return found


def collected(hand: Hand) -> dict[int, int]:
    """Seat -> chips taken from the pots."""
    taken: dict[int, int] = {}
    for result in hand.results:
        if isinstance(result, Collected):
            taken[result.seat] = taken.get(result.seat, 0) + result.amount
    return taken
