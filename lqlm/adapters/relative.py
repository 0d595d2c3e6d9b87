"""Adapters whose base was changed when they were made, as adapters of the base before."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from lqlm.adapters.configs import LoraConfig
from lqlm.adapters.lora import Lora
from lqlm.errors import UserError
from lqlm.types import PyTree


def relative_to(adapters: PyTree, initial: PyTree) -> PyTree:
    """What training has added to the initial adapters, of twice the rank: ``a' = [a, a0]``, ``b' = [b; -b0]``.

    PiSSA and OLoRA split a weight into ``w = rest + s a0 b0``, so that ``rest + s a b = w + s (a b - a0 b0)``: the
    result beside the original base computes what ``adapters`` compute beside the changed one (DoRA's norms included).
    Where the rest was quantized (always so with LoftQ) the equation holds up to what the quantization lost.  The
    scaling is the same; :func:`relative_config` is the config that goes with it.

    Args:
        adapters: ``{"layers": {name: Lora}}``, trained; what else it holds is kept.
        initial: the same tree as :func:`lqlm.adapters.init.init_adapters` gave it.

    Returns:
        ``{"layers": {name: Lora(a [L, in, 2R], b [L, 2R, out])}}``.

    Raises:
        UserError: when the two do not belong together.
    """
    trained, before = adapters["layers"], initial["layers"]
    if trained.keys() != before.keys():
        raise UserError("initial adapters are of other linear layers than the trained ones; pass those of the same run")
    return {**adapters, "layers": {name: _difference(name, lora, before[name]) for name, lora in trained.items()}}


def _difference(name: str, lora: Lora, initial: Lora) -> Lora:
    if (lora.a.shape, lora.b.shape, lora.scaling) != (initial.a.shape, initial.b.shape, initial.scaling):
        raise UserError(f"{name}: the initial adapter has another shape or scaling; pass that of the same run")
    rank = lora.a.shape[-1]
    order = jnp.asarray(np.stack([_used_first(own, rank) for own in lora.ranks or [rank] * len(lora.a)]))
    a = jnp.concatenate([lora.a, initial.a], axis=2)
    b = jnp.concatenate([lora.b, -initial.b], axis=1)
    return lora.replace(  # type: ignore[attr-defined]
        a=jnp.take_along_axis(a, order[:, None, :], axis=2),
        b=jnp.take_along_axis(b, order[:, :, None], axis=1),
        ranks=None if lora.ranks is None else tuple(2 * own for own in lora.ranks),
        bias=None if lora.bias is None or initial.bias is None else lora.bias - initial.bias,
    )


def _used_first(own: int, rank: int) -> np.ndarray:
    """The order of both adapters' columns in which those within the layer's own rank come first."""
    used = np.arange(rank) < own
    return np.argsort(~np.concatenate([used, used]), kind="stable").astype(np.int32)


def relative_config(cfg: LoraConfig) -> LoraConfig:
    """The config of :func:`relative_to`: every rank twice, alphas such that scalings stay, no decomposition.

    >>> relative_config(LoraConfig(rank=4, alpha=6.0, init="pissa")).scaling
    1.5
    """
    factor = 2**0.5 if cfg.rslora else 2.0
    return dataclasses.replace(
        cfg,
        rank=2 * cfg.rank,
        alpha=factor * cfg.alpha,
        rank_pattern=tuple((pattern, 2 * rank) for pattern, rank in cfg.rank_pattern),
        alpha_pattern=tuple((pattern, factor * alpha) for pattern, alpha in cfg.alpha_pattern),
        init="kaiming",
    )
