"""PEFT directories: logits of an adapter that PEFT wrote, round trips, and what is refused."""

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

from lqlm.adapters.lora import LINEARS, LoraConfig, init_lora
from lqlm.errors import UserError
from lqlm.io.disk import recover_directory, write_directory
from lqlm.io.peft import load_peft, save_peft
from lqlm.models.config import ModelConfig, config_from_hf
from lqlm.models.convert import from_hf_tensors
from lqlm.models.transformer import forward, logits

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def golden(goldens):
    return goldens / "peft"


@pytest.fixture(scope="module")
def cfg(golden) -> ModelConfig:
    return config_from_hf(json.loads((golden / "config.json").read_text()))


@pytest.fixture
def adapter(golden, tmp_path) -> pathlib.Path:
    """A copy of PEFT's directory, to be damaged."""
    return pathlib.Path(shutil.copytree(golden / "adapter", tmp_path / "adapter"))


def random_adapters(cfg: ModelConfig, lora_cfg: LoraConfig, seed: int = 0):
    """Fresh adapters with every number drawn, ``b`` included."""
    shapes = {
        "q_proj": (cfg.width, cfg.heads * cfg.head_dim),
        "k_proj": (cfg.width, cfg.kv_heads * cfg.head_dim),
        "v_proj": (cfg.width, cfg.kv_heads * cfg.head_dim),
        "o_proj": (cfg.heads * cfg.head_dim, cfg.width),
        "gate_proj": (cfg.width, cfg.ffn),
        "up_proj": (cfg.width, cfg.ffn),
        "down_proj": (cfg.ffn, cfg.width),
    }
    base = {"layers": {name: jax.ShapeDtypeStruct((cfg.layers, *shape), jnp.float32) for name, shape in shapes.items()}}
    rng = np.random.default_rng(seed)
    fresh = init_lora(jax.random.key(seed), base, lora_cfg)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), fresh)


def test_logits_of_an_adapter_that_peft_wrote(golden, cfg):
    arrays = np.load(golden / "base.npz")
    assert json.loads(str(arrays["versions"]))["peft"] == "0.21.2"
    names = [name for name in arrays.files if name.endswith(".weight")]
    base = from_hf_tensors(lambda name: arrays[name], names, cfg, quant=None, dtype="float32")
    adapters, lora_cfg = load_peft(golden / "adapter", cfg)
    assert lora_cfg == LoraConfig(rank=3, alpha=5.0, dropout=0.1, targets=LINEARS, dtype="float32")
    tokens = jnp.asarray(arrays["tokens"])
    for tree, expected in ((adapters, arrays["logits"]), (None, arrays["base_logits"])):
        actual = logits(base, forward(base, tree, tokens, jnp.ones(tokens.shape, bool), cfg))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)
    assert np.abs(arrays["logits"] - arrays["base_logits"]).max() > 0.1


def test_what_peft_wrote_is_written_back_bit_equal(golden, cfg, tmp_path):
    adapters, lora_cfg = load_peft(golden / "adapter", cfg)
    save_peft(tmp_path / "out", adapters, lora_cfg, cfg, "some/base")
    ours, theirs = (safetensors.numpy.load_file(d / WEIGHTS) for d in (tmp_path / "out", golden / "adapter"))
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert ours[key].dtype == np.float32
        np.testing.assert_array_equal(ours[key], tensor, err_msg=key)
    mine, peft = (json.loads((d / "adapter_config.json").read_text()) for d in (tmp_path / "out", golden / "adapter"))
    assert mine["target_modules"] == list(LINEARS) and mine["base_model_name_or_path"] == "some/base"
    for key in mine.keys() - {"target_modules", "base_model_name_or_path"}:
        assert mine[key] == peft[key], key
    assert all(value in (None, {}, 16, False, "megatron.core") for key, value in peft.items() if key not in mine)
    assert (tmp_path / "out" / "README.md").read_text().startswith('---\nbase_model: "some/base"\nlibrary_name: peft\n')
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "adapter_config.json", WEIGHTS]


