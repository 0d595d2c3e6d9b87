"""PEFT directories: logits of adapters that PEFT wrote, round trips, and what a kill or a full disk leaves."""

import dataclasses
import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from lqlm.adapters.configs import LINEARS, Ia3Config, LoraConfig, PrefixConfig, PromptConfig, target_names
from lqlm.errors import UserError
from lqlm.io.disk import recover_directory, write_directory
from lqlm.io.peft import load_peft, save_peft
from lqlm.models.config import ModelConfig
from lqlm.models.transformer import forward, logits
from tests.io.peft_cases import CASES, CONFIG_OF, WEIGHTS, edit_config, golden_base, model_config, random_adapters


@pytest.fixture(scope="module")
def golden(goldens):
    return goldens / "peft"


@pytest.fixture(scope="module")
def cfg(golden) -> ModelConfig:
    return model_config(golden, "lora")


def run(base, adapters, tokens, cfg):
    mask = jnp.ones(tokens.shape, bool)
    return jax.jit(lambda base, adapters: logits(base, forward(base, adapters, tokens, mask, cfg)))(base, adapters)


@pytest.mark.parametrize("case", CASES)
def test_logits_of_an_adapter_that_peft_wrote(golden, case):
    cfg, base, tokens, without = golden_base(golden, case)
    expected = np.load(golden / "logits.npz")
    assert json.loads(str(expected["versions"]))["peft"] == "0.21.2"
    adapters, found = load_peft(golden / case, cfg)
    if case in CONFIG_OF:
        assert found == CONFIG_OF[case]
    np.testing.assert_allclose(run(base, adapters, tokens, cfg), expected[case], rtol=0, atol=1e-4)
    assert np.abs(expected[case] - without).max() > 0.1


