"""Drawing a token from logits, and finding the best one, each in about one pass over the vocabulary.

``jax.random.categorical`` needs a random number for each logit: on a CPU 50 times the time of what is done here, and
``jnp.argmax`` takes 20 times that of ``jnp.max``.  Both become cheap over blocks of the vocabulary.
"""

import jax
import jax.numpy as jnp

from lqlm.generation.truncation import NEVER
from lqlm.types import Array, Key

BLOCK = 256


def best(logits: Array) -> Array:
    """Number of the largest of ``[..., V]`` logits, int32 ``[...]``; the first of equals, as ``jnp.argmax``.

    >>> print(best(jnp.array([1.0, 3.0, 3.0])))
    1
    """
    blocks = _blocks(logits, -jnp.inf)
    block = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1).astype(jnp.int32)
    return block * BLOCK + jnp.argmax(_take(blocks, block), axis=-1).astype(jnp.int32)


def draw(key: Key, logits: Array) -> Array:
    """One token of each row from ``softmax(logits)``, by inversion: the first whose cumulated probability passes u.

    First a block is drawn by the sum of its probabilities, then a token in it, each with a uniform number of its own;
    probabilities hold to float32's rounding.  A logit of `NEVER` or less is never drawn; where there is no other,
    token 0 is returned.

    Args:
        key: one for all rows, or one for each (typed keys of shape ``[...]``), so that a row's draw depends on
            nothing but its own key.
        logits: float32 ``[..., V]``.

    Returns:
        int32 ``[...]``.
    """
    weights = jnp.where(logits > NEVER, jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True)), 0.0)
    blocks = _blocks(weights, 0.0)
    u = _uniform(key, logits.shape[:-1])
    block = _first_past(jnp.sum(blocks, axis=-1), u[..., 0])
    return block * BLOCK + _first_past(_take(blocks, block), u[..., 1])


def _uniform(key: Key, shape: tuple[int, ...]) -> Array:
    many = jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape != ()
    if not many:
        return jax.random.uniform(key, (*shape, 2))
    return jax.vmap(lambda k: jax.random.uniform(k, (2,)))(key.reshape(-1)).reshape(*shape, 2)


def _first_past(weights: Array, u: Array) -> Array:
    """The first index whose cumulated weight exceeds ``u`` of the whole, among those of positive weight.

    Cumulated sums of floats need not grow where a weight is added, nor stay where none is: hence the largest one as
    the whole, and the second condition.
    """
    positive, upto = weights > 0, jnp.cumsum(weights, axis=-1)
    whole = jnp.max(jnp.where(positive, upto, 0.0), axis=-1)
    return jnp.argmax((upto > (u * whole)[..., None]) & positive, axis=-1).astype(jnp.int32)


def _blocks(x: Array, fill: float) -> Array:
    padding = -x.shape[-1] % BLOCK
    x = jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, padding),), constant_values=fill)
    return x.reshape(*x.shape[:-1], -1, BLOCK)


def _take(blocks: Array, block: Array) -> Array:
    return jnp.take_along_axis(blocks, block[..., None, None], axis=-2)[..., 0, :]
