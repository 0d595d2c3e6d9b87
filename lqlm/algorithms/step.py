"""One update of the adapters by GRPO: micro-batches, gradient, optimizer, and the refusal of what is not finite.

The model enters as a function that scores completions; nothing here knows what it is.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from lqlm.algorithms import policy
from lqlm.algorithms.grpo import GRPOConfig, Metrics, grpo_loss, mean_metrics, token_sum
from lqlm.errors import UserError
from lqlm.trees import commit, global_norm
from lqlm.types import Array, Key, PyTree


@flax.struct.dataclass
class TrainState:
    """What training changes, and all that a checkpoint of it holds beside keys and data."""

    adapters: PyTree
    opt_state: PyTree
    step: Array  # int32 [], calls of update, the skipped ones among them
    skipped: Array  # int32 [], skipped in a row until now; for the host to stop at a limit
    skipped_total: Array  # int32 []


@flax.struct.dataclass
class GRPOBatch:
    """Rollouts of B prompts with G completions each; prompts left-padded, completions right-padded."""

    prompts_BP: Array  # int32
    prompt_mask_BP: Array  # bool
    completions_BGC: Array  # int32
    completion_mask_BGC: Array  # bool, true up to and including the EOS
    advantages_BG: Array  # float32
    old_logp_BGC: Array | None = None  # float32; None where each rollout serves one update
    ref_logp_BGC: Array | None = None  # float32, of the base without adapters; None where beta is 0


Score = Callable[[PyTree, PyTree, GRPOBatch, Any], tuple[Array, Array]]
Update = Callable[[TrainState, PyTree, GRPOBatch, Any], tuple[TrainState, Metrics]]


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


def make_update(
    score: Score, optimizer: optax.GradientTransformation, cfg: GRPOConfig, *, micro_batches: int = 1
) -> Update:
    """Make the pure function that performs one update.

    The gradient is that of the full batch whatever the number of micro-batches, for every reduction: the weight of
    each token is computed before the batch is split.  Where the loss or the gradient is not finite, adapters and
    optimizer state stay as they were and the skip is counted; a `lqlm.optim.paged.paged` state learns of it by the
    extra argument ``finite``.

    Args:
      score: ``(adapters, base, batch, key) -> (logp_BGC, entropy_BGC)`` of the completions of a batch, whose B is that
        of a micro-batch.
      optimizer: any optax transformation.
      cfg: the constants of the loss.
      micro_batches: how many parts the prompts are split into; must divide B.

    Returns:
      ``update(state, base, batch, key) -> (state, metrics)``, to be jitted with the state donated.  The key (or None)
      is consumed: give every update its own.  Metrics are float32 []: those of `mean_metrics`, ``entropy``,
      ``grad_norm`` (before clipping), ``finite`` (1, or 0 when skipped), ``skipped`` and ``skipped_total``.
    """
    if micro_batches < 1:
        raise UserError(f"make_update: micro_batches {micro_batches}: take 1 or more")
    optimizer = optax.with_extra_args_support(optimizer)

    def loss(adapters: PyTree, base: PyTree, part: tuple[GRPOBatch, Array, Any]) -> tuple[Array, Metrics]:
        batch, weights, key = part
        logp, entropy = score(adapters, base, batch, key)
        mask = batch.completion_mask_BGC
        value, sums = grpo_loss(logp, batch.old_logp_BGC, batch.ref_logp_BGC, batch.advantages_BG, mask, cfg, weights)
        return value, sums | {"entropy": token_sum(entropy, mask)}

    def update(state: TrainState, base: PyTree, batch: GRPOBatch, key: Key | None) -> tuple[TrainState, Metrics]:
        weights = policy.token_weights(batch.completion_mask_BGC, cfg.reduction, max_length=cfg.max_length)
        grads, sums = _accumulate(
            jax.grad(loss, has_aux=True), state.adapters, base, (batch, weights), key, micro_batches
        )
        grad_norm = global_norm(grads)
        finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(grad_norm)
        new = _apply(optimizer, state, grads, finite)
        flags = {"finite": finite, "skipped": new.skipped, "skipped_total": new.skipped_total}
        metrics = {name: x.astype(jnp.float32) for name, x in flags.items()}
        return new, mean_metrics(sums) | {"grad_norm": grad_norm} | metrics

    return update


def _accumulate(
    grad: Callable, adapters: PyTree, base: PyTree, data: PyTree, key: Key | None, micro_batches: int
) -> tuple[PyTree, Metrics]:
    """Sum of gradients and of metrics over the micro-batches; the gradients are added up in float32."""
    if micro_batches == 1:
        return grad(adapters, base, (*data, key))
    keys = None if key is None else jax.random.split(key, micro_batches)
    parts = (*jax.tree.map(lambda x: _split(x, micro_batches), data), keys)

    def add(total: PyTree, part: PyTree) -> tuple[PyTree, Metrics]:
        grads, sums = grad(adapters, base, part)
        return jax.tree.map(lambda t, g: t + g.astype(jnp.float32), total, grads), sums

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), adapters)
    total, sums = jax.lax.scan(add, zeros, parts)
    grads = jax.tree.map(lambda g, x: g.astype(x.dtype), total, adapters)
    return grads, jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)


def _split(x: Array, parts: int) -> Array:
    if x.shape[0] % parts:
        raise UserError(f"update: {x.shape[0]} prompts in {parts} micro_batches: choose a divisor of the prompts")
    return x.reshape(parts, x.shape[0] // parts, *x.shape[1:])


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
