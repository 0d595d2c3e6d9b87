"""What to adapt and how: one frozen dataclass for each kind of adapter."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from lqlm.errors import UserError

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ALL_LINEAR = "all-linear"
BIASES = {name: name.replace("_proj", "_bias") for name in LINEARS}
DTYPES = ("float32", "bfloat16", "float16")
_BLOCKS = {name: "self_attn" if name in LINEARS[:4] else "mlp" for name in LINEARS}

Init = Literal["kaiming", "gaussian", "pissa", "olora", "loftq"]


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: LoRA (arXiv:2106.09685) and its relatives.

    Attributes:
        rank: R.
        alpha: the update is scaled by alpha / rank.
        dropout: of the adapters' input.
        targets: regular expressions over the names of linear layers, or ``all-linear``.
        dtype: of the adapters' arrays.
        rslora: scale by alpha / sqrt(rank) instead (arXiv:2312.03732).
        dora: learn the norm of each output's weights apart from their direction (arXiv:2402.09353).
        init: ``kaiming`` (uniform, PEFT's default) and ``gaussian`` (std 1 / rank) begin as a no-op.  ``pissa``
            (arXiv:2404.02948) and ``olora`` (arXiv:2406.01775) take the leading part of the weight into the adapter,
            ``loftq`` (arXiv:2310.08659) what quantization loses; these three change the base, see
            :func:`lqlm.adapters.init.init_adapters`.
        loftq_iterations: rounds of quantizing and decomposing.
        rank_pattern: (pattern, rank) pairs for modules with a rank of their own.  A pattern is a regular expression
            that matches the end of a module's name at a dot, such as ``q_proj`` or ``layers.3.mlp.down_proj``; the
            first match counts (PEFT's rule).
        alpha_pattern: the same for alpha.
        bias: which of the base's own biases are trained too: ``none``, ``lora_only`` (of adapted layers) or ``all``.
        lora_bias: a bias in the second factor; it is scaled as the rest.
        group: 0, or the number of neighbouring inputs that are averaged before the first factor (QA-LoRA,
            arXiv:2309.14717), so that the adapter merges into the shifts of weights quantized in blocks of that size.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL_LINEAR,)
    dtype: str = "float32"
    rslora: bool = False
    dora: bool = False
    init: Init = "kaiming"
    loftq_iterations: int = 1
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, float], ...] = ()
    bias: Literal["none", "lora_only", "all"] = "none"
    lora_bias: bool = False
    group: int = 0

    def __post_init__(self) -> None:
        """Reject what would silently train nothing, or fail far from its cause."""
        if not self.targets:
            raise UserError(f"lora.targets is empty; choose among {', '.join(LINEARS)}, or {ALL_LINEAR}")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"lora.dropout is {self.dropout}; it must be at least 0 and below 1")
        _check_dtype("lora", self.dtype)
        if self.loftq_iterations < 1:
            raise UserError(f"lora.loftq_iterations is {self.loftq_iterations}; it must be at least 1")
        if not self.alpha > 0.0:
            raise UserError(f"lora.alpha is {self.alpha}; it must be above 0")
        if self.group < 0:
            raise UserError(f"lora.group is {self.group}; it must be 0 or a number of inputs")
        if self.group and (self.dora or self.decomposes):
            raise UserError("lora.group cannot be combined with dora, nor with an init that decomposes the weight")
        if self.lora_bias and self.dora:
            raise UserError("lora.lora_bias cannot be combined with dora, whose norms know of no bias; choose one")
        for pattern, _ in (*self.rank_pattern, *self.alpha_pattern):
            _compiled(pattern)

    @property
    def decomposes(self) -> bool:
        """Whether ``init`` takes the adapters from the weights, and changes the base by that."""
        return self.init not in ("kaiming", "gaussian")

    @property
    def scaling(self) -> float:
        """``alpha / rank``, or ``alpha / sqrt(rank)``, of modules that no pattern names."""
        return self.scaling_of(self.rank, self.alpha)

    def scaling_of(self, rank: int, alpha: float) -> float:
        """The scaling of a module with these."""
        return alpha / rank**0.5 if self.rslora else alpha / rank

    def rank_at(self, name: str, layer: int) -> int:
        """The rank of one module."""
        return int(_by_pattern(self.rank_pattern, name, layer, self.rank))

    def alpha_at(self, name: str, layer: int) -> float:
        """The alpha of one module."""
        return float(_by_pattern(self.alpha_pattern, name, layer, self.alpha))

    def scaling_at(self, name: str, layer: int) -> float:
        """The scaling of one module."""
        return self.scaling_of(self.rank_at(name, layer), self.alpha_at(name, layer))


@dataclasses.dataclass(frozen=True)
class Ia3Config:
    """(IA)^3 (arXiv:2205.05638): learned factors of the outputs, or of the inputs, of linear layers.

    Attributes:
        targets: patterns as for LoRA.
        feedforward: those of the targets whose input is scaled instead of their output.
        dtype: of the factors.
    """

    targets: tuple[str, ...] = ("k_proj", "v_proj", "down_proj")
    feedforward: tuple[str, ...] = ("down_proj",)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Reject what would silently train nothing."""
        if not self.targets:
            raise UserError(f"ia3.targets is empty; choose among {', '.join(LINEARS)}, or {ALL_LINEAR}")
        _check_dtype("ia3", self.dtype)
        wrong = set(self.feedforward) - set(target_names(self.targets))
        if wrong:
            raise UserError(f"ia3.feedforward: {', '.join(sorted(wrong))} is not among the targets; add it there")


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """Prompt tuning (arXiv:2104.08691): learned embeddings before the tokens.

    Attributes:
        tokens: their number.
        init: ``random`` (standard normal times ``std``) or ``vocabulary`` (embeddings of random tokens).
        std: of the random initial values.
        dtype: of the embeddings.
    """

    tokens: int = 20
    init: Literal["random", "vocabulary"] = "vocabulary"
    std: float = 1.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Reject what has no meaning."""
        _check_virtual("prompt", self.tokens, self.dtype)


@dataclasses.dataclass(frozen=True)
class PrefixConfig:
    """Prefix tuning (arXiv:2101.00190): learned keys and values before those of every layer.

    Attributes:
        tokens: their number.
        std: of the random initial values.
        dtype: of the keys and values.
    """

    tokens: int = 20
    std: float = 0.02
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Reject what has no meaning."""
        _check_virtual("prefix", self.tokens, self.dtype)


