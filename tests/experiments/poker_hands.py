"""Hands that bots played, as the stages of the pipeline leave them, for tests of what learns from them."""

import pathlib

from experiments.poker import bot_logs, parse, select
from experiments.poker.data_settings import LogSettings


def select_hands(folder: pathlib.Path, sessions: int = 8, hands: int = 4, seats: int = 4) -> pathlib.Path:
    """The folder of ``experiments.poker select`` with train, valid and test sessions of own logs."""
    bot_logs.write_logs(LogSettings(sessions=sessions, hands=hands, seats=seats), 0, folder / "logs")
    parse.main([str(folder / "logs"), "--out", str(folder / "hands")])
    shares = ["--train", "0.5", "--valid", "0.25", "--min-hands", "1"]
    (folder / "selected").mkdir(parents=True)
    (folder / "selected" / "key").write_text("a secret that is the same in every test")
    select.main([str(folder / "hands"), "--out", str(folder / "selected"), *shares])
    return folder / "selected"
