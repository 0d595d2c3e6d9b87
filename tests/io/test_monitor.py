"""Counters and clocks: what they count, checked against things known to happen."""

import dataclasses
import errno
import json
import os
import pathlib
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.io.monitor import CompilationCounter, PhaseTimers, git_revision, peak_memory_bytes, versions, write_summary


def test_compilations_are_counted_once_each():
    x, y = np.ones((3,), np.float32), np.ones((4,), np.float32)
    with CompilationCounter() as counter:
        step = jax.jit(lambda v: jnp.sin(v) * 2)
        step(x)
        assert counter.total == 1
        counter.mark()
        step(x + 1)
        assert counter.since_mark == 0
        step(y)  # another shape
        assert counter.since_mark == 1 and counter.total == 2 and counter.seconds > 0
    jax.jit(lambda v: jnp.cos(v) * 3)(x)
    assert counter.total == 2  # closed
    counter.close()


def test_hits_of_the_persistent_cache_are_counted_as_such(tmp_path):
    settings = {"jax_compilation_cache_dir": str(tmp_path), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
        with CompilationCounter() as counter:
            jax.jit(lambda v: jnp.tan(v) * 5)(np.ones(7, np.float32))
            assert (counter.total, counter.cache_hits) == (1, 0)
            jax.clear_caches()
            jax.jit(lambda v: jnp.tan(v) * 5)(np.ones(7, np.float32))
            assert (counter.total, counter.cache_hits) == (2, 1)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()


def test_two_counters_do_not_disturb_each_other():
    with CompilationCounter() as outer:
        with CompilationCounter() as inner:
            jax.jit(lambda v: v * 7)(np.ones(5, np.float32))
        jax.jit(lambda v: v * 8)(np.ones(5, np.float32))
    assert (inner.total, outer.total) == (1, 2)


def test_peak_memory_grows_with_what_was_held():
    before = peak_memory_bytes()
    held = np.ones(64 << 17)  # 64 MiB, touched
    assert held.nbytes == 64 << 20
    after = peak_memory_bytes()
    assert 1 << 20 < before <= after < 1 << 40
    grown = np.ones(before // 8 + (16 << 17))  # the process is now surely above its old peak
    assert peak_memory_bytes() >= before + (8 << 20)
    assert grown[-1] == held[-1]


def test_peak_memory_asks_the_device_first(monkeypatch):
    class Device:
        def __init__(self, peak):
            self.peak = peak

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(5), Device(9)])
    assert peak_memory_bytes() == 9


def test_phases_add_up_and_a_step_starts_from_nothing():
    timers = PhaseTimers()
    for _ in range(2):
        with timers.phase("rollout") as phase:
            time.sleep(0.02)
            phase.tokens += 100
    with timers.phase("idle"):
        pass
    metrics = timers.step_metrics()
    names = {"seconds/rollout", "seconds/idle", "tokens_per_second/rollout", "memory/rollout", "memory/idle"}
    assert set(metrics) == names and 2**20 < metrics["memory/idle"] <= peak_memory_bytes()
    assert 0.04 <= metrics["seconds/rollout"] < 2.0
    assert metrics["tokens_per_second/rollout"] == pytest.approx(200 / metrics["seconds/rollout"])
    assert timers.step_metrics() == {}
    with pytest.raises(KeyError), timers.phase("rollout") as phase:
        phase.tokens += 1
        raise KeyError
    assert timers.totals["rollout"].tokens == 201 and timers.totals["rollout"].calls == 3
    assert timers.total_metrics()["seconds/rollout"] >= metrics["seconds/rollout"]


def test_versions_name_what_a_result_depends_on():
    found = versions()
    assert found["jax"] == jax.__version__ and found["lqlm"] == "0.1.0"
    assert {"python", "jaxlib", "flax", "optax", "orbax-checkpoint", "device"} <= found.keys()


def git(folder: pathlib.Path, *args: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *args], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_git_revision(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert git_revision(package) == "unknown"
    git(tmp_path, "init", "-q")
    assert git_revision(package) == "unknown"
    git(tmp_path, "add", ".")
    assert git_revision(package) == "unknown"  # no commit yet
    git(tmp_path, "commit", "-qm", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert git_revision(package) == head
    (package / "new.py").write_text("")
    assert git_revision(package) == head
    (package / "__init__.py").write_text("changed = 1")
    assert git_revision(package) == head + "+dirty"
    inner = tmp_path / ".venv" / "package"
    inner.mkdir(parents=True)
    (inner / "__init__.py").write_text("")
    assert git_revision(inner) == "unknown"


def test_git_revision_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision() == "unknown"


@dataclasses.dataclass(frozen=True)
class Config:
    rate: float = 1e-3
    targets: tuple[str, ...] = ("q", "v")


def test_summary_is_plain_json(tmp_path):
    path = tmp_path / "deep" / "summary.json"
    values = {
        "config": Config(),
        "accuracy": jnp.float32(0.5),
        "nan": float("nan"),
        "path": pathlib.Path("a"),
        3: [np.int8(1)],
    }
    write_summary(path, values)
    read = json.loads(path.read_text())
    config = {"rate": 0.001, "targets": ["q", "v"]}
    assert read == {"config": config, "accuracy": 0.5, "nan": None, "path": "a", "3": [1]}
    assert os.listdir(path.parent) == ["summary.json"]


def test_summary_is_whole_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_summary(path, {"a": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="disk full while writing"):
        write_summary(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["summary.json"]
