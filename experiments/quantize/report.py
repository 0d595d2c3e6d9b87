"""What a quantization did: a table for a person, a picture, and JSON."""

import dataclasses
import io
import itertools
import json
from collections import Counter
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from lqlm.io.curves import INK, MUTED, PAPER
from lqlm.types import PyTree

MIB = 2**20
_SHADES = LinearSegmentedColormap.from_list("bits", ["#eff6ff", "#60a5fa", "#1e3a8a"])


@dataclasses.dataclass(frozen=True)
class Row:
    """One matrix."""

    layer: int
    map: str
    format: str
    shape: tuple[int, int]
    bytes: int
    error: float  # |w' - w| / |w|

    @property
    def parameters(self) -> int:
        """Its weights."""
        return self.shape[0] * self.shape[1]

    @property
    def bits(self) -> float:
        """Per parameter, block maxima counted."""
        return 8 * self.bytes / self.parameters


@dataclasses.dataclass(frozen=True)
class Report:
    """All that is to be said of one quantization.

    Attributes:
        source: of the model, as given.
        checksum: of its weights.
        rows: its linear maps, layer by layer.
        model_bytes: of the whole quantized model, embedding, head and norms as they are held.
        perplexity: name -> perplexity of ``before``, ``after``, and of what it is compared to.
    """

    source: str
    checksum: str
    rows: tuple[Row, ...]
    model_bytes: int
    perplexity: dict[str, float]

    @property
    def linear_bytes(self) -> int:
        """Of all linear maps."""
        return sum(row.bytes for row in self.rows)

    @property
    def bits(self) -> float:
        """Per parameter of the linear maps."""
        return 8 * self.linear_bytes / sum(row.parameters for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [dataclasses.asdict(row) | {"bits": row.bits} for row in self.rows]
        derived = {"bits": self.bits, "linear_bytes": self.linear_bytes}
        return dataclasses.asdict(self) | derived | {"rows": rows}

    def json(self, facts: PyTree) -> str:
        """The report and ``facts`` (settings, versions) as the text of a JSON file."""
        return json.dumps(self.as_dict() | facts, indent=2) + "\n"

    def table(self) -> str:
        """Formats by layer and map, then bytes and errors of each layer, then totals."""
        maps = list(dict.fromkeys(row.map for row in self.rows))
        lines = [["layer", *(name.removesuffix("_proj") for name in maps), "bits", "MiB", "error"]]
        for layer, group in itertools.groupby(self.rows, key=lambda row: row.layer):
            lines.append([str(layer), *_cells(list(group))])
        widths = [max(map(len, column)) for column in zip(*lines)]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in lines]
        return "\n".join([*text, *self.totals()])

    def totals(self) -> list[str]:
        """The last lines of the table."""
        shares = ", ".join(f"{name} {count}" for name, count in Counter(row.format for row in self.rows).most_common())
        sizes = f"{self.linear_bytes / MIB:.1f} MiB of linear layers, {self.model_bytes / MIB:.1f} MiB in all"
        perplexity = ", ".join(f"{name} {value:.3f}" for name, value in self.perplexity.items())
        lines = [f"matrices: {shares}", f"{self.bits:.3f} bits per parameter: {sizes}"]
        return [*lines, f"perplexity: {perplexity}"] if perplexity else lines

    def picture(self) -> bytes:
        """Bits by layer and map, as PNG."""
        maps = list(dict.fromkeys(row.map for row in self.rows))
        bits = np.array([row.bits for row in self.rows]).reshape(-1, len(maps)).T
        figure = Figure(figsize=(max(5.0, 0.32 * bits.shape[1] + 2.2), 3.2), layout="constrained", facecolor=PAPER)
        axes = figure.add_subplot()
        shown = axes.imshow(bits, cmap=_SHADES, vmin=min(2.0, bits.min()), vmax=max(8.0, bits.max()), aspect="auto")
        axes.set_yticks(range(len(maps)), [name.removesuffix("_proj") for name in maps], color=INK)
        axes.set_xlabel("layer", color=MUTED)
        axes.set_title(f"Bits per parameter by layer and map ({self.bits:.3f} in all)", color=INK, fontsize=10)
        axes.set_xticks(np.arange(0, bits.shape[1], max(1, bits.shape[1] // 15)))
        axes.tick_params(length=0, colors=MUTED)
        axes.set_xticks(np.arange(-0.5, bits.shape[1]), minor=True)
        axes.set_yticks(np.arange(-0.5, bits.shape[0]), minor=True)
        axes.grid(which="minor", color=PAPER, linewidth=1.5)
        axes.tick_params(which="minor", length=0)
        axes.spines[:].set_visible(False)
        figure.colorbar(shown, ax=axes, pad=0.02).outline.set_visible(False)  # type: ignore[operator]
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=120, format="png")
        return buffer.getvalue()


def _cells(rows: list[Row]) -> list[str]:
    """One line of the table: the formats of a layer, its bits, MiB and mean error."""
    size, parameters = sum(row.bytes for row in rows), sum(row.parameters for row in rows)
    error = np.sqrt(sum(row.error**2 * row.parameters for row in rows) / parameters)
    return [*(row.format for row in rows), f"{8 * size / parameters:.2f}", f"{size / MIB:.2f}", f"{error:.4f}"]
