"""One update of the adapters by any algorithm: micro-batches, gradient, optimizer, refusal of what is not finite.

An algorithm enters as an :class:`Objective`, a few functions of arrays; the model enters there too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from lqlm.errors import UserError
from lqlm.layout import BATCH, constrain
from lqlm.trees import commit, global_norm
from lqlm.types import Array, Key, PyTree

Metrics = dict[str, Array]


@flax.struct.dataclass
class TrainState:
    """What training changes, and all that a checkpoint of it holds beside keys and data."""

    adapters: PyTree
    opt_state: PyTree
    step: Array  # int32 [], calls of update, the skipped ones among them
    skipped: Array  # int32 [], skipped in a row until now; for the host to stop at a limit
    skipped_total: Array  # int32 []


class Objective(NamedTuple):
    """What an algorithm tells the update.

    Attributes:
      loss: ``(adapters, base, part, key) -> (value [], sums)`` of one micro-batch; values and sums of all parts of a
        batch add up to those of the batch.  ``part`` is a slice of what ``prepare`` gave, ``key`` may be None.
      prepare: of the full batch, before it is split: what must see all of it, such as the weight of each token, beside
        the batch itself.  Every array has a leading axis that is split; a scalar goes to each part.
      finish: of the sums, added up over all parts: means over tokens, or whatever is to be logged.
    """

    loss: Callable[[PyTree, PyTree, Any, Any], tuple[Array, Metrics]]
    prepare: Callable[[Any], PyTree]
    finish: Callable[[Metrics], Metrics]


Update = Callable[[TrainState, PyTree, Any, Any], tuple[TrainState, Metrics]]


def init_state(adapters: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first update, committed to its device so that the step compiles once.

    Args:
      adapters: a tree of float arrays.  The state takes them over: when it is donated, they are gone.
      optimizer: any optax transformation.

    Returns:
      A `TrainState`.
    """
    adapters = commit(adapters)
    zeros = [jnp.zeros((), jnp.int32) for _ in range(3)]  # one buffer each: a donated one may not be given twice
    return TrainState(adapters, commit(optimizer.init(adapters)), *commit(zeros))


def make_update(objective: Objective, optimizer: optax.GradientTransformation, *, micro_batches: int = 1) -> Update:
    """Make the pure function that performs one update.

    The gradient is that of the full batch whatever the number of micro-batches, for every reduction: the weight of
    each token is computed before the batch is split.  Where the loss or the gradient is not finite, adapters and
    optimizer state stay as they were and the skip is counted; a `lqlm.optim.paged.paged` state learns of it by the
    extra argument ``finite``.

    Args:
      objective: of the algorithm, such as `lqlm.algorithms.grpo.grpo_objective`.
      optimizer: any optax transformation.
      micro_batches: how many parts the batch is split into; must divide its leading axis.

    Returns:
      ``update(state, base, batch, key) -> (state, metrics)``, to be jitted with the state donated.  The key (or None)
      is consumed: give every update its own.  Metrics are float32 []: those of the objective, ``loss``,
      ``grad_norm`` (before clipping), ``finite`` (1, or 0 when skipped), ``skipped`` and ``skipped_total``.
    """
    if micro_batches < 1:
        raise UserError(f"make_update: micro_batches {micro_batches}: take 1 or more")
    optimizer = optax.with_extra_args_support(optimizer)

    def loss(adapters: PyTree, base: PyTree, part: PyTree, key: Any) -> tuple[Array, Metrics]:
        value, sums = objective.loss(adapters, base, part, key)
        return value, {**sums, "loss": value}

    def update(state: TrainState, base: PyTree, batch: Any, key: Key | None) -> tuple[TrainState, Metrics]:
        data = objective.prepare(batch)
        grads, sums = _accumulate(jax.grad(loss, has_aux=True), state.adapters, base, data, key, micro_batches)
        grad_norm = global_norm(grads)
        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(grad_norm)
        new = _apply(optimizer, state, grads, finite)
        flags = {"finite": finite, "skipped": new.skipped, "skipped_total": new.skipped_total}
        metrics = {name: x.astype(jnp.float32) for name, x in flags.items()}
        return new, objective.finish(sums) | {"grad_norm": grad_norm} | metrics

    return update


def _accumulate(
    grad: Callable, adapters: PyTree, base: PyTree, data: PyTree, key: Key | None, micro_batches: int
) -> tuple[PyTree, Metrics]:
    """Sum of gradients and of metrics over the micro-batches; the gradients are added up in float32."""
    if micro_batches == 1:
        return grad(adapters, base, data, key)
    keys = None if key is None else jax.random.split(key, micro_batches)
    parts = (jax.tree.map(lambda x: _split(x, micro_batches), data), keys)

    def add(total: PyTree, part: PyTree) -> tuple[PyTree, Metrics]:
        grads, sums = grad(adapters, base, *part)
        return jax.tree.map(lambda t, g: t + g.astype(jnp.float32), total, grads), sums

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), adapters)
    total, sums = jax.lax.scan(add, zeros, parts)
    grads = jax.tree.map(lambda g, x: g.astype(x.dtype), total, adapters)
    return grads, jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)


def _split(x: Array, parts: int) -> Array:
    if x.ndim == 0:
        return jnp.broadcast_to(x, (parts,))
    if x.shape[0] % parts:
        raise UserError(f"update: a batch of {x.shape[0]} in {parts} micro_batches: choose a divisor of the batch")
    return constrain(x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), None, BATCH)


def _apply(optimizer: Any, state: TrainState, grads: PyTree, finite: Array) -> TrainState:
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it: decay ** count is float and int32
        updates, opt_state = optimizer.update(grads, state.opt_state, state.adapters, finite=finite)
        adapters = optax.apply_updates(state.adapters, updates)
    skipped = 1 - finite.astype(jnp.int32)
    return TrainState(
        adapters=_choose(finite, adapters, state.adapters),
        opt_state=_choose(finite, opt_state, state.opt_state),
        step=state.step + 1,
        skipped=(state.skipped + 1) * skipped,
        skipped_total=state.skipped_total + skipped,
    )


def _choose(finite: Array, new: PyTree, old: PyTree) -> PyTree:
    """New where finite, else old.  What lies on the host was chosen by `paged`: the device cannot compute there."""

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(finite, new, old) if jax.typeof(new).memory_space == jax.memory.Space.Device else new

    return jax.tree.map(choose, new, old)
