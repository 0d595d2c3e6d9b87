"""A reward model's directory read by PEFT onto transformers' sequence classification, and the other way."""

import importlib.util
import pathlib
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.adapters.configs import Ia3Config, LoraConfig
from lqlm.io.reward_model import load_reward_model, save_reward_model
from lqlm.models.convert import from_hf_tensors
from lqlm.models.heads import completion_scores, sequence_scores
from lqlm.models.hf_config import config_from_hf
from tests.io.peft_cases import random_adapters

# The peers warn at import and at use about their own deprecations, and of a head that is not in the base: it is in the
# directory.
pytestmark = pytest.mark.filterwarnings("ignore")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")


GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"
PAD = 0


@pytest.fixture(scope="module")
def maker():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = importlib.util.spec_from_file_location("make_peft", GOLDENS / "make_peft.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["make_peft"] = module
        spec.loader.exec_module(module)
        return module


def rows(vocab):
    """Rows of 3, 7 and 5 real tokens, none of them the padding's."""
    rng = np.random.default_rng(0)
    return [rng.integers(1, vocab, n) for n in (3, 7, 5)]


def padded(found, side):
    tokens = np.full((3, 8), PAD)
    for i, row in enumerate(found):
        tokens[i, slice(8 - len(row), 8) if side == "left" else slice(len(row))] = row
    return tokens, tokens != PAD


def classifier(maker, model, family):
    """transformers' classifier of one label over the weights of a language model."""
    settings = {"attn_implementation": "eager", "bos_token_id": None, "eos_token_id": None, "pad_token_id": PAD}
    config = transformers.AutoConfig.for_model(**maker.FAMILIES[family], **settings, num_labels=1)
    found = transformers.AutoModelForSequenceClassification.from_config(config).float().eval()
    missing = found.load_state_dict(
        {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}, strict=False
    )
    assert missing.missing_keys == ["score.weight"] and not missing.unexpected_keys
    return found


def theirs(model, tokens, mask):
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask).long()).logits
    return logits[:, 0].numpy()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("family", "adapter_cfg"),
    [("llama", LoraConfig(rank=3, alpha=6.0)), ("qwen2", LoraConfig(rank=2, dora=True)), ("qwen2", Ia3Config())],
    ids=["lora", "dora", "ia3"],
)
def test_scores_are_those_of_transformers(maker, tmp_path, family, adapter_cfg, side):
    model, cfg = maker.random_base(3, family), config_from_hf(maker.FAMILIES[family])
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    base = from_hf_tensors(weights.__getitem__, weights, cfg, quant=None, dtype="float32")
    adapters = jax.tree.map(lambda x: 0.3 * x, random_adapters(cfg, adapter_cfg))
    kernel = jax.random.normal(jax.random.key(1), (cfg.width,))
    tree = {**adapters, "score": {"kernel": kernel, "bias": jnp.zeros(())}}
    save_reward_model(tmp_path / "ours", tree, adapter_cfg, cfg, "base")
    loaded = peft.PeftModel.from_pretrained(classifier(maker, model, family), tmp_path / "ours").eval()
    found = rows(cfg.vocab_size)
    tokens, mask = padded(found, side)
    run = jax.jit(lambda tree: sequence_scores(base, tree, jnp.asarray(tokens, jnp.int32), jnp.asarray(mask), cfg))
    want = theirs(loaded, tokens, mask)
    np.testing.assert_allclose(run(tree), want, rtol=0, atol=1e-4)
    assert np.abs(run({"score": tree["score"]}) - want).max() > 0.1
    # And what PEFT saves again is read here, bit by bit.
    loaded.save_pretrained(tmp_path / "theirs")
    again, _ = load_reward_model(tmp_path / "theirs", cfg)
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    # A completion of a shared prompt has the score of its row.
    prompt = np.stack([row[:2] for row in found]).astype(np.int32)
    own, own_mask = padded([row[2:] for row in found], "right")
    groups = (prompt, np.ones_like(prompt, bool), own[:, None].astype(np.int32), own_mask[:, None])
    shared = jax.jit(lambda: completion_scores(base, tree, *map(jnp.asarray, groups), cfg))()
    np.testing.assert_allclose(shared[:, 0], want, rtol=0, atol=1e-4)
