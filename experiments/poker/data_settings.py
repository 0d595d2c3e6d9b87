"""The settings of the pipeline's first stages: where hands come from, and which are learned from."""

import dataclasses
import typing

from experiments.poker.evaluate import AGENTS, GAMES_OF
from lqlm.errors import UserError
from lqlm.poker.arena.rules import Rules
from lqlm.poker.select import Split, ranked_tiers
from lqlm.poker.state import WORDS

DECISIONS = WORDS[2:]
"""The words of a decision: those of antes and blinds come before."""


def check_bots(where: str, names: tuple[str, ...]) -> None:
    """Refuse names of no bot, and none at all.

    Raises:
        UserError: naming the setting.
    """
    unknown = sorted(set(names) - set(AGENTS))
    if unknown or not names:
        raise UserError(f"{where} is {names}; give some of {', '.join(AGENTS)}")


@dataclasses.dataclass(frozen=True)
class LogSettings:
    """Where logs come from: files, or bots that play each other.

    Attributes:
        source: files, folders or globs that ``parse`` reads; empty: own logs, made as the rest says.
        sessions: tables, each a file; a split does not cut them.
        hands: of each session.
        seats: players at a table.
        bots: who sits there, drawn for each session.
        game: of own logs, and of the matches and the self-play of what has learned from logs: ``holdem``, no limit, or
            ``omaha``, pot limit.
    """

    source: tuple[str, ...] = ()
    sessions: int = 40
    hands: int = 50
    seats: int = 6
    bots: tuple[str, ...] = ("tight", "loose")
    game: typing.Literal["holdem", "omaha"] = "holdem"

    @property
    def rules(self) -> Rules:
        """What is played."""
        return Rules(game=GAMES_OF[self.game])

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if min(self.sessions, self.hands) < 1 or not 2 <= self.seats <= 10:
            raise UserError(
                f"logs: {self.sessions} sessions of {self.hands} hands with {self.seats} seats; give 1 or more and 2-10"
            )
        check_bots("logs.bots", self.bots)


@dataclasses.dataclass(frozen=True)
class SelectSettings:
    """Which hands are learned from, see ``select --help``.

    Attributes:
        cards: which cards count as known: all that the log tells, or those of a showdown.
        by: what players are ranked by: what they ``won``, or as PokerGPT's released code has it, what they
            ``collected`` from pots, whatever they put in.
        min_hands: players with fewer training hands have no tier.
        top, bottom: the best share of players is ``high``, the worst ``negative``; both 0: by bounds, in mbb a hand.
        tiers: only players of these are learned from by SFT; empty: all.
        without: decisions that SFT does not learn, by their words; the released code's targets have no ``fold``.
        train, valid: shares of the sessions; the rest is for the test.
        seed: of the split.
    """

    cards: typing.Literal["known", "showdown"] = "known"
    by: typing.Literal["won", "collected"] = "won"
    min_hands: int = 100
    top: float = 0.0
    bottom: float = 0.0
    tiers: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    train: float = 0.7
    valid: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        Split(self.train, self.valid, round(1 - self.train - self.valid, 12), self.seed)
        ranked_tiers([], self.top, self.bottom)
        if self.by == "collected" and not (self.top or self.bottom):
            raise UserError("select.by is 'collected': bounds are win rates; set select.top and select.bottom")
        if unknown := sorted(set(self.without) - set(DECISIONS)):
            raise UserError(f"select.without: {', '.join(unknown)}; give some of {', '.join(DECISIONS)}")

    @property
    def arguments(self) -> list[str]:
        """The same for the command line of ``select``."""
        argv = ["--cards", self.cards, "--by", self.by, "--min-hands", str(self.min_hands), "--seed", str(self.seed)]
        argv += ["--train", str(self.train), "--valid", str(self.valid)]
        return [*argv, "--top", str(self.top), "--bottom", str(self.bottom)] if self.top or self.bottom else argv
