"""Checkpoints: bit-equal in every memory kind, whole or absent, and clear when they cannot be had."""

import errno
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lqlm.errors import UserError
from lqlm.io.checkpoint import Checkpoints

HOST = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")


def make_state(seed: int = 0, rank: int = 4) -> dict:
    """Adapters on the device, moments on the host, a key, and leaves of odd kinds."""
    rng = np.random.default_rng(seed)
    params = {
        "layers": {"q_proj": {"a": jnp.asarray(rng.normal(size=(2, 8, rank)), jnp.float32)}},
        "half": jnp.asarray(rng.normal(size=(3,)), jnp.bfloat16),
    }
    moments = optax.adamw(1e-3).init(params)
    moments = jax.tree.map(
        lambda x: x if x.ndim == 0 else jnp.asarray(rng.normal(size=x.shape)).astype(x.dtype), moments
    )
    return {
        "params": jax.device_put(params, jax.devices()[0]),
        "opt": jax.device_put(moments, HOST),
        "key": jax.random.key(seed),
        "raw_key": jax.random.key_data(jax.random.key(seed + 1)),
        "step": np.int32(seed),
        "count": seed,
        "nan": jnp.asarray([np.nan, -0.0, np.inf], jnp.float32),
        "empty": jnp.zeros((0, 2)),
        "nothing": None,
    }


def bits(leaf) -> bytes:
    leaf = jax.random.key_data(leaf) if isinstance(leaf, jax.Array) and leaf.dtype == jax.random.key(0).dtype else leaf
    return np.asarray(leaf).tobytes()


def assert_bit_equal(actual, expected) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), e in zip(jax.tree.flatten_with_path(actual)[0], jax.tree.leaves(expected)):
        name = jax.tree_util.keystr(path)
        assert type(a) is type(e) and getattr(a, "dtype", None) == getattr(e, "dtype", None), name
        assert np.shape(a) == np.shape(e) and bits(a) == bits(e), name
        if isinstance(e, jax.Array):
            assert a.sharding == e.sharding and a.sharding.memory_kind == e.sharding.memory_kind, name
            assert a.committed == e.committed, name


def test_restore_is_bit_equal_and_returns_moments_to_the_host(tmp_path):
    state = make_state(1)
    extra = {"position": 12, "config": {"lr": 1e-3, "targets": ["q", "v"]}, "none": None}
    Checkpoints(tmp_path, keep=2).save(7, state, extra)
    step, restored, extra_read = Checkpoints(tmp_path, keep=2).restore(make_state(2))
    assert (step, extra_read) == (7, extra)
    assert_bit_equal(restored, state)
    assert restored["opt"][0].mu["half"].sharding.memory_kind == "pinned_host"
    assert restored["params"]["half"].sharding.memory_kind == "device"


def test_restore_into_an_abstract_target(tmp_path):
    state = make_state(1)
    Checkpoints(tmp_path, keep=1).save(1, state, {})
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) if isinstance(x, jax.Array) else x, state
    )
    _, restored, _ = Checkpoints(tmp_path, keep=1).restore(abstract)
    for a, e in zip(jax.tree.leaves(restored), jax.tree.leaves(state)):
        assert bits(a) == bits(e)
    assert restored["opt"][0].nu["half"].sharding.memory_kind == "pinned_host"
    _, shapeless, _ = Checkpoints(tmp_path, keep=1).restore(
        jax.eval_shape(lambda: state) | {"step": np.int32(0), "count": 0}
    )
    assert bits(shapeless["key"]) == bits(state["key"])
    draw = jax.random.uniform(restored["key"])
    assert draw == jax.random.uniform(state["key"])


def test_the_restored_state_recompiles_nothing(tmp_path):
    state = {
        "p": jax.device_put(jnp.ones(3), jax.devices()[0]),
        "m": jax.device_put(jnp.ones(3), HOST),
        "free": jnp.ones(3),
    }
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 2, s))
    step(state)
    Checkpoints(tmp_path, keep=1).save(1, state, {})
    _, restored, _ = Checkpoints(tmp_path, keep=1).restore(state)
    step(restored)
    assert step._cache_size() == 1


def test_none_when_there_is_none(tmp_path):
    checkpoints = Checkpoints(tmp_path / "deep" / "er", keep=1)
    assert checkpoints.restore({"a": np.ones(2)}) is None and checkpoints.peek() is None and checkpoints.steps() == []


