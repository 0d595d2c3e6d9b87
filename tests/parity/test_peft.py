"""The golden recomputed with the installed PEFT, and lqlm's directories loaded by it."""

import importlib.util
import json
import pathlib
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.lora import LoraConfig, init_lora
from lqlm.io.peft import load_peft, save_peft
from lqlm.models.config import config_from_hf
from lqlm.models.convert import from_hf_tensors
from lqlm.models.transformer import forward, logits

# The peers warn at import and at use about their own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"


def load_maker():
    spec = importlib.util.spec_from_file_location("make_peft", GOLDENS / "make_peft.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_peft"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def maker():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_maker()


def our_logits(model, cfg, adapters, tokens) -> np.ndarray:
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    base = from_hf_tensors(weights.__getitem__, weights, cfg, quant=None, dtype="float32")
    tokens = jnp.asarray(tokens)
    return np.asarray(logits(base, forward(base, adapters, tokens, jnp.ones(tokens.shape, bool), cfg)))


def test_the_golden_is_what_peft_computes(maker, tmp_path):
    maker.main(str(tmp_path))
    new, old = (np.load(d / "peft" / "base.npz") for d in (tmp_path, GOLDENS))
    assert json.loads(str(new["versions"]))["peft"] == json.loads(str(old["versions"]))["peft"]
    for name in old.files:
        if name != "versions":
            np.testing.assert_allclose(new[name], old[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("targets", [("all-linear",), ("q_proj", "v_proj"), ("(gate|up|down)_proj",)])
def test_peft_loads_what_lqlm_writes(maker, tmp_path, targets):
    model, cfg = maker.random_base(3), config_from_hf(maker.CONFIG)
    lora_cfg = LoraConfig(rank=4, alpha=6.0, dropout=0.1, targets=targets)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    base = from_hf_tensors(weights.__getitem__, weights, cfg, quant=None, dtype="float32")
    rng = np.random.default_rng(0)
    fresh = init_lora(jax.random.key(0), base, lora_cfg)
    adapters = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), fresh)
    save_peft(tmp_path / "adapter", adapters, lora_cfg, cfg, "base")
    tokens = rng.integers(0, cfg.vocab_size, (2, 12)).astype(np.int32)
    ours, without = our_logits(model, cfg, adapters, tokens), our_logits(model, cfg, None, tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT warns about keys that are missing or have no place
        warnings.simplefilter("ignore", FutureWarning)
        adapted = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
    theirs = maker.logits(adapted, tokens)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.abs(theirs - without).max() > 0.1


def test_what_peft_saves_again_is_what_lqlm_wrote(maker, tmp_path):
    """lqlm -> PEFT -> lqlm changes no bit."""
    model, cfg = maker.random_base(3), config_from_hf(maker.CONFIG)
    adapters, lora_cfg = load_peft(GOLDENS / "peft" / "adapter", cfg)
    save_peft(tmp_path / "ours", adapters, lora_cfg, cfg, "base")
    peft.PeftModel.from_pretrained(model, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again, again_cfg = load_peft(tmp_path / "theirs", cfg)
    assert again_cfg == lora_cfg
    jax.tree.map(np.testing.assert_array_equal, again, adapters)