@hypothesis.given(
    rank=st.integers(1, 4),
    alpha=st.sampled_from([1.0, 8.0, 0.5]),
    targets=st.sets(st.sampled_from(LINEARS), min_size=1),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_round_trip(tmp_path_factory, cfg, rank, alpha, targets, dtype):
    lora_cfg = LoraConfig(rank=rank, alpha=alpha, dropout=0.25, targets=tuple(targets), dtype=dtype)
    adapters = random_adapters(cfg, lora_cfg)
    out = tmp_path_factory.mktemp("adapter")
    save_peft(out, adapters, lora_cfg, cfg, "base")
    loaded, loaded_cfg = load_peft(out, cfg)
    in_order = tuple(name for name in LINEARS if name in targets)
    assert loaded_cfg == dataclasses.replace(lora_cfg, targets=in_order, dtype="float32")
    expected = jax.tree.map(lambda x: x.astype(jnp.float32), adapters)
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)  # scaling and dropout are in the structure
    for a, e in zip(jax.tree.leaves(loaded), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(a, e)


def edit_config(directory: pathlib.Path, **changes) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(directory: pathlib.Path, edit) -> None:
    path = directory / WEIGHTS
    tensors = safetensors.numpy.load_file(path)
    edit(tensors)
    path.write_bytes(safetensors.numpy.save(tensors))


Q_A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


def put(tensors, key, value):
    tensors[key] = value


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda d: edit_config(d, peft_type="IA3"),
            r"adapter_config\.json: peft_type 'IA3' is not supported; only LORA",
        ),
        (lambda d: edit_config(d, use_dora=True), r"adapter_config\.json: use_dora = True is not supported"),
        (lambda d: edit_config(d, use_rslora=True), r"use_rslora = True is not supported"),
        (lambda d: edit_config(d, rank_pattern={"q_proj": 2}), r"rank_pattern = .* is not supported"),
        (lambda d: edit_config(d, init_lora_weights="pissa"), r"init_lora_weights = 'pissa' is not supported"),
        (
            lambda d: edit_config(d, r=4),
            r"tensor .*lora_A\.weight has shape \[3, \d+\]; rank 4 of adapter_config\.json",
        ),
        (lambda d: edit_config(d, r=None), r"adapter_config\.json: r = None; it must be a whole number"),
        (lambda d: edit_config(d, lora_alpha="8"), r"lora_alpha = '8' and .* must be numbers"),
        (lambda d: edit_config(d, r=0), r"r = 0.*at least 1"),
        (lambda d: (d / "adapter_config.json").write_text("{"), r"adapter_config\.json: is not valid JSON"),
        (lambda d: (d / "adapter_config.json").unlink(), r"adapter_config\.json: no such file; a PEFT adapter"),
        (lambda d: (d / WEIGHTS).rename(d / "adapter_model.bin"), r"adapter_model\.safetensors: no such file"),
        (lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes()[:-9]), r"safetensors: truncated"),
        (lambda d: edit_weights(d, lambda t: t.pop(Q_A)), r"tensor .*layers\.1.*q_proj\.lora_A\.weight is missing"),
        (lambda d: edit_weights(d, lambda t: put(t, Q_A, t[Q_A][:, :-1].copy())), r"q_proj\.lora_A.*shape \[3, 15\]"),
        (lambda d: edit_weights(d, lambda t: put(t, Q_A, t[Q_A] * np.float32(np.nan))), r"lora_A\.weight holds 48 NaN"),
        (
            lambda d: edit_weights(d, lambda t: put(t, "transformer.h.0.attn", t[Q_A])),
            r"tensor transformer\.h.*no place",
        ),
        (lambda d: edit_weights(d, lambda t: put(t, Q_A.replace("s.1.", "s.2."), t[Q_A])), r"layers\.2.*2 layers"),
        (lambda d: edit_weights(d, lambda t: t.clear()), r"holds no tensor"),
    ],
)
def test_what_is_refused(adapter, cfg, edit, words):
    edit(adapter)
    with pytest.raises(UserError, match=words) as info:
        load_peft(adapter, cfg)
    assert "\n" not in str(info.value)


def test_an_adapter_of_another_model_is_refused(golden, cfg):
    with pytest.raises(UserError, match=r"k_proj\.lora_B\.weight has shape \[12, 3\]; .* need \[24, 3\]"):
        load_peft(golden / "adapter", dataclasses.replace(cfg, kv_heads=4))
    with pytest.raises(UserError, match=r"layers\.2\..* is missing; the adapter is incomplete or"):
        load_peft(golden / "adapter", dataclasses.replace(cfg, layers=3))


def test_adapters_that_contradict_their_config_are_not_written(cfg, tmp_path):
    lora_cfg = LoraConfig(rank=2, alpha=4.0)
    adapters = random_adapters(cfg, lora_cfg)
    for other, words in (
        (dataclasses.replace(lora_cfg, rank=3, alpha=6.0), r"adapter q_proj: factors are \[2, 16, 2\]"),
        (dataclasses.replace(lora_cfg, alpha=5.0), r"adapter q_proj: scaling is 2\.0, the config's alpha / rank 2\.5"),
    ):
        with pytest.raises(UserError, match=words):
            save_peft(tmp_path / "out", adapters, other, cfg, "base")
    with pytest.raises(UserError, match="'lm_head' is on no linear layer"):
        save_peft(tmp_path / "out", {"layers": {"lm_head": adapters["layers"]["q_proj"]}}, lora_cfg, cfg, "base")
    assert not (tmp_path / "out").exists()


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