def test_the_last_k_stay(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 5, 6, 20):
        checkpoints.save(step, {"a": np.full(2, step)}, {"position": step})
    assert checkpoints.steps() == [6, 20]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["20", "6"]
    assert checkpoints.peek() == (20, {"position": 20})
    with pytest.raises(UserError, match="keep at least 1"):
        Checkpoints(tmp_path, keep=0)


def test_the_same_step_again(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(4, {"a": np.ones(2)}, {"pair": (1, 2)})
    checkpoints.save(4, {"a": np.ones(2)}, {"pair": (1, 2)})
    with pytest.raises(UserError, match="step 4 is saved with other contents"):
        checkpoints.save(4, {"a": np.zeros(2)}, {"pair": (1, 2)})
    with pytest.raises(UserError, match="step 3 lies behind checkpoint 4"):
        checkpoints.save(3, {"a": np.ones(2)}, {})


def test_a_copied_directory_restores(tmp_path):
    Checkpoints(tmp_path / "here", keep=1).save(3, make_state(1), {"position": 3})
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    step, restored, _ = Checkpoints(tmp_path / "there", keep=1).restore(make_state(2))
    assert step == 3
    assert_bit_equal(restored, make_state(1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: make_state(0, rank=8), r"leaf opt\.0\.mu\.layers\.q_proj\.a is float32\[2, 8, 4\].*\[2, 8, 8\]"),
        (lambda s: s | {"step": np.int64(0)}, r"leaf step is int32\[\] in the checkpoint and int64\[\] in this run"),
        (lambda s: s | {"more": np.ones(1)}, r"leaf more is absent in the checkpoint and float64\[1\] in this run"),
        (lambda s: {k: s[k] for k in s if k != "nan"}, r"leaf nan is float32\[3\] in the checkpoint and absent"),
    ],
)
def test_another_config_is_named(tmp_path, change, words):
    Checkpoints(tmp_path, keep=1).save(3, make_state(0), {})
    with pytest.raises(UserError, match=words) as info:
        Checkpoints(tmp_path, keep=1).restore(change(make_state(0)))
    assert "\n" not in str(info.value) and Checkpoints(tmp_path, keep=1).steps() == [3]


