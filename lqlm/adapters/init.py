"""Fresh adapters for a base, of every kind; some kinds change the base as well."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.adapters.configs import (
    BIASES,
    LINEARS,
    AdapterConfig,
    FullConfig,
    Ia3Config,
    LoraConfig,
    PrefixConfig,
    PromptConfig,
    linears_of,
    target_names,
)
from lqlm.adapters.decompose import loftq, olora, pissa
from lqlm.adapters.lora import Ia3, Lora, column_norms
from lqlm.errors import UserError
from lqlm.quant.mixed import MixedStack, dense, layers_of
from lqlm.quant.qtensor import QTensor, QuantConfig, quantize
from lqlm.types import Array, Key, PyTree


def init_adapters(
    key: Key, base: PyTree, cfg: AdapterConfig, quant: QuantConfig | None = None
) -> tuple[PyTree, PyTree]:
    """Adapters for a base, and the base that they belong to.

    Args:
        key: consumed.
        base: the model's tree.  For ``pissa``, ``olora`` and ``loftq`` its linear layers must be dense.
        cfg: the kind of adapter and its settings.
        quant: dense linear layers of the base are quantized by it (what a decomposition leaves, where there is one);
            None leaves them dense.

    Returns:
        ``(base, adapters)``.  The adapters of linear layers are ``{"layers": {name: Lora or Ia3}}``; prompt tuning is
        ``{"prompt": [tokens, D]}``, prefix tuning ``{"prefix": {"k", "v": [L, tokens, K * H]}}``; full training moves
        the base itself, ``({}, {"full": base})``.

    Raises:
        UserError: for a rank or group that does not fit, or a base of the wrong kind.
    """
    if isinstance(cfg, FullConfig):
        return {}, {"full": _trainable(base, cfg)}
    if isinstance(cfg, LoraConfig) and cfg.decomposes:
        base, adapters = _decomposed(base, cfg, quant)
    else:
        base = quantize_base(base, quant)
        adapters = _fresh(key, base, cfg)
    return base, adapters


def _fresh(key: Key, base: PyTree, cfg: LoraConfig | Ia3Config | PromptConfig | PrefixConfig) -> PyTree:
    if isinstance(cfg, LoraConfig):
        return init_lora(key, base, cfg)
    if isinstance(cfg, Ia3Config):
        return init_ia3(base, cfg)
    return init_prompt(key, base, cfg) if isinstance(cfg, PromptConfig) else init_prefix(key, base, cfg)


def quantize_base(base: PyTree, quant: QuantConfig | None) -> PyTree:
    """The base with its dense linear layers quantized; as it is where ``quant`` is None."""
    if quant is None:
        return base
    layers = {n: quantize(w, quant) if n in LINEARS and _is_dense(w) else w for n, w in base["layers"].items()}
    return {**base, "layers": layers}


def _is_dense(w: Any) -> bool:
    return not isinstance(w, QTensor | MixedStack)


def init_lora(key: Key, base: PyTree, cfg: LoraConfig) -> PyTree:
    """Fresh low-rank adapters, a no-op at first: ``a`` random, ``b`` zero.

    ``kaiming`` draws ``a`` uniformly within ``1 / sqrt(in)`` (Kaiming with a = sqrt 5, PEFT's default), ``gaussian``
    from a normal distribution of standard deviation 1 / R.

    Args:
        key: consumed.
        base: the model's tree; without DoRA only shapes are read, so abstract leaves do as well.
        cfg: its ``init`` must be one of the two.

    Returns:
        ``{"layers": {name: Lora(a [L, in, R], b [L, R, out])}}``, and where the config asks for them the base's own
        biases, ``{"biases": {name: [L, out]}}``, which take the place of the frozen ones.
    """
    names = _targets(base, cfg)
    keys = jax.random.split(key, len(names))
    layers = {name: _init_one(k, name, base["layers"][name], cfg) for name, k in zip(names, keys)}
    return {"layers": layers} | _trained_biases(base, cfg)


def _targets(base: PyTree, cfg: LoraConfig | Ia3Config) -> tuple[str, ...]:
    """The linear layers that are adapted: those of the targets that this model has."""
    found = tuple(name for name in linears_of(base["layers"]) if name in target_names(cfg.targets))
    if not found:
        there = ", ".join(linears_of(base["layers"]))
        raise UserError(f"adapter.targets {cfg.targets} hits no linear layer of this model; choose among {there}")
    return found


def _trained_biases(base: PyTree, cfg: LoraConfig) -> PyTree:
    """``{"biases": {name: [L, out]}}``, those of the base that are trained too, or nothing."""
    wanted = {"none": (), "lora_only": _targets(base, cfg), "all": LINEARS}[cfg.bias]
    names = [BIASES[name] for name in wanted if BIASES.get(name) in base["layers"]]
    # Copies: an update that is given the adapters' memory to reuse must not take the base's with it.
    found = {name: jnp.array(base["layers"][name], cfg.dtype, copy=True) for name in names}
    return {"biases": found} if found else {}


def _init_one(key: Key, name: str, w: Any, cfg: LoraConfig) -> Lora:
    layers, fan_in, fan_out = layers_of(w)
    ranks, scalings = _ranks(name, (layers, fan_in, fan_out), cfg)
    inputs = _grouped(fan_in, cfg)
    shape = (layers, inputs, max(ranks))
    if cfg.init == "kaiming":
        a = jax.random.uniform(key, shape, jnp.float32, -(inputs**-0.5), inputs**-0.5)
    else:
        a = jax.random.normal(key, shape) / jnp.asarray(ranks, jnp.float32)[:, None, None]
    return _build(a, jnp.zeros((layers, max(ranks), fan_out)), ranks, scalings, w, cfg)


def _ranks(name: str, shape: tuple[int, int, int], cfg: LoraConfig) -> tuple[list[int], list[float]]:
    """Rank and scaling of each layer."""
    layers, fan_in, fan_out = shape
    ranks = [cfg.rank_at(name, layer) for layer in range(layers)]
    largest = min(_grouped(fan_in, cfg), fan_out)
    for rank in ranks:
        if not 0 < rank <= largest:
            raise UserError(f"LoRA rank {rank} does not fit {name}, {fan_in} x {fan_out}; choose 1 to {largest}")
    return ranks, [cfg.scaling_at(name, layer) for layer in range(layers)]


def _grouped(fan_in: int, cfg: LoraConfig) -> int:
    """Rows of the first factor."""
    if cfg.group and fan_in % cfg.group:
        raise UserError(f"lora.group {cfg.group} does not divide the {fan_in} inputs of a layer; choose a divisor")
    return fan_in // cfg.group if cfg.group else fan_in


def _build(a: Array, b: Array, ranks: list[int], scalings: list[float], w: Any, cfg: LoraConfig) -> Lora:
    """Cut the factors to each layer's rank, and add what the config asks for."""
    dtype = jnp.dtype(cfg.dtype)
    kept = np.arange(a.shape[-1])[None] < np.array(ranks)[:, None]
    a, b = jnp.where(kept[:, None, :], a, 0.0), jnp.where(kept[:, :, None], b, 0.0)
    lora = Lora(
        a.astype(dtype),
        b.astype(dtype),
        scalings[0] if len(set(scalings)) == 1 else tuple(scalings),
        cfg.dropout,
        cfg.group,
        None if len(set(ranks)) == 1 else tuple(ranks),
        jnp.zeros((len(ranks), b.shape[-1]), dtype) if cfg.lora_bias else None,
    )
    return lora.replace(magnitude=magnitudes(w, lora).astype(dtype)) if cfg.dora else lora  # type: ignore[attr-defined]


def magnitudes(w: Any, lora: Lora) -> Array:
    """DoRA's initial magnitudes, the norms ``|w + s a b|`` of every layer, float32 [L, out]."""
    scalings = np.broadcast_to(lora.scalings, len(lora.a))
    bare = lora.replace(scaling=1.0)  # type: ignore[attr-defined]

    def norms(part: tuple[Any, Lora, Array]) -> Array:
        # One layer dense at a time; the layers of a MixedStack are picked by their number.
        layer = w.at(part[0]) if isinstance(w, MixedStack) else part[0]
        return column_norms(dense(layer, jnp.float32), *part[1:])

    layers = jnp.arange(len(lora.a), dtype=jnp.int32) if isinstance(w, MixedStack) else w
    return jax.lax.map(norms, (layers, bare, jnp.asarray(scalings)))


def _decomposed(base: PyTree, cfg: LoraConfig, quant: QuantConfig | None) -> tuple[PyTree, PyTree]:
    """Base and adapters by one of the decompositions of :mod:`lqlm.adapters.decompose`."""
    if cfg.init == "loftq" and quant is None:
        raise UserError("lora.init 'loftq' makes up for quantization; give a quantization, or choose another init")
    rest, adapters = {}, {}
    for name in _targets(base, cfg):
        w = base["layers"][name]
        if not _is_dense(w):
            raise UserError(f"lora.init {cfg.init!r} decomposes weights, but {name} is quantized; give the dense base")
        rest[name], adapters[name] = _decompose_one(name, w, cfg, quant)
    base = {**base, "layers": {**base["layers"], **rest}}
    return quantize_base(base, quant), {"layers": adapters} | _trained_biases(base, cfg)


def _decompose_one(name: str, w: Array, cfg: LoraConfig, quant: QuantConfig | None) -> tuple[Any, Lora]:
    ranks, scalings = _ranks(name, layers_of(w), cfg)
    arrays = w, jnp.asarray(ranks, jnp.int32), jnp.asarray(scalings, jnp.float32)
    rest, a, b = _decompose_stack(*arrays, max(ranks), cfg, quant)
    if quant is not None and _is_dense(rest):
        rest = quantize(rest, quant)  # before DoRA takes its norms
    return rest, _build(a, b, ranks, scalings, rest, cfg)


@functools.partial(jax.jit, static_argnames=("largest", "cfg", "quant"))
def _decompose_stack(
    w: Array, ranks: Array, scalings: Array, largest: int, cfg: LoraConfig, quant: QuantConfig | None
) -> tuple[Any, Array, Array]:
    def one(part: tuple[Array, Array, Array]) -> tuple[Any, Array, Array]:
        matrix, rank, scale = part[0].astype(jnp.float32), part[1], part[2]
        if cfg.init == "loftq":
            assert quant is not None
            return loftq(matrix, largest, scale, quant, cfg.loftq_iterations, w.dtype, rank)
        a, b = pissa(matrix, largest, scale) if cfg.init == "pissa" else olora(matrix, largest)
        a = jnp.where(jnp.arange(largest)[None] < rank, a, 0.0)
        # The rest is what the factors leave as they are stored, whatever their dtype.
        a, b = (x.astype(cfg.dtype).astype(jnp.float32) for x in (a, b))
        return (matrix - scale * a @ b).astype(w.dtype), a, b

    return jax.lax.map(one, (w, ranks, scalings))


def init_ia3(base: PyTree, cfg: Ia3Config) -> PyTree:
    """Factors of one, a no-op: ``{"layers": {name: Ia3}}``; only shapes of the base are read."""

    def one(name: str) -> Ia3:
        layers, fan_in, fan_out = layers_of(base["layers"][name])
        on_input = name in cfg.feedforward
        return Ia3(jnp.ones((layers, fan_in if on_input else fan_out), cfg.dtype), on_input)

    return {"layers": {name: one(name) for name in _targets(base, cfg)}}


def init_prompt(key: Key, base: PyTree, cfg: PromptConfig) -> PyTree:
    """Virtual tokens' embeddings, ``{"prompt": [tokens, D]}``: random, or those of random tokens."""
    vocab, width = base["embed"].shape
    if cfg.init == "random":
        found = cfg.std * jax.random.normal(key, (cfg.tokens, width))
    else:
        found = base["embed"][jax.random.randint(key, (cfg.tokens,), 0, vocab)]
    return {"prompt": found.astype(cfg.dtype)}


def init_prefix(key: Key, base: PyTree, cfg: PrefixConfig) -> PyTree:
    """Keys and values of virtual tokens in every layer, ``{"prefix": {"k", "v": [L, tokens, K * H]}}``."""
    layers, _, width = layers_of(base["layers"]["k_proj"])
    k, v = cfg.std * jax.random.normal(key, (2, layers, cfg.tokens, width))
    return {"prefix": {"k": k.astype(cfg.dtype), "v": v.astype(cfg.dtype)}}


def _trainable(base: PyTree, cfg: FullConfig) -> PyTree:
    for name, w in base["layers"].items():
        if not _is_dense(w):
            raise UserError(f"full training needs a dense base, but {name} is quantized; load it without quantization")
    return jax.tree.map(lambda x: x.astype(cfg.dtype), base)
