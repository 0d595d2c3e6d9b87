"""The settings of supervised fine-tuning and of pretraining: frozen dataclasses, which hold every default."""

import dataclasses
import typing
from typing import ClassVar

from experiments.settings import Experiment, LoopSettings, ModelSettings
from lqlm.adapters.configs import FullConfig
from lqlm.errors import UserError
from lqlm.io.bpe import Numbers
from lqlm.models.config import ModelConfig
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.records import InstructionConfig


@dataclasses.dataclass(frozen=True)
class ScratchSettings:
    """A small Llama with random weights, and a BPE tokenizer that is trained on the run's own text.

    Attributes:
        vocab_size: tokens of the tokenizer, at most; bytes and special tokens are 260 of them.
        numbers: each of the ``digits`` a token, or a frequent number as a ``whole``.
        layers: number of layers.
        width: of the residual stream.
        ffn: width of the feed-forward layer.
        heads: query heads; divides ``width``.
        kv_heads: key and value heads; divides ``heads``.
        max_positions: the longest row.
        tied: whether the head is the transposed embedding.
        rope_theta: base of the rotary frequencies.
        std: standard deviation of the initial weights.
        dtype: of the weights: ``float32`` or ``bfloat16``.
    """

    kind: ClassVar[str] = "scratch"

    vocab_size: int = 1024
    numbers: Numbers = "digits"
    layers: int = 4
    width: int = 128
    ffn: int = 384
    heads: int = 4
    kv_heads: int = 2
    max_positions: int = 256
    tied: bool = True
    rope_theta: float = 10000.0
    std: float = 0.02
    dtype: typing.Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Refuse sizes that make no model."""
        sizes = (self.layers, self.width, self.ffn, self.heads, self.kv_heads, self.max_positions)
        if min(sizes) < 1 or self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise UserError(
                f"model: width {self.width}, heads {self.heads}, kv_heads {self.kv_heads}: all sizes are 1 or more, "
                "width is a multiple of 2 * heads, heads a multiple of kv_heads"
            )

    def config(self, vocab_size: int) -> ModelConfig:
        """The model's shape, for a tokenizer of so many tokens."""
        return ModelConfig(
            family="llama",
            vocab_size=vocab_size,
            width=self.width,
            ffn=self.ffn,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.width // self.heads,
            rope_theta=self.rope_theta,
            rope_scaling=None,
            norm_eps=1e-5,
            tied=self.tied,
            qkv_bias=False,
            qk_norm=False,
            max_positions=self.max_positions,
            sliding_window=None,
        )


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What is learned from, and what is held out.

    Attributes:
        source: a .jsonl, .json or .txt file (each also .gz), a directory, or a data set of ``datasets``; empty:
            arithmetic questions with their answers, made here; ``python-topics``: the language reference that comes
            with Python.
        made: the arithmetic that is made here; ``heldout`` counts what is held out of it.
        worked: answer it with the whole way there, one operation a line, instead of the answer alone.
        split: of a data set that ``datasets`` reads.
        subset: the same.
        data_files: of a builder of ``datasets``, such as "json" or "parquet".
        documents: what a record of a text file is: the whole ``file``, or each of its ``paragraphs``.
        limit: records that are read, at most (0: all).
        heldout: records held out of the source, or read from ``heldout_source`` (0: all of those).
        heldout_source: held-out records from somewhere else; empty: from the source itself.
        heldout_split: the same, of a data set; empty: the split named above.
        stream: read records while training goes on, for sources larger than memory; needs ``heldout_source``.
        buffer: records of a stream that are packed together.
        shuffle_buffer: records of a stream that the next one is drawn from.
    """

    source: str = ""
    made: ArithmeticConfig = ArithmeticConfig(operators="+-", operands=(0, 19), train=640)
    worked: bool = False
    split: str = "train"
    subset: str | None = None
    data_files: tuple[str, ...] = ()
    documents: typing.Literal["file", "paragraphs"] = "file"
    limit: int = 0
    heldout: int = 64
    heldout_source: str = ""
    heldout_split: str = ""
    stream: bool = False
    buffer: int = 1024
    shuffle_buffer: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        for name in ("limit", "heldout", "shuffle_buffer"):
            if getattr(self, name) < 0:
                raise UserError(f"data.{name} is {getattr(self, name)}; give 0 or more")
        if self.heldout == 0 and not self.elsewhere:
            raise UserError("data.heldout is 0; hold records out, or name data.heldout_source")
        if self.elsewhere and not self.source:
            raise UserError("data.heldout_source is set and data.source is empty; name both")
        if self.stream and not self.elsewhere:
            raise UserError("data.stream needs data.heldout_source (or data.heldout_split)")

    @property
    def elsewhere(self) -> bool:
        """Whether the held-out records have a place of their own."""
        return bool(self.heldout_source or self.heldout_split)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(LoopSettings):
    """How long, how wide, and what is written when.

    Attributes:
        rows: B, rows of a step; ``micro_batches`` divides it.
        length: T, tokens of a row; 0: ``text.max_length`` when packing, else the longest example.
        packing: several examples in a row, which do not see each other.
        loss: ``nll`` (cross-entropy) or ``dft`` (arXiv:2508.05629).
        eval_items: held-out examples per evaluation (0: all).
        eval_batch: rows evaluated at once.
        generate: held-out prompts that are completed greedily in each evaluation, for BLEU and ROUGE (0: none).
        new_tokens: length of those completions.
        merge: decode them from a dense copy with the adapters merged in, made anew for each evaluation.
    """

    rows: int = 8
    length: int = 0
    packing: bool = True
    loss: typing.Literal["nll", "dft"] = "nll"
    eval_batch: int = 8
    generate: int = 0
    new_tokens: int = 64
    merge: bool = True

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        self.at_least(1, "rows", "new_tokens")
        self.at_least(0, "length", "generate")
        if self.rows % self.micro_batches:
            raise UserError(f"run.micro_batches {self.micro_batches} does not divide run.rows {self.rows}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SFTExperiment(Experiment):
    """Everything that a run of ``experiments.sft`` depends on."""

    workdir: str = "runs/sft"
    model: ModelSettings | ScratchSettings = ModelSettings()
    data: DataSettings = DataSettings()
    text: InstructionConfig = InstructionConfig()
    run: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        """Refuse what has no meaning, before any work."""
        super().__post_init__()
        if isinstance(self.model, ScratchSettings) and not isinstance(self.adapter, FullConfig):
            raise UserError("model.kind 'scratch' has nothing to adapt yet; set adapter to FullConfig()")
        if self.data.stream and not self.run.packing:
            raise UserError("data.stream packs what it reads; set run.packing to True")
        if self.run.length and self.run.length < self.text.max_length:
            raise UserError(
                f"run.length {self.run.length} is less than text.max_length {self.text.max_length}; "
                "a row must have room for the longest example"
            )
