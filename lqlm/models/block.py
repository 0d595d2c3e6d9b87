"""One decoder layer, and the scan over the stacked layers.

What differs between training, prefill and decoding is only how queries meet keys, so each caller passes its own
``attend``.  Quantized weights are dequantized inside the scan, one layer at a time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lqlm.adapters.configs import BIASES, LINEARS
from lqlm.adapters.lora import Ia3, Lora, apply_dora, apply_ia3, apply_lora
from lqlm.adapters.taps import Tap, tap_input, tap_output
from lqlm.layout import BATCH, constrain, lookup
from lqlm.models.bits import from_bits
from lqlm.models.config import ModelConfig
from lqlm.models.layers import norm, rms_norm, rope_tables, rotate, swiglu
from lqlm.models.opt import FIRST_POSITION
from lqlm.models.remat import Remat, checkpointed, remat_scan
from lqlm.quant.mixed import MixedStack
from lqlm.quant.qtensor import QTensor
from lqlm.sharding import gathered, product
from lqlm.types import Array, Key, PyTree

# attend(q, k, v, cache of the layer, state) -> (mixed, output of the layer, state)
Attend = Callable[[Array, Array, Array, Any, Any], tuple[Array, Any, Any]]


def run_layers(
    base: PyTree,
    adapters: PyTree | None,
    x: Array,
    positions: Array,
    attend: Attend,
    cfg: ModelConfig,
    *,
    caches: Any = None,
    state: Any = None,
    key: Key | None = None,
    remat: Remat = "none",
) -> tuple[Array, Any, Any]:
    """Scan the stacked layers: ``(x, outputs of attend stacked over layers, final state)``.

    Args:
        base: weights; ``base["layers"]`` is read, its 16-bit stacks maybe as bits (:mod:`lqlm.models.bits`), and the
            table of learned positions where there is one.  A tuple of layers (:mod:`lqlm.models.decoding`) is unrolled.
        adapters: or None.
        x: ``[B, T, D]``.
        positions: ``[B, T]``.
        attend: how queries meet keys.
        cfg: the model's shape.
        caches: a tree with a leading layer axis, one slice of which goes to each layer's ``attend``.
        state: carried through the layers by ``attend``.
        key: for dropout.
        remat: what the backward pass finds and what it computes again, see :mod:`lqlm.models.remat`.
    """
    tables = None if cfg.learned_positions else rope_tables(positions, cfg)
    if cfg.learned_positions:
        x = x + lookup(base["positions"], positions + FIRST_POSITION)
    apart, layers, mixed = _apart(base["layers"])
    tuned = {} if adapters is None else adapters.get("layers", {})
    layers |= {} if adapters is None else adapters.get("biases", {})
    keys = None if key is None else jax.random.split(key, cfg.layers)
    numbers = jnp.arange(cfg.layers, dtype=jnp.int32)

    def body(carry: tuple[Array, Any], slices: Any, mixed: PyTree) -> tuple[tuple[Array, Any], Any]:
        x, state = carry
        layer, tuned, cache, layer_key, number = slices
        layer, x = from_bits(layer) | {name: w.at(number) for name, w in mixed.items()}, constrain(x, BATCH)
        layer, tuned = gathered(layer, cfg), gathered(tuned, cfg)
        x, out, state = block(x, layer, tuned, tables, attend, cfg, cache, state, layer_key, number)
        return (x, state), out

    if apart:
        return _unrolled(body, (x, state), apart, (layers, tuned, caches, keys, numbers))
    frozen = {name: w for name, w in layers.items() if isinstance(w, QTensor)}
    if remat == "full" and state is None and (frozen or mixed):
        others = {name: w for name, w in layers.items() if name not in frozen}  # norms and biases may be trained

        def one(x: Array, trained: PyTree, frozen: PyTree, mixed: PyTree) -> Array:
            layer = frozen[0] | trained[0]
            (x, _), _ = body((x, None), (layer, *trained[1:], *frozen[1:]), mixed)
            return x

        return remat_scan(one, x, (others, tuned, caches), (frozen, keys, numbers), mixed), None, None
    step = checkpointed(lambda carry, slices: body(carry, slices, mixed), remat)
    (x, state), out = jax.lax.scan(step, (x, state), (layers, tuned, caches, keys, numbers))
    return x, out, state


def _apart(layers: PyTree) -> tuple[tuple[PyTree, ...], PyTree, PyTree]:
    """Layers that stand apart, stacks of one format, stacks of several: the first or the others are empty."""
    if isinstance(layers, tuple):
        return layers, {}, {}
    mixed = {name: w for name, w in layers.items() if isinstance(w, MixedStack)}
    return (), {name: w for name, w in layers.items() if name not in mixed}, mixed


def _unrolled(body: Callable, carry: tuple[Array, Any], apart: tuple[PyTree, ...], stacks: PyTree) -> Any:
    """The layers one after the other, each given its own weights and its slices of the stacks."""
    outs = []
    for number, layer in enumerate(apart):
        trained, *others = jax.tree.map(lambda stack: stack[number], stacks)  # noqa: B023
        carry, out = body(carry, (layer | trained, *others), {})
        outs.append(out)
    return carry[0], jax.tree.map(lambda *layers: jnp.stack(layers), *outs), carry[1]


def block(
    x: Array,
    layer: PyTree,
    tuned: PyTree,
    tables: tuple[Array, Array] | None,
    attend: Attend,
    cfg: ModelConfig,
    cache: Any,
    state: Any,
    key: Key | None,
    number: Array | None = None,
) -> tuple[Array, Any, Any]:
    """One pre-norm layer: ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``."""
    h = norm(x, layer, "input_norm", cfg.norm_eps)
    q = _heads(linear(h, layer, tuned, "q_proj", key, number), layer.get("q_norm"), cfg)
    k = _heads(linear(h, layer, tuned, "k_proj", key, number), layer.get("k_norm"), cfg)
    v = _heads(linear(h, layer, tuned, "v_proj", key, number), None, cfg)
    mixed, out, state = attend(rotate(q, tables), rotate(k, tables), v, cache, state)
    x = x + linear(mixed.reshape(*x.shape[:-1], -1), layer, tuned, "o_proj", key, number)
    h = norm(x, layer, "post_norm", cfg.norm_eps)
    return x + _feed_forward(h, layer, tuned, cfg, key, number), out, state


def _feed_forward(
    h: Array, layer: PyTree, tuned: PyTree, cfg: ModelConfig, key: Key | None, number: Array | None
) -> Array:
    """``down(silu(gate(h)) * up(h))``, or ``down(relu(up(h)))`` where nothing gates."""
    up = linear(h, layer, tuned, "up_proj", key, number)
    inner = swiglu(linear(h, layer, tuned, "gate_proj", key, number), up) if cfg.gated else jax.nn.relu(up)
    return linear(inner, layer, tuned, "down_proj", key, number)


def _heads(x: Array, norm_H: Array | None, cfg: ModelConfig) -> Array:
    x = x.reshape(*x.shape[:-1], -1, cfg.head_dim)
    return x if norm_H is None else rms_norm(x, norm_H, cfg.norm_eps)


def linear(
    x: Array, layer: PyTree, tuned: PyTree, name: str, key: Key | None = None, number: Array | None = None
) -> Array:
    """The layer's linear map ``name``: ``x @ w + bias``, and what its adapter adds or scales.

    Args:
        x: ``[..., in]``.
        layer: weights and biases of one layer.
        tuned: adapters of one layer, or an empty dict.
        name: of the map.
        key: for dropout.
        number: int32 [], the layer's number, for adapters whose scaling differs between layers.
    """
    adapter, w = tuned.get(name), layer[name]
    if isinstance(adapter, Ia3) and adapter.on_input:
        x = apply_ia3(x, adapter)
    if isinstance(adapter, Tap):
        return _with_bias(tap_output(product(tap_input(x, adapter.inputs), w, name), adapter.outputs), layer, name)
    y = product(x, w, name)
    if isinstance(adapter, Lora):
        # A key of its own for each linear map, or all would drop the same inputs.
        own = None if key is None else jax.random.fold_in(key, LINEARS.index(name))
        dora = adapter.magnitude is not None
        y = y + (apply_dora(x, y, w, adapter, own, number) if dora else apply_lora(x, adapter, own, number))
    y = _with_bias(y, layer, name)
    return apply_ia3(y, adapter) if isinstance(adapter, Ia3) and not adapter.on_input else y


def _with_bias(y: Array, layer: PyTree, name: str) -> Array:
    bias = layer.get(BIASES.get(name, ""))
    return y if bias is None else y + jnp.expand_dims(bias, range(y.ndim - 1)).astype(y.dtype)
