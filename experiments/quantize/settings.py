"""Settings of ``python -m experiments.quantize``."""

import dataclasses
from typing import Literal

from lqlm.errors import UserError
from lqlm.quant.budget import Format
from lqlm.quant.qtensor import QuantConfig


@dataclasses.dataclass(frozen=True)
class BudgetSettings:
    """How much may be taken, and which formats there are to choose from; without bits and gib all get one format.

    Attributes:
        bits: per parameter of the linear layers, block maxima counted.
        gib: of the whole model, embedding and head counted as they are held.
        codebooks: to choose from.
        blocks: to choose from; every codebook comes in every block size.
        dense: let matrices stay in bfloat16 too.
        weighting: of the squared errors: ``none``, ``activation`` (mean squares of the inputs, relative to the outputs'
            power) or ``fisher`` (of inputs and of the loss's gradient at the outputs).
    """

    bits: float | None = None
    gib: float | None = None
    codebooks: tuple[str, ...] = ("nf2", "nf3", "nf4", "dynamic8")
    blocks: tuple[int, ...] = (32, 64, 128)
    dense: bool = True
    weighting: Literal["none", "activation", "fisher"] = "fisher"

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.bits is not None and self.gib is not None:
            raise UserError(f"budget.bits is {self.bits} and budget.gib {self.gib}; set one of them to None")
        for name, value in (("bits", self.bits), ("gib", self.gib)):
            if value is not None and value <= 0:
                raise UserError(f"budget.{name} is {value}; give a number above 0, or None")
        if not self.formats():
            raise UserError("budget.codebooks or budget.blocks is empty; name a codebook and a block size")

    @property
    def given(self) -> bool:
        """Whether there is a budget at all."""
        return self.bits is not None or self.gib is not None

    def formats(self) -> list[Format]:
        """All that a matrix may be held in."""
        quantized = [QuantConfig(codebook, block) for codebook in self.codebooks for block in self.blocks]  # type: ignore[arg-type]
        return [*quantized, *([None] if self.dense and quantized else [])]


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """Texts for calibration and for perplexity, ``.txt`` or ``.txt.gz``.

    Attributes:
        calibration: a file; empty for the first half of Python's own help topics.
        evaluation: a file; empty for the second half of them.
        length: tokens of a window.
        calibration_windows: read for the weighting.
        windows: read for perplexity; 0 leaves it out.
    """

    calibration: str = ""
    evaluation: str = ""
    length: int = 512
    calibration_windows: int = 16
    windows: int = 10

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        if self.length < 2 or self.calibration_windows < 1 or self.windows < 0:
            raise UserError("text: length must be 2 or more, calibration_windows 1 or more, windows 0 or more")
        if self.calibration and self.calibration == self.evaluation:
            raise UserError(f"text.calibration and text.evaluation are both {self.calibration}; use two texts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeExperiment:
    """What is quantized, how, and where the result goes.

    Attributes:
        workdir: gets ``model/`` (the quantized directory), ``report.json`` and ``bits.png``.
        source: ``smollm2-135m-instruct``, a ``.gguf`` file, a Hugging Face directory, or a hub id.
        dtype: of embedding, head and norms, and of computation: ``float32`` (CPU) or ``bfloat16`` (GPU).
        dequantize: a directory; if given, nothing is quantized: the source, quantized or not, is written there dense,
            as transformers loads it.
        quant: the format of all linear layers where there is no budget; with one, what perplexity is compared to.
    """

    workdir: str
    source: str = "smollm2-135m-instruct"
    dtype: Literal["float32", "bfloat16"] = "float32"
    dequantize: str = ""
    quant: QuantConfig = QuantConfig()
    budget: BudgetSettings = BudgetSettings()
    text: TextSettings = TextSettings()
