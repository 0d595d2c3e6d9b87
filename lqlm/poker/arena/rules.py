"""What is played: the game, the blinds and the stacks, in whole chips."""

import dataclasses

from lqlm.errors import UserError
from lqlm.poker.record import Game, Limit


@dataclasses.dataclass(frozen=True)
class Rules:
    """No-limit hold'em or pot-limit Omaha.

    Attributes:
        game: ``Game.HOLDEM`` or ``Game.OMAHA`` (four cards).
        small: the small blind.
        big: the big blind.
        ante: of every player.
        stack: with which every player starts a hand: 100 big blinds.
    """

    game: Game = Game.HOLDEM
    small: int = 50
    big: int = 100
    ante: int = 0
    stack: int = 10_000

    def __post_init__(self) -> None:
        if self.game not in (Game.HOLDEM, Game.OMAHA):
            raise UserError(f"rules: {self.game} is not played here; it is no-limit Hold'em or pot-limit Omaha")
        if not 0 < self.small <= self.big <= self.stack or self.ante < 0:
            raise UserError(f"rules: blinds {self.small}/{self.big}, stack {self.stack}: 0 < small <= big <= stack")

    @property
    def limit(self) -> Limit:
        """No limit in hold'em, pot limit in Omaha."""
        return Limit.NO_LIMIT if self.game is Game.HOLDEM else Limit.POT_LIMIT
