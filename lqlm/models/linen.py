"""A thin Flax Linen facade: the same functions behind ``apply``, for code that expects a module."""

import flax.linen as nn

from lqlm.errors import UserError
from lqlm.models.config import ModelConfig
from lqlm.models.remat import Remat
from lqlm.models.transformer import bind, forward, logits
from lqlm.types import Array


class Transformer(nn.Module):
    """``apply({"base": base, "lora": adapters}, tokens, mask)`` equals ``logits(base, forward(base, adapters, ...))``.

    Two collections: ``base``, the frozen weights (dense or in 4 bits), and ``lora``, the adapters, the only one to
    differentiate; without it the module is the reference policy.  Weights come from :mod:`lqlm.io.load`, adapters from
    :func:`lqlm.adapters.init.init_adapters`; ``init`` makes neither.

    Attributes:
        cfg: the model's shape.
        remat: what is computed again in the backward pass, see :mod:`lqlm.models.remat`.
    """

    cfg: ModelConfig
    remat: Remat = "none"

    @nn.compact
    def __call__(self, tokens_BT: Array, mask_BT: Array) -> Array:
        """Float32 logits ``[B, T, V]``; with ``rngs={"dropout": key}`` the adapters' dropout is on.

        Args:
            tokens_BT: int32.
            mask_BT: true at real tokens.
        """
        base, adapters = bind(self.variables.get("base"), self.variables.get("lora"))
        if base is None:
            raise UserError('Transformer: no collection "base"; call apply({"base": base}, ...) with loaded weights')
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        hidden = forward(base, adapters, tokens_BT, mask_BT, self.cfg, dropout_key=key, remat=self.remat)
        return logits(base, hidden)