@dataclasses.dataclass(frozen=True)
class FullConfig:
    """Every weight of a dense base is trained.

    Attributes:
        dtype: of the weights while they are trained.
    """

    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Reject what has no meaning."""
        _check_dtype("full", self.dtype)


AdapterConfig = LoraConfig | Ia3Config | PromptConfig | PrefixConfig | FullConfig


def target_names(targets: tuple[str, ...]) -> tuple[str, ...]:
    """The linear layers that ``targets`` select, in the model's order.

    Raises:
        UserError: for a pattern that hits nothing, or that is no regular expression.

    >>> target_names(("[qv]_proj",))
    ('q_proj', 'v_proj')
    """
    hit: set[str] = set()
    for pattern in targets:
        names = LINEARS if pattern == ALL_LINEAR else [n for n in LINEARS if _compiled(pattern).fullmatch(n)]
        if not names:
            raise UserError(
                f"LoRA target {pattern!r} hits no linear layer; choose among {', '.join(LINEARS)}, or all-linear"
            )
        hit.update(names)
    return tuple(name for name in LINEARS if name in hit)


def linears_of(layers: Mapping[str, Any]) -> tuple[str, ...]:
    """The linear layers among the tensors of a model's layers, in the model's order; OPT has no gate."""
    return tuple(name for name in LINEARS if name in layers)


def module_name(name: str, layer: int) -> str:
    """The name of a linear layer in Hugging Face models.

    >>> module_name("down_proj", 3)
    'model.layers.3.mlp.down_proj'
    """
    return f"model.layers.{layer}.{_BLOCKS[name]}.{name}"


def _by_pattern(pairs: tuple[tuple[str, float], ...], name: str, layer: int, default: float) -> float:
    full = module_name(name, layer)
    return next((value for pattern, value in pairs if re.match(rf"(.*\.)?({pattern})$", full)), default)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"LoRA target {pattern!r} is not a regular expression: {error}") from error


def _check_dtype(kind: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise UserError(f"{kind}.dtype is {dtype!r}; use one of {', '.join(DTYPES)}")


def _check_virtual(kind: str, tokens: int, dtype: str) -> None:
    _check_dtype(kind, dtype)
    if tokens < 1:
        raise UserError(f"{kind}.tokens is {tokens}; it must be at least 1")
