"""Perplexity of a model on a text that is cut into windows."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.errors import UserError
from lqlm.logprobs import chunked_token_logprobs
from lqlm.models.config import ModelConfig
from lqlm.models.remat import Remat
from lqlm.models.transformer import bind, forward, logits
from lqlm.types import Array, PyTree


def windows(tokens: Sequence[int], length: int, most: int | None = None, where: str = "text") -> np.ndarray:
    """Cut a text into windows that do not overlap; what does not fill a window is left out.

    Where there are more than ``most`` windows, those returned are spread evenly over the text.

    Args:
        tokens: of the whole text.
        length: tokens of a window, at least 2.
        most: windows to return; None is all.
        where: names the text in messages.

    Returns:
        int32 [W, T].

    Raises:
        UserError: when the text does not fill ``most`` windows (or one).

    >>> windows(range(12), 3, most=2).tolist()
    [[0, 1, 2], [6, 7, 8]]
    """
    count, needed = len(tokens) // length, most or 1
    if length < 2:
        raise UserError(f"{where}: windows of {length} tokens leave nothing to predict; take 2 or more")
    if count < needed:
        raise UserError(
            f"{where} is too short: {len(tokens)} tokens where {needed} windows of {length} need {needed * length}; "
            "give a longer text, or fewer or shorter windows"
        )
    whole = np.asarray(tokens[: count * length], np.int32).reshape(count, length)
    return whole if most is None else whole[np.arange(most) * count // most]


def window_nll(
    base: PyTree,
    adapters: PyTree | None,
    tokens_BT: Array,
    cfg: ModelConfig,
    *,
    chunk: int = 512,
    remat: Remat = "none",
) -> Array:
    """Negative log-likelihood of each window's tokens after its first, ``-sum_t log p(x_t | x_<t)``.

    Args:
        base: weights, dense or quantized.
        adapters: or None.
        tokens_BT: int32, without padding.
        cfg: the model's shape.
        chunk: tokens whose logits are held at once.
        remat: what is computed again in a backward pass, see :mod:`lqlm.models.remat`.

    Returns:
        float32 [B], in nats.
    """
    base, adapters = bind(base, adapters)
    hidden = forward(base, adapters, tokens_BT, jnp.ones(tokens_BT.shape, bool), cfg, remat=remat)[:, :-1]
    targets = tokens_BT[:, 1:]
    flat = hidden.reshape(-1, hidden.shape[-1])
    logp, _ = chunked_token_logprobs(flat, lambda h: logits(base, h), targets.reshape(-1), chunk=chunk)
    return -jnp.sum(logp.reshape(targets.shape), axis=1)


def make_perplexity(
    cfg: ModelConfig, *, rows: int = 1, chunk: int = 512
) -> Callable[[PyTree, PyTree | None, np.ndarray], float]:
    """Make ``perplexity(base, adapters, windows)``, ``exp(mean nll)`` over all tokens but each window's first.

    Args:
        cfg: the model's shape.
        rows: windows computed at once; their number need not be a multiple of it.
        chunk: tokens whose logits are held at once.

    Returns:
        A function of base, adapters (or None) and int [W, T]; compiled once per format of the base.
    """

    @jax.jit
    def total(base: PyTree, adapters: PyTree | None, tokens_RT: Array, real_R: Array) -> Array:
        return jnp.sum(jnp.where(real_R, window_nll(base, adapters, tokens_RT, cfg, chunk=chunk), 0.0))

    def perplexity(base: PyTree, adapters: PyTree | None, tokens_WT: np.ndarray) -> float:
        count, length = tokens_WT.shape
        nll = 0.0
        for start in range(0, count, rows):
            part = tokens_WT[start : start + rows]
            real = np.arange(rows) < len(part)
            padded = np.pad(part, ((0, rows - len(part)), (0, 0))).astype(np.int32)
            nll += float(total(base, adapters, padded, real))
        return float(np.exp(nll / (count * (length - 1))))

    return perplexity
