"""Which hands to learn from: win rates with intervals, tiers of players, hands with known cards, splits, pseudonyms."""

import dataclasses
import hashlib
import hmac
import math
from base64 import b32encode
from collections.abc import Iterable, Mapping

from lqlm.errors import UserError
from lqlm.poker.record import ActKind, Hand, Shown, collected, known_cards, player_of
from lqlm.poker.replay import Replay, in_hand, replay

Z95 = 1.959964


@dataclasses.dataclass(frozen=True, slots=True)
class WinRate:
    """A player's mean result in mbb per hand, and its 95% interval, ``mean -+ 1.96 s / sqrt(n)``."""

    player: str
    hands: int
    mean: float
    low: float
    high: float


@dataclasses.dataclass(slots=True)
class Ledger:
    """Sums of results by player, from which win rates follow; memory grows with the players only.

    Attributes:
        by: which of :data:`RESULTS` is summed.
        sums: of each player the number, the mean and the squared deviations.

    >>> ledger = Ledger()
    >>> ledger.put("A", 1000.0)
    >>> ledger.put("A", -500.0)
    >>> ledger.rate("A").mean
    250.0
    """

    by: str = "won"
    sums: dict[str, tuple[int, float, float]] = dataclasses.field(default_factory=dict)

    def put(self, player: str, mbb: float) -> None:
        """Add one result (Welford's update of mean and squared deviations)."""
        n, mean, square = self.sums.get(player, (0, 0.0, 0.0))
        delta = mbb - mean
        mean += delta / (n + 1)
        self.sums[player] = (n + 1, mean, square + delta * (mbb - mean))

    def add(self, hand: Hand, played: Replay | None = None) -> None:
        """Add the result of every player of a hand."""
        names = player_of(hand)
        for seat, mbb in RESULTS[self.by](hand, played).items():
            self.put(names[seat], mbb)

    def rate(self, player: str) -> WinRate:
        """The win rate of a player; the interval of a single hand is all numbers."""
        n, mean, square = self.sums[player]
        half = Z95 * math.sqrt(square / (n - 1) / n) if n > 1 else math.inf
        return WinRate(player, n, mean, mean - half, mean + half)

    def rates(self, least_hands: int = 1) -> list[WinRate]:
        """The win rates of those with enough hands, best first."""
        known = [self.rate(player) for player, (n, _, _) in self.sums.items() if n >= least_hands]
        return sorted(known, key=lambda rate: (-rate.mean, rate.player))


def net_mbb(hand: Hand, played: Replay | None = None) -> dict[int, float]:
    """Seat -> result in thousandths of a big blind, of those dealt in; rake is the winner's loss."""
    played = played or replay(hand)
    before = {seat.number: seat.stack for seat in hand.seats}
    return {seat: 1000 * (played.stacks[seat] - before[seat]) / hand.big_blind for seat in in_hand(hand)}


def collected_mbb(hand: Hand, played: Replay | None = None) -> dict[int, float]:
    """Seat -> chips taken from the pots in thousandths of a big blind, whatever was put in, of those dealt in.

    PokerGPT's released code ranks players by its mean, where the paper ranks them by what they won.
    """
    taken = collected(hand)
    return {seat: 1000 * taken.get(seat, 0) / hand.big_blind for seat in in_hand(hand)}


RESULTS = {"won": net_mbb, "collected": collected_mbb}
"""What players can be ranked by: (hand, its replay or None) -> seat -> mbb."""


@dataclasses.dataclass(frozen=True)
class Tiers:
    """Quality of players by win rate; the bounds are those of PokerGPT's ablation, in mbb per hand."""

    bounds: tuple[float, ...] = (0.0, 600.0, 1500.0)
    names: tuple[str, ...] = ("negative", "low", "middle", "high")

    def __post_init__(self) -> None:
        ascending = all(map(math.isfinite, self.bounds)) and list(self.bounds) == sorted(set(self.bounds))
        if len(self.names) != len(self.bounds) + 1 or not ascending:
            raise UserError(f"tiers: {len(self.bounds)} ascending bounds need {len(self.bounds) + 1} names")


