"""Reward models as PEFT directories: written and read back, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from lqlm.adapters.configs import Ia3Config, LoraConfig, PromptConfig
from lqlm.adapters.init import init_adapters
from lqlm.errors import UserError
from lqlm.io.peft import load_peft, save_peft
from lqlm.io.reward_model import SCORE, load_reward_model, save_reward_model
from tests.io.peft_cases import WEIGHTS
from tests.tiny import tiny_adapters, tiny_base, tiny_config

CFG = tiny_config()
BASE = tiny_base(jax.random.key(0), CFG)
LORA = LoraConfig(rank=3, alpha=6.0)
HEAD = {"kernel": jnp.linspace(-1.0, 1.0, CFG.width), "bias": jnp.zeros(())}
TREE = {**tiny_adapters(jax.random.key(1), BASE), "score": HEAD}


@pytest.fixture
def saved(tmp_path):
    save_reward_model(tmp_path / "reward", TREE, LORA, CFG, "some/base")
    return tmp_path / "reward"


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def replace(folder, **tensors):
    found = safetensors.numpy.load_file(folder / WEIGHTS) | {SCORE: tensors["score"]}
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save({k: v for k, v in found.items() if v is not None}))


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_what_is_written_is_read_back(tmp_path, kind):
    cfg = LORA if kind == "lora" else Ia3Config()
    tree = TREE if kind == "lora" else {**init_adapters(jax.random.key(0), BASE, cfg)[1], "score": HEAD}
    save_reward_model(tmp_path / "out", tree, cfg, CFG, "some/base")
    found, found_cfg = load_reward_model(tmp_path / "out", CFG)
    assert type(found_cfg) is type(cfg) and jax.tree.structure(found) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, found, tree)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found))


def test_the_fields_and_the_card(saved):
    fields = json.loads((saved / "adapter_config.json").read_text())
    assert (fields["task_type"], fields["modules_to_save"]) == ("SEQ_CLS", ["classifier", "score"])
    assert fields["base_model_name_or_path"] == "some/base"
    assert safetensors.numpy.load_file(saved / WEIGHTS)[SCORE].shape == (1, CFG.width)
    assert "pipeline_tag: text-classification" in (saved / "README.md").read_text()


def test_lists_that_peft_has_made_longer(saved):
    edit(saved, modules_to_save=["classifier", "score", "classifier", "score"])
    found, _ = load_reward_model(saved, CFG)
    jax.tree.map(np.testing.assert_array_equal, found, TREE)


REFUSED = {
    "another module": ({"modules_to_save": ["score", "lm_head"]}, None, "modules_to_save = .*lm_head.* not supported"),
    "no head": ({}, (), "score.weight is missing"),
    "two labels": ({}, np.zeros((2, CFG.width), np.float32), r"\[2, 16\]; one score and this model's width"),
    "not finite": ({}, np.full((1, CFG.width), np.nan, np.float32), "score.weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_directories_that_cannot_be_read(saved, name):
    fields, score, told = REFUSED[name]
    edit(saved, **fields)
    if score is not None:
        replace(saved, score=None if isinstance(score, tuple) else score)
    with pytest.raises(UserError, match=told):
        load_reward_model(saved, CFG)


def test_each_reader_names_the_other(saved, tmp_path):
    with pytest.raises(UserError, match=r"is a reward model: read it with lqlm\.io\.reward_model"):
        load_peft(saved, CFG)
    save_peft(tmp_path / "policy", {"layers": TREE["layers"]}, LORA, CFG, "base")
    with pytest.raises(UserError, match=r"is no reward model \(task_type 'CAUSAL_LM'\)"):
        load_reward_model(tmp_path / "policy", CFG)


def test_what_has_no_place_in_a_directory(tmp_path):
    biased = {**TREE, "score": {**HEAD, "bias": jnp.asarray(0.5)}}
    with pytest.raises(UserError, match=r"bias is 0\.5"):
        save_reward_model(tmp_path / "x", biased, LORA, CFG, "base")
    narrow = {**TREE, "score": {**HEAD, "kernel": jnp.zeros(3)}}
    with pytest.raises(UserError, match=r"the head is \[3\], the model's width 16"):
        save_reward_model(tmp_path / "x", narrow, LORA, CFG, "base")
    with pytest.raises(UserError, match=r"LoRA or \(IA\)\^3 only"):
        save_reward_model(tmp_path / "x", {"score": HEAD}, PromptConfig(), CFG, "base")
    assert not (tmp_path / "x").exists()
