"""A scalar head on the last hidden states: rewards of whole texts, and values of the states before each token.

The head is a small tree of its own, ``{"kernel": [D], "bias": []}`` in float32, and is trained as the entry "score" of
the adapters' tree; the layers do not look at it.
"""

import jax
import jax.numpy as jnp

from lqlm.errors import UserError
from lqlm.models.config import ModelConfig
from lqlm.models.groups import forward_groups
from lqlm.models.remat import Remat
from lqlm.models.transformer import forward
from lqlm.types import Array, Key, PyTree


def init_scalar_head(key: Key, width: int) -> PyTree:
    """A head before training: kernel ``~ N(0, 1 / (D + 1))``, bias 0.

    Stiennon et al. (arXiv:2009.01325); Huang et al. (arXiv:2403.17031), detail 12.

    Args:
        key: consumed.
        width: D of the model.

    Returns:
        ``{"kernel": float32 [D], "bias": float32 []}``.
    """
    kernel = jax.random.normal(key, (width,), jnp.float32) * (width + 1) ** -0.5
    return {"kernel": kernel, "bias": jnp.zeros((), jnp.float32)}


def scalars(head: PyTree, hidden: Array) -> Array:
    """The head's number for each hidden state, ``h . kernel + bias``, in float32.

    Args:
        head: as from :func:`init_scalar_head`.
        hidden: [..., D], any float type.

    Returns:
        float32 [...].

    >>> print(scalars({"kernel": jnp.array([1.0, 2.0]), "bias": jnp.array(0.5)}, jnp.array([[3.0, 4.0]])))
    [11.5]
    """
    kernel, bias = (head[name].astype(jnp.float32) for name in ("kernel", "bias"))
    return jnp.matmul(hidden.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST) + bias


def last_real(x_BT: Array, mask_BT: Array) -> Array:
    """The entry of each row at its last real token, whichever side the padding is on.

    Args:
        x_BT: [B, T, ...].
        mask_BT: bool, true at real tokens.

    Returns:
        [B, ...]; 0 in a row without a real token.

    >>> mask = jnp.array([[True, True, False], [False, True, True], [False, False, False]])
    >>> print(last_real(jnp.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]), mask))
    [2 6 0]
    """
    mask = mask_BT.astype(bool)
    at = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    found = x_BT[jnp.arange(len(x_BT)), at]
    some = jnp.any(mask, axis=1).reshape(-1, *[1] * (found.ndim - 1))
    return jnp.where(some, found, jnp.zeros_like(found))


def sequence_scores(
    base: PyTree,
    adapters_with_score: PyTree,
    tokens_BT: Array,
    mask_BT: Array,
    cfg: ModelConfig,
    *,
    remat: Remat = "none",
    dropout_key: Key | None = None,
) -> Array:
    """The head's number at the last real token of each row: the score of a reward model.

    Args:
        base: weights.
        adapters_with_score: the adapters' tree with the head under "score"; the head alone scores the base.
        tokens_BT: int32.
        mask_BT: true at real tokens; padding may stand on the left or on the right.
        cfg: the model's shape.
        remat: what is computed again in the backward pass, see :mod:`lqlm.models.remat`.
        dropout_key: switches the adapters' dropout on.

    Returns:
        float32 [B]; a row without a real token scores the head's bias.

    Raises:
        UserError: when the tree has no head.
    """
    adapters, head = _split(adapters_with_score)
    hidden = forward(base, adapters, tokens_BT, mask_BT, cfg, dropout_key=dropout_key, remat=remat)
    return scalars(head, last_real(hidden, mask_BT))


def completion_values(
    base: PyTree,
    adapters_with_score: PyTree,
    prompts_BP: Array,
    prompt_mask_BP: Array,
    completions_BGC: Array,
    completion_mask_BGC: Array,
    cfg: ModelConfig,
    *,
    remat: Remat = "none",
    dropout_key: Key | None = None,
) -> Array:
    """The head's number for the state before each completion token, each prompt computed once for its group.

    Args:
        base: weights.
        adapters_with_score: the adapters' tree with the head under "score".
        prompts_BP: left-padded.
        prompt_mask_BP: true at real tokens.
        completions_BGC: right-padded.
        completion_mask_BGC: true at real tokens.
        cfg: the model's shape.
        remat: what is computed again in the backward pass, see :mod:`lqlm.models.remat`.
        dropout_key: switches the adapters' dropout on.

    Returns:
        float32 ``[B, G, C]``: entry c is the value of the prompt with the first c tokens of the completion; at
        padding finite, and without meaning.

    Raises:
        UserError: when the tree has no head.
    """
    adapters, head = _split(adapters_with_score)
    hidden = forward_groups(
        base,
        adapters,
        prompts_BP,
        prompt_mask_BP,
        completions_BGC,
        completion_mask_BGC,
        cfg,
        dropout_key=dropout_key,
        remat=remat,
    )
    return scalars(head, hidden)


def completion_scores(
    base: PyTree,
    adapters_with_score: PyTree,
    prompts_BP: Array,
    prompt_mask_BP: Array,
    completions_BGC: Array,
    completion_mask_BGC: Array,
    cfg: ModelConfig,
    *,
    remat: Remat = "none",
    dropout_key: Key | None = None,
) -> Array:
    """The head's number at the last real token of each completion, each prompt computed once for its group.

    Equals :func:`sequence_scores` of the rows ``prompt + completion``; the arguments are those of
    :func:`completion_values`.

    Returns:
        float32 ``[B, G]``; an empty completion has the score of its prompt.

    Raises:
        UserError: when the tree has no head.
    """
    adapters, head = _split(adapters_with_score)
    # One place more: entry n of a group's hidden states is that after n tokens, and all C have to be seen.
    one_more = ((0, 0), (0, 0), (0, 1))
    hidden = forward_groups(
        base,
        adapters,
        prompts_BP,
        prompt_mask_BP,
        jnp.pad(completions_BGC, one_more),
        jnp.pad(completion_mask_BGC, one_more),
        cfg,
        dropout_key=dropout_key,
        remat=remat,
    )
    count = jnp.sum(completion_mask_BGC, axis=-1, dtype=jnp.int32)
    return scalars(head, jnp.take_along_axis(hidden, count[..., None, None], axis=2)[:, :, 0])


def _split(adapters_with_score: PyTree) -> tuple[PyTree | None, PyTree]:
    """The adapters (None where there are none) and the head."""
    if not adapters_with_score or "score" not in adapters_with_score:
        raise UserError('adapters: no scalar head: put one under the key "score", as from init_scalar_head')
    adapters = {name: tree for name, tree in adapters_with_score.items() if name != "score"}
    return adapters or None, adapters_with_score["score"]
