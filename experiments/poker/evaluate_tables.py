"""The tables of ``evaluate``, as text."""

from collections.abc import Mapping

from experiments.poker.measure import Row
from lqlm.poker.arena.features import CLASSES
from lqlm.poker.record import Game


def tables(found: Mapping[str, list[Row]]) -> str:
    """All tables that have rows, and the confusion matrices of the agreement."""
    parts = [*map(_section, found.items()), confusion_text(found.get("agreement", []))]
    return "\n\n".join(filter(None, parts))


def _section(item: tuple[str, list[Row]]) -> str:
    name, rows = item
    if not rows:
        return ""
    head, line = {
        "matches": (MATCH_HEAD, match_line),
        "differences": (DIFFERENCE_HEAD, difference_line),
        "widths": (WIDTHS_HEAD, widths_line),
        "small games": (
            f"{'game':6} {'policy':14} {'exploitability':>15} {'against cfr+':>13}  antes per hand",
            game_line,
        ),
        "agreement": (AGREEMENT_HEAD, agreement_line),
    }[name]
    return "\n".join([head, *map(line, rows)])


MATCH_HEAD = (
    f"{'mbb per hand, 95%':32} {'hands':>6} {'as if independent':>20} {'duplicate':>18} {'+ all-in':>18} "
    f"{'+ control variate':>18} {'illegal':>7} {'hands/s':>7} {'ms/decision':>11} {'tokens':>6}"
)


def match_line(row: Row) -> str:
    """A line against one opponent, raw beside adjusted."""
    who = named(row)
    shown = [f"{mean:+9.0f} +- {half:5.0f}" for mean, half in row["mbb"].values()]
    cells = f"{shown[0]:>20} {shown[1]:>18} {shown[2]:>18} {shown[3]:>18}"
    cost = f"{row['hands per second']:7.0f} {1000 * row['seconds per decision']:11.2f} {_tokens(row):>6}"
    return f"{who:32} {row['hands']:6} {cells} {row['illegal']:7} {cost}"


def named(row: Row) -> str:
    """Who plays whom: "a - 5 x b", and the game if it is not hold'em."""
    game = "" if row.get("game", Game.HOLDEM.value) == Game.HOLDEM.value else " (Omaha)"
    return f"{row['hero']} - {row['seats'] - 1} x {row['against']}{game}"


def _tokens(row: Row) -> str:
    return f"{row['tokens per prompt']:.0f}" if "tokens per prompt" in row else "-"


DIFFERENCE_HEAD = (
    f"{'more mbb per hand, 95%':32} {'than':>12} {'hands':>6} {'as if independent':>20} {'duplicate':>18} "
    f"{'+ all-in':>18} {'+ control variate':>18} {'of two lines':>12}"
)


def difference_line(row: Row) -> str:
    """What a hero wins more than another; the last column is the half width without the same cards."""
    cells = [f"{mean:+9.0f} +- {half:5.0f}" for mean, half in row["mbb"].values()]
    return (
        f"{named(row):32} {row['than']:>12} {row['hands']:6} {cells[0]:>20} {cells[1]:>18} {cells[2]:>18} "
        f"{cells[3]:>18} {row['unpaired']:12.0f}"
    )


WIDTHS_HEAD = (
    f"{'width of intervals':20} {'lines':>5} {'hands':>6} {'duplicate':>9} {'+ all-in':>9} {'+ control variate':>18}"
)


def widths_line(row: Row) -> str:
    """The median over the lines with so many seats, as if independent = 1."""
    return (
        f"{row['seats']:2} seats{'':12} {row['lines']:5} {row['hands']:6.2f} {row['duplicate']:9.2f} "
        f"{row['all-in']:9.2f} {row['controlled']:18.2f}"
    )


def game_line(row: Row) -> str:
    """A policy of a small game."""
    return f"{row['game']:6} {row['policy']:14} {row['exploitability']:15.5f} {row['against cfr+']:+13.5f}"


AGREEMENT_HEAD = (
    f"{'agreement, 95% by session':34} {'accuracy':>20} {'macro F1':>20} {'calibration error':>20} "
    f"{'sizing, log2':>20} {'after the flop':>14}"
)


def agreement_line(row: Row) -> str:
    """A predictor."""
    names = ("accuracy", "macro F1", "calibration error", "sizing error")
    cells = ["{:.3f} [{:.3f},{:.3f}]".format(*row[name]) if name in row else "-" for name in names]
    return (
        f"{row['predictor']:34} "
        + " ".join(f"{cell:>20}" for cell in cells)
        + (f" {row['accuracy after the flop']:14.3f}")
    )


def confusion_text(rows: list[Row]) -> str:
    """For each predictor, of every action that was taken the share of predictions, in percent, and its decisions."""
    parts = []
    for row in rows:
        total = [sum(cells) for cells in row["confusion"]]
        shares = [
            f"{name:6}" + "".join(f"{100 * cell / most:7.1f}" for cell in cells) + f"{most:9}"
            for name, cells, most in zip(CLASSES, row["confusion"], total)
            if most
        ]
        head = f"{'taken':6}" + "".join(f"{name:>7}" for name in CLASSES) + f"{'of':>9}"
        parts.append("\n".join([f"confusion in percent: {row['predictor']}", head, *shares]))
    return "\n\n".join(parts)
