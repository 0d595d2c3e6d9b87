"""What a run decodes with: its adapters merged into a copy, laid out where few rows read it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.trained import policy
from lqlm.adapters.configs import LoraConfig
from lqlm.models.decoding import MOST_ROWS
from lqlm.models.products import with_products
from lqlm.models.transformer import forward, logits
from lqlm.quant.qtensor import QuantConfig
from tests.tiny import tiny_adapters, tiny_base, tiny_config

LORA = LoraConfig(rank=3, alpha=6.0)


@pytest.fixture(scope="module")
def model():
    cfg = tiny_config("qwen2")
    base = with_products(tiny_base(jax.random.key(5), cfg, QuantConfig(block=32)), "bfloat16")
    return cfg, base, tiny_adapters(jax.random.key(2), base)


@pytest.mark.parametrize(("rows", "apart"), [(0, False), (1, True), (MOST_ROWS, True), (MOST_ROWS + 1, False)])
def test_the_copy_is_laid_out_for_few_rows(model, rows, apart):
    cfg, base, adapters = model
    tokens, mask = jnp.arange(10, dtype=jnp.int32).reshape(2, 5), jnp.ones((2, 5), bool)
    merged, left = policy(LORA, True, rows=rows)(base, adapters)
    assert left is None and isinstance(merged["layers"], tuple) is apart and merged["embed"] is base["embed"]
    score = lambda base, adapters: logits(base, forward(base, adapters, tokens, mask, cfg))  # noqa: E731
    np.testing.assert_allclose(score(merged, None), score(base, adapters), atol=0.1)


def test_nothing_is_copied_where_nothing_is_merged(model):
    _, base, adapters = model
    assert policy(LORA, False, rows=4)(base, adapters) == (base, adapters)


def test_float32_keeps_its_stacks(model):
    cfg, _, _ = model
    base = tiny_base(jax.random.key(5), cfg, QuantConfig(block=32))
    merged, _ = policy(LORA, True, rows=4)(base, tiny_adapters(jax.random.key(2), base))
    assert merged["layers"]["q_proj"].ndim == 3 and merged["head"] is base["head"]