def damaged(path: pathlib.Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 0xFF
    path.write_bytes(data if how == "flip" else data[: len(data) // 2])


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_damage_anywhere_gives_the_older_checkpoint_or_the_same_bits(tmp_path, how):
    old, new = ({"a": np.arange(500.0) + n, "b": np.full((3, 4), n, np.int32)} for n in range(2))
    for step, state in ((1, old), (2, new)):
        Checkpoints(tmp_path / "clean", keep=2).save(step, state, {"position": step})
    fell_back = 0
    files = sorted(p.relative_to(tmp_path / "clean") for p in (tmp_path / "clean" / "2").rglob("*") if p.is_file())
    for n, file in enumerate(files):
        run = tmp_path / str(n)
        shutil.copytree(tmp_path / "clean", run)
        (run / file).unlink() if how == "delete" else damaged(run / file, how)
        step, state, extra = Checkpoints(run, keep=2).restore(old)
        assert extra == {"position": step}, file
        assert_bit_equal(state, {1: old, 2: new}[step])
        fell_back += step == 1
    assert fell_back >= 3


def test_damage_that_the_storage_does_not_see(tmp_path, monkeypatch):
    """The CRC is lqlm's own: a storage that returns other bits without complaint is caught."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"a": np.ones(3)}, {})
    restore = checkpoints._manager.restore

    def lying(step, args):
        read = restore(step, args=args)
        if "state" in read:
            read.state["a"] = read.state["a"] + 1
        return read

    monkeypatch.setattr(checkpoints._manager, "restore", lying)
    with pytest.raises(UserError, match="leaf a has changed since it was saved"):
        checkpoints.restore({"a": np.ones(3)})


def test_a_changed_record_is_not_believed(tmp_path):
    for step in (1, 2):
        Checkpoints(tmp_path, keep=2).save(step, {"a": np.ones(3)}, {"position": 1000 + step})
    record = tmp_path / "2" / "record" / "metadata"
    record.write_text(record.read_text().replace("1002", "1003"))
    assert Checkpoints(tmp_path, keep=2).restore({"a": np.ones(3)})[2] == {"position": 1001}


def test_a_damaged_newest_is_set_aside_with_one_warning_and_the_run_goes_on(tmp_path, caplog):
    for step in (1, 2):
        Checkpoints(tmp_path, keep=3).save(step, {"a": np.full(400, step)}, {})
    damaged(tmp_path / "2" / "record" / "metadata", "truncate")
    checkpoints = Checkpoints(tmp_path, keep=3)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.restore({"a": np.ones(400, int)})[0] == 1
    (message,) = [r.getMessage() for r in caplog.records]
    assert "2 does not read" in message and "going on from step 1" in message and "\n" not in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2.unreadable"]
    checkpoints.save(2, {"a": np.full(400, 3)}, {})
    assert checkpoints.restore({"a": np.ones(400, int)})[1]["a"][0] == 3


def test_when_none_reads_nothing_is_touched(tmp_path):
    Checkpoints(tmp_path, keep=3).save(1, {"a": np.ones(4)}, {})
    damaged(tmp_path / "1" / "record" / "metadata", "truncate")
    with pytest.raises(UserError, match="no checkpoint reads"):
        Checkpoints(tmp_path, keep=3).restore({"a": np.ones(4)})
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_a_full_disk_is_one_line_and_keeps_what_was_saved(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, {"a": np.ones(4)}, {"position": 1})

    def half_written(step, **kwargs):
        (tmp_path / f"{step}.orbax-checkpoint-tmp").mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints._manager, "save", half_written)
    with pytest.raises(UserError, match=r"disk full while writing .*2: nothing saved is lost"):
        checkpoints.save(2, {"a": np.zeros(4)}, {"position": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    assert checkpoints.restore({"a": np.zeros(4)})[2] == {"position": 1}
    checkpoints.save(2, {"a": np.zeros(4)}, {"position": 2})
    assert checkpoints.steps() == [2]


CHILD_FULL = """
import resource, sys, numpy as np
from lqlm.errors import UserError
from lqlm.io.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=2)
checkpoints.save(1, {"a": np.ones(4)}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save(2, {"a": np.random.default_rng(0).normal(size=100_000)}, {})
except UserError as error:
    print(error)
"""

CHILD_SAVE = """
import sys, numpy as np
from lqlm.io.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=2)
step = max(checkpoints.steps(), default=0)
while True:
    step += 1
    noise = np.random.default_rng(step).normal(size=1_000_000)
    checkpoints.save(step, {"a": noise, "b": noise[:10]}, {"position": step})
"""


def child(source: str, *args: str) -> subprocess.Popen:
    command = [sys.executable, "-c", source, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_real_write_failure_below_orbax_is_one_line(tmp_path):
    output, _ = child(CHILD_FULL, str(tmp_path)).communicate(timeout=120)
    assert output.count("\n") == 1 and output.startswith("disk full while writing"), output
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def kill_in_the_middle_of_a_save(directory: pathlib.Path, after: int) -> list[str]:
    """Kills the child as soon as a half-written save stands beside more than ``after``; returns what it left."""
    process = child(CHILD_SAVE, str(directory))
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline and process.poll() is None:
            names = os.listdir(directory) if directory.exists() else []
            done = [int(n) for n in names if n.isdigit()]
            if max(done, default=0) > after and any("orbax-checkpoint-tmp" in n for n in names):
                break
    finally:
        os.kill(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    return os.listdir(directory)


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_save(tmp_path):
    """Whatever moment the kill hits, a restart finds the last whole checkpoint bit-equal and clears the leftovers."""
    directory, newest, left_half = tmp_path / "run", 0, 0
    for _ in range(3):
        names = kill_in_the_middle_of_a_save(directory, newest)
        left_half += any("orbax-checkpoint-tmp" in n for n in names)
        checkpoints = Checkpoints(directory, keep=2)
        step, state, extra = checkpoints.restore({"a": np.empty(1_000_000), "b": np.empty(10)})
        assert step == max(int(n) for n in names if n.isdigit()) > newest and extra == {"position": step}
        np.testing.assert_array_equal(state["a"], np.random.default_rng(step).normal(size=1_000_000))
        assert all(p.name.isdigit() for p in directory.iterdir())
        newest = step
    assert left_half, "no kill hit a save; make the state bigger"
