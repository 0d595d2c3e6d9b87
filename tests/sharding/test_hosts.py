"""Two processes over loopback, one run: the same numbers as of one, a clear end when one is lost, and a way on."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest

from lqlm.io.metrics import read_jsonl
from tests.experiments.tiny_model import save_model, save_records

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return f"{save_model(folder / 'model')},{save_records(folder / 'sums.jsonl')}"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(places, workdir, *changes, code=ROOT, of=("sft", "two_config"), **env):
    """One process of a run, of the sources that lie in a folder."""
    command = [sys.executable, "-m", f"experiments.{of[0]}", "--config", f"tests/sharding/{of[1]}.py:{places}"]
    command += ["--cache=", f"--config.workdir={workdir}", *(f"--config.{change}" for change in changes)]
    return subprocess.Popen(
        command, cwd=code, env={**os.environ, **CACHE, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process, limit=150):
    """Status, and what stands on stderr without progress bars and gloo's greetings."""
    try:
        _, err = process.communicate(timeout=limit)
    finally:
        process.kill()
    lines = [line for line in err.replace("\r", "\n").split("\n") if line.startswith("error: ")]
    return process.returncode, lines, err


def of_two(port, index, *changes):
    return (
        f"hosts.coordinator=127.0.0.1:{port}",
        "hosts.count=2",
        f"hosts.index={index}",
        "hosts.heartbeat=10",
        *changes,
    )


def losses(workdir):
    return [row["loss" if row["step"] else "eval/loss"] for row in read_jsonl(workdir / "metrics.jsonl")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "ppo", "online_dpo"])
def test_samples_rewards_and_updates_are_those_of_one_process(places, tmp_path, name):
    what, port, of = f"{name},{places.split(',')[0]}", free_port(), (name, "two_rollouts_config")
    two = [start(what, tmp_path / "two", *of_two(port, i, "mesh=fsdp=2"), of=of) for i in (0, 1)]
    one = start(what, tmp_path / "one", of=of)
    for process in (*two, one):
        status, _, err = ended(process, 400)
        assert status == 0, err[-3000:]
    rows, samples = (
        [read_jsonl(tmp_path / folder / file)[first:] for folder in ("two", "one")]
        for file, first in (("metrics.jsonl", 1), ("samples.jsonl", 0))
    )
    assert [[row["step"] for row in of_one] for of_one in rows] == [[1, 2]] * 2 and len(samples[0]) == 16
    for found, wanted in zip(*samples):
        assert found["completion"] == wanted["completion"] and found["rewards"] == wanted["rewards"]
        assert found["logp"] == pytest.approx(wanted["logp"], abs=2e-4)
    for found, wanted in zip(*rows):
        for metric in ("loss", "grad_norm", "entropy", "reward", "reward_std"):
            assert found[metric] == pytest.approx(wanted[metric], rel=1e-4, abs=1e-5), metric


@pytest.mark.slow
def test_a_lost_process_ends_the_run_and_one_process_goes_on(places, tmp_path):
    port, workdir = free_port(), tmp_path / "work"
    mesh = "mesh=fsdp=2"
    survivor = start(places, workdir, *of_two(port, 0, mesh))
    lost = start(places, workdir, *of_two(port, 1, mesh), LQLM_TEST_KILL="2")
    assert ended(lost)[0] == -9
    status, errors, err = ended(survivor, 40)
    assert status == 2 and len(errors) == 1 and "another process of the run was lost" in errors[0], err[-3000:]
    assert [row["step"] for row in read_jsonl(workdir / "metrics.jsonl")] == [0, 1, 2]

    alone = tmp_path / "alone"
    runs = [start(places, folder) for folder in (workdir, alone)]  # on one device, the first from the checkpoint
    for run in runs:
        status, _, err = ended(run)
        assert status == 0, err[-3000:]
    assert losses(workdir) == pytest.approx(losses(alone), abs=1e-5) and len(losses(alone)) == 4
    assert (workdir / "adapter").is_dir() and (workdir / "summary.json").exists()


@pytest.mark.slow
def test_without_process_0_the_others_end_too(places, tmp_path):
    """With a line of their own, or, where jax knows first, aborted by it; they never wait for what cannot come."""
    port, mesh = free_port(), "mesh=fsdp=2"
    lost = start(places, tmp_path / "work", *of_two(port, 0, mesh), LQLM_TEST_KILL="2")
    survivor = start(places, tmp_path / "work", *of_two(port, 1, mesh))
    assert ended(lost)[0] == -9
    status, errors, err = ended(survivor, 40)
    assert status in (2, -6), err[-3000:]
    if status == 2:
        assert len(errors) == 1 and "process 0 is gone" in errors[0], err[-3000:]


def test_a_coordinator_that_is_not_there(places, tmp_path):
    process = start(places, tmp_path / "work", *of_two(free_port(), 1, "hosts.timeout=1", "mesh=data=-1"))
    status, errors, err = ended(process)
    assert status == 2 and len(errors) == 1 and "was not reached by process 1 within 1 s" in errors[0], err[-3000:]


def test_other_settings_and_processes_that_do_not_come(places, tmp_path):
    port = free_port()
    alone = start(places, tmp_path / "none", *of_two(free_port(), 0, "hosts.timeout=1", "mesh=data=-1"))
    two = [start(places, tmp_path / "work", *of_two(port, i, "mesh=data=-1", f"seed={i}")) for i in (0, 1)]
    status, errors, err = ended(alone)
    assert status == 2 and len(errors) == 1 and "processes [1] did not come" in errors[0], err[-3000:]
    for process in two:
        status, errors, err = ended(process)
        assert status == 2 and len(errors) == 1, err[-3000:]
        assert "process 0 has seed='0', process 1 has '1'" in errors[0]
    assert not (tmp_path / "work").exists()


def test_other_code_in_one_of_the_processes(places, tmp_path):
    port, other = free_port(), tmp_path / "checkout"
    for folder in ("lqlm", "experiments", "tests"):
        shutil.copytree(ROOT / folder, other / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "lqlm" / "errors.py").open("a") as file:
        file.write("# a later version\n")
    workdir = tmp_path / "work"
    two = [
        start(places, workdir, *of_two(port, i, "mesh=data=-1"), code=code, PYTHONPATH=str(code))
        for i, code in enumerate((ROOT, other))
    ]
    for process in two:
        status, errors, err = ended(process)
        assert status == 2 and len(errors) == 1, err[-3000:]
        assert "process 0 has code='lqlm" in errors[0] and errors[0].endswith("; install the same lqlm")
    assert not workdir.exists()
