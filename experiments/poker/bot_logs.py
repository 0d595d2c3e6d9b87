"""Own logs: bots play each other, and every session is a file of PokerStars text with all hole cards in it."""

import dataclasses
import pathlib

import numpy as np

from experiments.poker.data_settings import LogSettings
from experiments.poker.evaluate import AGENTS
from lqlm.io.disk import write_atomic
from lqlm.poker.arena.match import DECK, stream
from lqlm.poker.arena.table import deal, play_hand
from lqlm.poker.pokerstars import render
from lqlm.poker.record import Hand

WHO = 102
"""Stream of the draw of a session's players, beside those of ``lqlm.poker.arena.match``."""


def write_logs(settings: LogSettings, seed: int, folder: pathlib.Path) -> None:
    """The files of all sessions; one that is there is not played again.

    Args:
        settings: how many, and who plays.
        seed: of cards and draws.
        folder: where they go.
    """
    for session in range(settings.sessions):
        path = folder / f"session-{session:04}.txt"
        if not path.exists():
            hands = play_session(settings, seed, session)
            write_atomic(path, "\n\n".join(map(render, hands)))


def play_session(settings: LogSettings, seed: int, session: int) -> list[Hand]:
    """The hands of one table: players drawn from the bots, 100 big blinds each in every hand, the button moving on."""
    bots = stream(seed, session, WHO).choice(settings.bots, settings.seats).tolist()
    names = [f"{bot} {seat}" for seat, bot in enumerate(bots, 1)]
    return [_hand(settings, seed, session, number, bots, names) for number in range(settings.hands)]


def _hand(settings: LogSettings, seed: int, session: int, number: int, bots: list[str], names: list[str]) -> Hand:
    deal_number, rules = session * settings.hands + number, settings.rules
    order = np.roll(np.arange(settings.seats), -(number % settings.seats) - 1).tolist()
    played = play_hand(
        rules,
        [AGENTS[bots[at]] for at in order],
        deal(stream(seed, deal_number, DECK), settings.seats, rules.game.hole_cards),
        [stream(seed, deal_number, at) for at in range(settings.seats)],
        seats=[at + 1 for at in order],
        names=[names[at] for at in order],
        hand_id=f"{deal_number + 1}",
    )
    table = dataclasses.replace(played.hand.table, name=f"lqlm {session:04}")
    return dataclasses.replace(played.hand, table=table)
