"""Small random models and ragged batches for tests."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.adapters.configs import LINEARS, LoraConfig
from lqlm.adapters.init import init_lora
from lqlm.models.config import ModelConfig
from lqlm.models.convert import layer_tensors, outer_tensors
from lqlm.quant.qtensor import QuantConfig, quantize
from lqlm.types import Array, Key, PyTree

LLAMA = ModelConfig(
    family="llama",
    vocab_size=23,
    width=16,
    ffn=24,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=6,
    rope_theta=100.0,
    rope_scaling=None,
    norm_eps=1e-5,
    tied=True,
    qkv_bias=False,
    qk_norm=False,
    max_positions=64,
    sliding_window=None,
)
_FAMILIES: dict[str, dict[str, bool | float]] = {
    "llama": {},
    "qwen2": {"qkv_bias": True, "tied": False},
    "qwen3": {"qk_norm": True},
    "mistral": {"sliding_window": 3, "tied": False},
    "opt": {"qkv_bias": True, "kv_heads": 4, "head_dim": 4, "rope_theta": 10000.0},
}
FAMILIES = tuple(_FAMILIES)


def tiny_config(family: str = "llama", **changes: object) -> ModelConfig:
    """A model of two layers with grouped queries and a head_dim of its own; what marks the family is switched on."""
    return dataclasses.replace(LLAMA, **{"family": family, **_FAMILIES[family], **changes})  # type: ignore[arg-type]


@functools.partial(jax.jit, static_argnames=("cfg", "quant", "dtype"))
def tiny_base(key: Key, cfg: ModelConfig, quant: QuantConfig | None = None, dtype: str = "float32") -> PyTree:
    """Random weights for ``cfg``; the linear maps in 4 bits when ``quant`` is given.

    Scaled so that attention is far from uniform, that logits spread over several nats, and that a tied model does not
    just repeat its input (hence the small embedding).
    """
    keys = iter(jax.random.split(key, 32))

    def normal(shape: tuple[int, ...], scale: float, mean: float = 0.0) -> Array:
        return (mean + scale * jax.random.normal(next(keys), shape)).astype(dtype)

    def tensor(name: str, shape: tuple[int, ...]) -> PyTree:
        stacked = (cfg.layers, *reversed(shape))
        if name in LINEARS:
            w = normal(stacked, 1.5 * shape[1] ** -0.5)
            return w if quant is None else quantize(w, quant, jnp.dtype(dtype))
        return normal(stacked, 0.3, mean=float(name.endswith("norm")))

    layers = {name: tensor(name, shape) for name, (_, shape) in layer_tensors(cfg).items()}
    base = {"embed": normal((cfg.vocab_size, cfg.width), 0.4), "norm": normal((cfg.width,), 0.3, 1.0), "layers": layers}
    if cfg.learned_positions:
        rows = outer_tensors(cfg)["positions"][1]
        base |= {"norm_bias": normal((cfg.width,), 0.3), "positions": normal(rows, 0.4)}
    return base if cfg.tied else {**base, "head": normal((cfg.width, cfg.vocab_size), 0.5)}


def tiny_adapters(key: Key, base: PyTree, **settings: object) -> PyTree:
    """Adapters that change the model: ``b`` random instead of zero."""
    return _adapters(key, base, LoraConfig(**{"rank": 3, "alpha": 6.0, **settings}))  # type: ignore[arg-type]


@functools.partial(jax.jit, static_argnames="cfg")
def _adapters(key: Key, base: PyTree, cfg: LoraConfig) -> PyTree:
    adapters = init_lora(key, base, cfg)
    keys = iter(jax.random.split(jax.random.fold_in(key, 1), len(adapters["layers"])))
    layers = {n: x.replace(b=0.2 * jax.random.normal(next(keys), x.b.shape)) for n, x in adapters["layers"].items()}
    return {"layers": layers}


def ragged(seed: int, lengths: Sequence[int], vocab: int) -> list[np.ndarray]:
    """Rows of random tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, length).astype(np.int32) for length in lengths]


def pad(rows: Sequence[np.ndarray], length: int, side: str, fill: int = 0) -> tuple[Array, Array]:
    """Tokens and mask ``[B, length]``, padded on the ``left`` or on the ``right``."""
    tokens, mask = np.full((len(rows), length), fill, np.int32), np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        place = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        tokens[i, place], mask[i, place] = row, True
    return jnp.asarray(tokens), jnp.asarray(mask)
