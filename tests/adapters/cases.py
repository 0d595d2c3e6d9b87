"""What the tests of adapters share: a tiny model with biases and norms, and adapters of every kind that change it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lqlm.adapters.configs import AdapterConfig, Ia3Config, LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.adapters.lora import Ia3, Lora
from lqlm.models.transformer import forward
from lqlm.types import PyTree
from tests.tiny import pad, ragged, tiny_base, tiny_config

CFG = tiny_config("qwen2")
TOKENS, MASK = pad(ragged(0, (3, 5), CFG.vocab_size), 5, "left")
KINDS: dict[str, AdapterConfig] = {
    "lora": LoraConfig(rank=3, alpha=6.0, dropout=0.4),
    "patterns": LoraConfig(rank=2, rank_pattern=(("layers.1.*", 4),), alpha_pattern=(("q_proj", 3.0),), dropout=0.4),
    "dora": LoraConfig(rank=3, alpha=6.0, dora=True, dropout=0.4),
    "lora_bias": LoraConfig(rank=3, alpha=6.0, lora_bias=True, targets=("[qkv]_proj",), dropout=0.4),
    "bias": LoraConfig(rank=3, alpha=6.0, bias="all", targets=("q_proj", "up_proj"), dropout=0.4),
    "group": LoraConfig(rank=2, alpha=2.0, group=4, dropout=0.4),
    "ia3": Ia3Config(targets=("all-linear",)),
}


@functools.cache
def dense_base() -> PyTree:
    """The tiny model's weights."""
    return tiny_base(jax.random.key(0), CFG)


def random_adapters(base: PyTree, cfg: AdapterConfig, seed: int = 1) -> PyTree:
    """Adapters that change the model, drawn with numpy; zero is what lies beyond a layer's rank."""
    rng = np.random.default_rng(seed)
    fresh = jax.eval_shape(lambda base: init_adapters(jax.random.key(0), base, cfg)[1], base)
    drawn = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), fresh)
    return {**drawn, "layers": {name: _settled(adapter) for name, adapter in drawn["layers"].items()}}


def _settled(adapter: Lora | Ia3) -> Lora | Ia3:
    """Factors and norms around 1, and zeros where they belong."""
    if isinstance(adapter, Ia3):
        return adapter.replace(scale=adapter.scale + jnp.ones((), adapter.scale.dtype))
    if adapter.magnitude is not None:
        adapter = adapter.replace(magnitude=adapter.magnitude + jnp.ones((), adapter.magnitude.dtype))
    kept = (
        np.arange(adapter.b.shape[1])[None] < np.array(adapter.ranks or [adapter.b.shape[1]] * len(adapter.b))[:, None]
    )
    zero = jnp.zeros((), adapter.a.dtype)
    return adapter.replace(a=jnp.where(kept[:, None], adapter.a, zero), b=jnp.where(kept[..., None], adapter.b, zero))


@functools.cache
def tuned(kind: str) -> PyTree:
    """Random adapters of one kind."""
    return random_adapters(dense_base(), KINDS[kind])


run = jax.jit(lambda base, adapters, key=None: forward(base, adapters, TOKENS, MASK, CFG, dropout_key=key)[MASK])
TRACED: list[int] = []


@jax.jit
def gradient(base: PyTree, adapters: PyTree) -> PyTree:
    """By the adapters, of a function of the hidden states; TRACED grows with every compilation."""
    TRACED.append(0)

    def loss(adapters):
        return jnp.sum(jnp.where(MASK[..., None], jnp.sin(forward(base, adapters, TOKENS, MASK, CFG)), 0.0))

    return jax.grad(loss)(adapters)