def tier_of(mean: float, tiers: Tiers) -> str:
    """The tier of a win rate.

    >>> tier_of(-3, Tiers()), tier_of(700, Tiers())
    ('negative', 'middle')
    """
    return tiers.names[sum(mean >= bound for bound in tiers.bounds)]


def ranked_tiers(rates: Iterable[WinRate], top: float, bottom: float) -> dict[str, str]:
    """Player -> "high" for the best share of players, "negative" for the worst, "middle" for the others.

    Raises:
        UserError: when the shares are no shares.
    """
    if not (0 <= top <= 1 and 0 <= bottom <= 1 and top + bottom <= 1):
        raise UserError(f"shares of players must be within 0..1 and add up to at most 1: {top} and {bottom}")
    order = sorted(rates, key=lambda rate: (-rate.mean, rate.player))
    best, worst = round(top * len(order)), len(order) - round(bottom * len(order))
    return {r.player: "high" if i < best else "negative" if i >= worst else "middle" for i, r in enumerate(order)}


def has_showdown(hand: Hand) -> bool:
    """Whether two players or more were in to the end."""
    folded = {act.seat for acts in hand.streets for act in acts if act.kind is ActKind.FOLD}
    return len(set(in_hand(hand)) - folded) > 1


def showdown_cards(hand: Hand) -> dict[int, tuple[int, ...]]:
    """PokerGPT's filter: seat -> cards of those who showed them at a showdown; nothing is known of folds then."""
    if not has_showdown(hand):
        return {}
    shown = {r.seat for r in hand.results if isinstance(r, Shown)}
    return {seat: held for seat, held in known_cards(hand).items() if seat in shown}


def all_known_cards(hand: Hand) -> dict[int, tuple[int, ...]]:
    """Every seat whose cards the log tells, those who folded too."""
    return known_cards(hand)


CARD_FILTERS = {"showdown": showdown_cards, "known": all_known_cards}


@dataclasses.dataclass(frozen=True)
class Split:
    """Shares of the sessions; ``seed`` shuffles them."""

    train: float = 0.8
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        shares = (self.train, self.valid, self.test)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise UserError(f"split: shares must not be negative and must add up to 1: {shares}")


def split_of(session: str, split: Split) -> str:
    """ "train", "valid" or "test": the same for all hands of a session, whatever file or order they come in.

    >>> split_of("PokerStars Vega", Split(1.0, 0.0, 0.0))
    'train'
    """
    digest = hashlib.blake2b(f"{split.seed}\0{session}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64
    return "train" if place < split.train else "valid" if place < split.train + split.valid else "test"


def pseudonym(player: str, site: str, key: bytes) -> str:
    """A name that is always the same for a player of a site and tells nothing without the key (HMAC-SHA256, 60 bits).

    >>> pseudonym("River Rat", "PokerStars", b"key") == pseudonym("River Rat", "PokerStars", b"key")
    True
    """
    digest = hmac.new(key, f"{site}\0{player}".encode(), hashlib.sha256).digest()
    return "P" + b32encode(digest)[:12].decode().lower()


def anonymise(hand: Hand, key: bytes) -> Hand:
    """The hand with pseudonyms for names.  Hand number, table and time stay: they still find it in the site's own log.

    Raises:
        UserError: when the key is empty.
    """
    if not key:
        raise UserError("pseudonyms need a secret key that is not empty")
    of: Mapping[str, str] = {seat.player: pseudonym(seat.player, hand.site, key) for seat in hand.seats}
    return dataclasses.replace(
        hand,
        seats=tuple(dataclasses.replace(seat, player=of[seat.player]) for seat in hand.seats),
        finishes=tuple(dataclasses.replace(end, player=of[end.player]) for end in hand.finishes),
    )
