"""The static shape of a model."""

import dataclasses
from typing import Literal

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "opt")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the length of pre-training.

    ``linear`` divides every frequency by ``factor`` (arXiv 2306.15595).  ``llama3`` divides the slow ones only: with
    wavelength w and n = ``original_max_positions``, those of w > n / low_freq_factor are divided by ``factor``, those
    of w < n / high_freq_factor are kept, and between them the two are blended linearly in n / w (arXiv 2407.21783).
    The last three fields have no meaning for ``linear``.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_max_positions: int = 0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What ``forward`` must know about a model besides its arrays; hashable, so it can be a static argument.

    Attributes:
      family: one of ``llama``, ``qwen2``, ``qwen3``, ``mistral``, ``opt`` (see :mod:`lqlm.models.opt`).
      vocab_size: V, rows of the embedding.
      width: D, of the residual stream.
      ffn: F, of the feed-forward layer, which is gated but in OPT.
      layers: L.
      heads: N, query heads.
      kv_heads: K, key/value heads; N is a multiple of K.
      head_dim: H, of one head; not always width / heads.
      rope_theta: base of the rotary frequencies.
      rope_scaling: their stretching, or None.
      norm_eps: epsilon of RMSNorm, or OPT's LayerNorm.
      tied: whether the head is the transposed embedding.
      qkv_bias: whether q, k and v have a bias.
      qk_norm: whether q and k are RMS-normalized per head before the rotation.
      max_positions: the longest sequence that the model was made for.
      sliding_window: number of keys a query sees, itself included (key > query - window), or None for all.
    """

    family: str
    vocab_size: int
    width: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float
    rope_scaling: RopeScaling | None
    norm_eps: float
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    max_positions: int
    sliding_window: int | None

    @property
    def learned_positions(self) -> bool:
        """Whether positions are rows of a table and not rotations."""
        return self.family == "opt"

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer is gated by a third linear map."""
        return self.family != "opt"
