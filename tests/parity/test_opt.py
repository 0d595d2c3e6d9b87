"""OPT beside transformers and PEFT: a directory that is written here, and adapters that are."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import Ia3Config, LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.io.export import save_hf
from lqlm.io.peft import load_peft, save_peft
from lqlm.io.safetensors import open_safetensors, read_json
from lqlm.models.convert import from_hf_tensors
from lqlm.models.hf_config import config_from_hf
from lqlm.models.transformer import forward, logits

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

FOLDER = pathlib.Path(__file__).parent.parent / "goldens" / "transformers" / "opt"
SPEC = importlib.util.spec_from_file_location("make_transformers", FOLDER.parent.parent / "make_transformers.py")
maker = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(maker)


@pytest.fixture(scope="module")
def ours():
    weights, config = open_safetensors(FOLDER), config_from_hf(read_json(FOLDER / "config.json"))
    return from_hf_tensors(weights.get, weights.names, config, quant=None, dtype="float32"), config


def check(ours, adapters, theirs):
    base, config = ours
    tokens, mask = maker.tiny_inputs()
    hidden = forward(base, adapters, jnp.asarray(tokens), jnp.asarray(mask), config)
    peer = maker.masked_logits(theirs.eval(), tokens, mask)
    np.testing.assert_allclose(np.asarray(logits(base, hidden))[mask], peer[mask], rtol=0, atol=1e-4)
    return peer


def test_transformers_reads_the_directory_that_is_written(ours, tmp_path):
    save_hf(tmp_path, *ours, dtype="float32")
    check(ours, None, transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("cfg", [LoraConfig(rank=3, bias="lora_only"), Ia3Config()], ids=["lora", "ia3"])
def test_peft_reads_the_adapters_and_they_come_back_from_it(ours, tmp_path, cfg):
    """bias "all" would be the norms' too, which PEFT writes and this refuses to read."""
    base, config = ours
    _, adapters = init_adapters(jax.random.key(0), base, cfg)
    adapters = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape), adapters)
    save_peft(tmp_path / "ours", adapters, cfg, config, str(FOLDER))  # PEFT looks it up
    plain = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    before = check(ours, None, plain)
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "ours")
    assert np.abs(check(ours, adapters, adapted) - before).max() > 0.1
    adapted.save_pretrained(tmp_path / "theirs")
    found, _ = load_peft(tmp_path / "theirs", config)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, atol=1e-6), found, adapters)