def fields(directory: pathlib.Path):
    return json.loads((directory / "adapter_config.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_what_peft_wrote_is_written_back_bit_equal(golden, case, tmp_path):
    cfg = model_config(golden, case)
    adapters, adapter_cfg = load_peft(golden / case, cfg)
    save_peft(tmp_path / "out", adapters, adapter_cfg, cfg, "some/base")
    ours, theirs = (safetensors.numpy.load_file(d / WEIGHTS) for d in (tmp_path / "out", golden / case))
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == np.float32
        np.testing.assert_array_equal(ours[key], tensor, err_msg=key)
    mine, peft = fields(tmp_path / "out"), fields(golden / case)
    lists = ("target_modules", "feedforward_modules")
    own = {"base_model_name_or_path", *lists}
    # P-tuning is written back as what PEFT itself has kept of it, a prompt.
    own |= {"peft_type", "prompt_tuning_init", "prompt_tuning_init_text"} if case == "p_tuning" else set()
    for key in mine.keys() - own:
        assert mine[key] == peft.get(key), key
    assert set(mine.get("feedforward_modules", [])) == set(peft.get("feedforward_modules", []))
    # "all-linear" is written by PEFT as the names of all modules, in any order.
    ends = {module.split(".")[-1] for module in peft.get("target_modules", [])}
    assert ends == set(mine.get("target_modules", []))
    assert mine["base_model_name_or_path"] == "some/base"
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith('---\nbase_model: "some/base"\nlibrary_name: peft\n')
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "adapter_config.json", WEIGHTS]


def test_fields_that_are_not_written_are_neutral_in_what_peft_writes(golden, cfg, tmp_path):
    save_peft(tmp_path / "out", *load_peft(golden / "lora", cfg), cfg, "base")
    left_out = {k: v for k, v in fields(golden / "lora").items() if k not in fields(tmp_path / "out")}
    assert all(value in (None, {}, False, "megatron.core") for value in left_out.values()), left_out


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_adapters_of_a_changed_base_are_written_for_the_original(golden, cfg, tmp_path, init):
    """The same tensors as PEFT's own conversion of the same adapters."""
    states = np.load(golden / init / "states.npz")
    lora_cfg = LoraConfig(rank=2, alpha=5.0, targets=("q_proj", "down_proj"), init=init)
    trees = {}
    for moment in ("initial", "trained"):
        (tmp_path / moment).mkdir()
        tensors = {key.removeprefix(f"{moment}."): states[key] for key in states.files if key.startswith(moment)}
        (tmp_path / moment / WEIGHTS).write_bytes(safetensors.numpy.save(tensors))
        shutil.copy(golden / init / "adapter_config.json", tmp_path / moment)
        edit_config(tmp_path / moment, r=2, lora_alpha=5)
        trees[moment], _ = load_peft(tmp_path / moment, cfg)
    save_peft(tmp_path / "out", trees["trained"], lora_cfg, cfg, "base", initial=trees["initial"])
    ours, theirs = (safetensors.numpy.load_file(d / WEIGHTS) for d in (tmp_path / "out", golden / init))
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        np.testing.assert_array_equal(ours[key], tensor, err_msg=key)
    mine, peft = fields(tmp_path / "out"), fields(golden / init)
    assert all(mine[key] == peft[key] for key in ("r", "lora_alpha", "init_lora_weights"))


PATTERNS = (("q_proj", 2), ("k_proj", 1)), (("q_proj", 3), ("layers.0.*", 1)), ((".*", 4),)


@hypothesis.given(
    rank=st.integers(1, 4),
    alpha=st.sampled_from([1.0, 8.0, 0.5]),
    targets=st.sets(st.sampled_from(LINEARS), min_size=1),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    kind=st.sampled_from([{}, {"dora": True}, {"lora_bias": True}, {"group": 4}, {"bias": "all"}]),
    rslora=st.booleans(),
    ranks=st.sampled_from([(), *PATTERNS]),
    alphas=st.sampled_from([(), (("down_proj", 0.5), ("q_proj", 3.0))]),
)
@hypothesis.settings(max_examples=10)
def test_round_trip(tmp_path_factory, golden, rank, alpha, targets, dtype, kind, rslora, ranks, alphas):
    cfg = model_config(golden, "bias_all")
    settings = {"rslora": rslora, "rank_pattern": ranks, "alpha_pattern": alphas, **kind}
    lora_cfg = LoraConfig(rank=rank, alpha=alpha, dropout=0.25, targets=tuple(targets), dtype=dtype, **settings)
    adapters = random_adapters(cfg, lora_cfg)
    out = tmp_path_factory.mktemp("adapter")
    save_peft(out, adapters, lora_cfg, cfg, "base")
    loaded, loaded_cfg = load_peft(out, cfg)
    in_order = tuple(name for name in LINEARS if name in targets)
    for name in in_order:
        for layer in range(cfg.layers):
            assert loaded_cfg.rank_at(name, layer) == lora_cfg.rank_at(name, layer)
            assert loaded_cfg.scaling_at(name, layer) == lora_cfg.scaling_at(name, layer)
    same = dataclasses.replace(loaded_cfg, rank_pattern=ranks, alpha_pattern=alphas)
    assert same == dataclasses.replace(lora_cfg, targets=in_order, dtype="float32")
    expected = jax.tree.map(lambda x: x.astype(jnp.float32), adapters)
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)  # scaling and dropout are in the structure
    for a, e in zip(jax.tree.leaves(loaded), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("case", ["lora", "bias_all"])  # of either family
@pytest.mark.parametrize(
    "adapter_cfg",
    [
        Ia3Config(),
        Ia3Config(targets=("all-linear",), feedforward=("q_proj", "down_proj")),
        Ia3Config(targets=("k_proj",), feedforward=()),
        PromptConfig(tokens=2, init="vocabulary"),
        PrefixConfig(tokens=2),
    ],
    ids=str,
)
def test_round_trip_of_other_kinds(golden, tmp_path, case, adapter_cfg):
    cfg = model_config(golden, case)
    adapters = random_adapters(cfg, adapter_cfg)
    save_peft(tmp_path / "out", adapters, adapter_cfg, cfg, "base")
    loaded, loaded_cfg = load_peft(tmp_path / "out", cfg)
    targets = {"targets": target_names(adapter_cfg.targets)} if isinstance(adapter_cfg, Ia3Config) else {}
    assert loaded_cfg == dataclasses.replace(adapter_cfg, **targets)
    assert jax.tree.structure(loaded) == jax.tree.structure(adapters)
    jax.tree.map(np.testing.assert_array_equal, loaded, adapters)


def test_patterns_are_written_for_each_module_where_sorting_would_change_them(cfg, tmp_path):
    """PEFT sorts the fields of its file, and there too the first match counts."""
    lora_cfg = LoraConfig(rank=2, alpha=2.0, targets=("q_proj",), rank_pattern=(("q_proj", 3), ("layers.1.*", 1)))
    save_peft(tmp_path / "out", random_adapters(cfg, lora_cfg), lora_cfg, cfg, "base")
    written = {rf"model\.layers\.{layer}\.self_attn\.q_proj": 3 for layer in range(2)}
    assert fields(tmp_path / "out")["rank_pattern"] == written
    kept = dataclasses.replace(lora_cfg, rank_pattern=(("layers.1.*", 1), ("q_proj", 3)))
    save_peft(tmp_path / "out", random_adapters(cfg, kept), kept, cfg, "base")
    assert fields(tmp_path / "out")["rank_pattern"] == {"layers.1.*": 1, "q_proj": 3}


def test_an_older_adapter_is_replaced_and_nothing_else(cfg, tmp_path):
    for rank in (2, 3):
        lora_cfg = LoraConfig(rank=rank, targets=("q_proj",))
        save_peft(tmp_path / "out", random_adapters(cfg, lora_cfg), lora_cfg, cfg, "base")
        assert load_peft(tmp_path / "out", cfg)[1].rank == rank
    assert os.listdir(tmp_path) == ["out"]
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"out holds other files \(thesis\.txt\); choose a new or empty directory"):
        save_peft(tmp_path / "out", random_adapters(cfg, lora_cfg), lora_cfg, cfg, "base")
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_a_full_disk_keeps_the_older_adapter(cfg, tmp_path, monkeypatch):
    lora_cfg = LoraConfig(rank=2, targets=("q_proj",))
    save_peft(tmp_path / "out", random_adapters(cfg, lora_cfg, 1), lora_cfg, cfg, "base")
    before = (tmp_path / "out" / WEIGHTS).read_bytes()
    write = pathlib.Path.write_bytes

    def full(path, data):
        if path.name == WEIGHTS:
            write(path, data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(UserError, match="disk full while writing"):
        save_peft(tmp_path / "out", random_adapters(cfg, lora_cfg, 2), lora_cfg, cfg, "base")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == before and os.listdir(tmp_path) == ["out"]


CHILD = """
import os, pathlib, shutil, sys
from lqlm.io.disk import write_directory
calls = []
def die_at(call):
    def wrapped(path, *args, **kwargs):
        if str(path).endswith(".part") and call is rmtree:
            return call(path, *args, **kwargs)
        calls.append(path)
        os._exit(9) if len(calls) == int(sys.argv[2]) else None
        return call(path, *args, **kwargs)
    return wrapped
rename, rmtree = pathlib.Path.rename, shutil.rmtree
pathlib.Path.rename, shutil.rmtree = die_at(rename), die_at(rmtree)
write_directory(sys.argv[1], {"a": b"new", "b": b"new"})
"""


@pytest.mark.parametrize("recover", [True, False])
@pytest.mark.parametrize(("call", "expected"), [(1, b"old"), (2, b"old"), (3, b"new")])
def test_a_kill_between_the_renames_loses_nothing(tmp_path, call, expected, recover):
    """A process that dies before the first rename, before the second, and before the old directory is removed."""
    target = tmp_path / "out"
    write_directory(target, {"a": b"old", "b": b"old"})
    child = subprocess.run([sys.executable, "-c", CHILD, str(target), str(call)], capture_output=True, text=True)
    assert child.returncode == 9, child.stderr
    if recover:
        recover_directory(target)
        assert {p.name: p.read_bytes() for p in target.iterdir()} == {"a": expected, "b": expected}
    write_directory(target, {"a": b"newer", "b": b"newer"})
    assert (target / "b").read_bytes() == b"newer" and os.listdir(tmp_path) == ["out"]


def test_loading_recovers_what_a_kill_left(cfg, tmp_path):
    lora_cfg = LoraConfig(rank=2, targets=("q_proj",))
    save_peft(tmp_path / "out", random_adapters(cfg, lora_cfg), lora_cfg, cfg, "base")
    (tmp_path / "out").rename(tmp_path / ".out.old")
    assert load_peft(tmp_path / "out", cfg)[1].rank == 2 and os.listdir(tmp_path) == ["out"]
