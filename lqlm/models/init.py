"""Random weights for a model that is trained from the beginning."""

import jax
import jax.numpy as jnp

from lqlm.adapters.configs import LINEARS
from lqlm.models.config import ModelConfig
from lqlm.models.convert import layer_tensors, outer_tensors
from lqlm.types import Array, Key, PyTree

_INTO_RESIDUAL = ("o_proj", "down_proj")


def init_base(key: Key, cfg: ModelConfig, dtype: str = "float32", *, std: float = 0.02) -> PyTree:
    """Normal weights as of GPT-2: those that write into the residual stream are divided by ``sqrt(2 L)``.

    Radford et al. 2019, section 2.3.  Norms are 1 and biases 0.

    Args:
        key: consumed.
        cfg: the model's shape.
        dtype: of all arrays.
        std: standard deviation of embedding, head and linear maps.

    Returns:
        A dense base tree, see :mod:`lqlm.models.convert`.
    """
    table = layer_tensors(cfg)
    keys = iter(jax.random.split(key, len(table) + 2 + cfg.learned_positions))

    def normal(shape: tuple[int, ...], scale: float) -> Array:
        return (scale * jax.random.normal(next(keys), shape)).astype(dtype)

    def tensor(name: str, shape: tuple[int, ...]) -> Array:
        stacked = (cfg.layers, *reversed(shape))
        if name in LINEARS:
            return normal(stacked, std / (2 * cfg.layers) ** 0.5 if name in _INTO_RESIDUAL else std)
        return jnp.full(stacked, 1.0 if name.endswith("norm") else 0.0, dtype)

    base = {
        "embed": normal((cfg.vocab_size, cfg.width), std),
        "norm": jnp.ones((cfg.width,), dtype),
        "layers": {name: tensor(name, shape) for name, (_, shape) in table.items()},
    }
    if cfg.learned_positions:
        rows = outer_tensors(cfg)["positions"][1]
        base |= {"norm_bias": jnp.zeros((cfg.width,), dtype), "positions": normal(rows, std)}
    return base if cfg.tied else {**base, "head": normal((cfg.width, cfg.vocab_size), std)}
