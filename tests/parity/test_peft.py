"""The goldens recomputed with the installed PEFT, and lqlm's directories loaded by it, for every kind of adapter."""

import importlib.util
import json
import pathlib
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import Ia3Config, LoraConfig, PrefixConfig, PromptConfig
from lqlm.adapters.init import init_adapters
from lqlm.io.peft import load_peft, save_peft
from lqlm.models.convert import from_hf_tensors
from lqlm.models.hf_config import config_from_hf
from lqlm.models.transformer import forward, logits
from tests.io.peft_cases import CASES, model_config, random_adapters

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


def base_of(model, cfg):
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return from_hf_tensors(weights.__getitem__, weights, cfg, quant=None, dtype="float32")


def our_logits(base, adapters, tokens, cfg) -> np.ndarray:
    tokens = jnp.asarray(tokens)
    mask = jnp.ones(tokens.shape, bool)
    run = jax.jit(lambda base, adapters: logits(base, forward(base, adapters, tokens, mask, cfg)))
    return np.asarray(run(base, adapters))


def theirs(maker, model, directory):
    """The directory loaded by PEFT, which warns about keys that are missing or have no place."""
    with maker.qalora_of_dense_layers(), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message=".*merging LoRA weights won't be possible.*")
        warnings.filterwarnings("ignore", message=".*alpha_pattern keys did not match any targeted module.*")
        return peft.PeftModel.from_pretrained(model, directory).eval()


def test_the_goldens_are_what_peft_computes(maker, tmp_path):
    maker.main(str(tmp_path))
    arrays = sorted(path.relative_to(GOLDENS) for path in (GOLDENS / "peft").rglob("*.npz"))
    assert len(arrays) == 6
    for path in arrays:
        new, old = np.load(tmp_path / path), np.load(GOLDENS / path)
        assert new.files == old.files
        for name in set(old.files) - {"versions"}:
            np.testing.assert_allclose(new[name], old[name], rtol=0, atol=2e-5, err_msg=f"{path} {name}")
    new, old = (np.load(d / "peft" / "logits.npz")["versions"] for d in (tmp_path, GOLDENS))
    assert json.loads(str(new))["peft"] == json.loads(str(old))["peft"]


PATTERNS = {"rank_pattern": (("q_proj", 4), ("layers.0.*", 1)), "alpha_pattern": (("down_proj", 3.0), ("v_proj", 9.0))}
SOME = ("[qv]_proj", "down_proj")


@pytest.mark.parametrize(
    ("family", "adapter_cfg"),
    [
        ("llama", LoraConfig(rank=4, alpha=6.0, dropout=0.1)),
        ("llama", LoraConfig(rank=4, alpha=6.0, targets=("q_proj", "v_proj"), init="gaussian")),
        ("qwen2", LoraConfig(rank=4, alpha=6.0, targets=("(gate|up|down)_proj",), rslora=True)),
        ("llama", LoraConfig(rank=2, alpha=6.0, **PATTERNS)),
        ("qwen2", LoraConfig(rank=2, alpha=6.0, dora=True, rslora=True, **PATTERNS)),
        ("qwen2", LoraConfig(rank=2, alpha=6.0, lora_bias=True)),
        ("qwen2", LoraConfig(rank=2, alpha=6.0, targets=SOME, bias="all")),
        ("qwen2", LoraConfig(rank=2, alpha=6.0, targets=SOME, bias="lora_only", dora=True)),
        ("llama", LoraConfig(rank=2, alpha=6.0, targets=SOME, group=8)),
        ("llama", Ia3Config()),
        ("qwen2", Ia3Config(targets=("all-linear",), feedforward=("q_proj", "down_proj"))),
        ("llama", PromptConfig(tokens=3, init="random")),
        ("qwen2", PromptConfig(tokens=3)),
        ("llama", PrefixConfig(tokens=3)),
        ("qwen2", PrefixConfig(tokens=3)),
    ],
    ids=str,
)
def test_peft_loads_what_lqlm_writes(maker, tmp_path, family, adapter_cfg):
    model, cfg = maker.random_base(3, family), config_from_hf(maker.FAMILIES[family])
    adapters = jax.tree.map(lambda x: 0.3 * x, random_adapters(cfg, adapter_cfg))
    save_peft(tmp_path / "adapter", adapters, adapter_cfg, cfg, "base")
    base, tokens = base_of(model, cfg), maker.random_tokens()
    ours, without = our_logits(base, adapters, tokens, cfg), our_logits(base, None, tokens, cfg)
    found = maker.logits(theirs(maker, model, tmp_path / "adapter"), tokens)
    np.testing.assert_allclose(ours, found, rtol=0, atol=1e-4)
    assert np.abs(found - without).max() > 0.1


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"rslora": True, **PATTERNS}], ids=["plain", "dora", "ranks"])
def test_an_adapter_of_a_changed_base_is_loaded_beside_the_original(maker, tmp_path, init, settings):
    model, cfg = maker.random_base(3), config_from_hf(maker.CONFIG)
    lora_cfg = LoraConfig(rank=2, alpha=6.0, targets=SOME, init=init, **settings)
    changed, initial = init_adapters(jax.random.key(0), base_of(model, cfg), lora_cfg)
    noise = random_adapters(cfg, lora_cfg)
    trained = jax.tree.map(lambda x, y: x + 0.1 * y, initial, noise)
    save_peft(tmp_path / "adapter", trained, lora_cfg, cfg, "base", initial=initial)
    tokens = maker.random_tokens()
    ours, without = our_logits(changed, trained, tokens, cfg), our_logits(changed, initial, tokens, cfg)
    found = maker.logits(theirs(maker, model, tmp_path / "adapter"), tokens)
    np.testing.assert_allclose(ours, found, rtol=0, atol=1e-4)
    assert np.abs(found - without).max() > 0.1


@pytest.mark.parametrize("case", [case for case in CASES if case != "p_tuning"])
def test_what_peft_saves_again_is_what_lqlm_wrote(maker, tmp_path, case):
    """lqlm -> PEFT -> lqlm changes no bit."""
    cfg = model_config(GOLDENS / "peft", case)
    model = maker.random_base(3, cfg.family)
    adapters, adapter_cfg = load_peft(GOLDENS / "peft" / case, cfg)
    save_peft(tmp_path / "ours", adapters, adapter_cfg, cfg, "")
    theirs(maker, model, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again, again_cfg = load_peft(tmp_path / "theirs", cfg)
    assert again_cfg == adapter_cfg
    assert jax.tree.structure(again) == jax.tree.structure(adapters)
    jax.tree.map(np.testing.assert_array_equal, again, adapters)
