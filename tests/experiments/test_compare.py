"""The comparison: which runs there are, how they go on, and what the table says of them."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

from experiments.command import load_config
from experiments.compare import __main__ as compare
from experiments.compare import runs
from experiments.compare.plot import banded
from experiments.compare.settings import CompareExperiment, VariantSettings
from experiments.compare.table import Curve, interval, markdown, read_curve, summarize, within
from experiments.configdict import as_config, from_config
from lqlm.errors import UserError

PER_STEP = {"plain": 10, "again": 20}


def settings(tmp_path, **more):
    variants = {name: VariantSettings(f"configs/{name}.py", overrides=(f"--config.x={name}",)) for name in PER_STEP}
    return CompareExperiment(
        workdir=str(tmp_path), seeds=(3, 4), variants=variants, overrides=("--config.y=1",), **more
    )


def write_run(workdir, per_step, gain, *, counted=True):
    """Six steps, an evaluation at every other one."""
    rows = [{"step": 0, "wall": 0.0, "eval/accuracy": 0.2}]
    for step in range(1, 7):
        row = {"step": step, "wall": step, "reward": gain * step, "frac_reward_zero_std": 0.5, "seconds/rollout": 2.0}
        row |= {"seconds/update": 1.0 if step > 1 else 99.0, "seconds/eval": 9.0, "frac_update_zero_std": 0.25}
        row |= {"rollouts_total": per_step * step} if counted else {}
        rows.append(row | ({"eval/accuracy": 0.2 + gain * step} if step % 2 == 0 else {}))
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (workdir / "config.json").write_text(json.dumps({"run": {"prompts": 5, "group": 2}}))
    (workdir / "summary.json").write_text("{}")


@pytest.fixture
def processes(monkeypatch):
    """Runs that only write what a run would; a variant called in ``fails`` ends with status 1."""
    called, fails = [], set()

    def run(line, *, stdout, **_):
        found = {part.partition("=")[0]: part.partition("=")[2] for part in line}
        name, seed = found["--config.x"], int(found["--config.seed"])
        called.append((name, seed))
        stdout.write("error: no such thing\n" if name in fails else "done\n")
        if name not in fails:
            write_run(runs.pathlib.Path(found["--config.workdir"]), PER_STEP[name], 0.01 * seed)
        return types.SimpleNamespace(returncode=int(name in fails))

    monkeypatch.setattr(runs, "subprocess", types.SimpleNamespace(run=run, STDOUT=subprocess.STDOUT))
    return types.SimpleNamespace(called=called, fails=fails)


def test_each_run_has_its_own_arguments_and_folder(tmp_path):
    found = runs.jobs(settings(tmp_path))
    assert [(job.variant, job.seed) for job in found] == [("plain", 3), ("again", 3), ("plain", 4), ("again", 4)]
    assert found[0].arguments[:5] == (
        "-m",
        "experiments.grpo",
        "--config=configs/plain.py",
        "--config.y=1",
        "--config.x=plain",
    )
    assert {f"--config.workdir={tmp_path}/runs/plain/3", "--config.seed=3"} <= set(found[0].arguments)
    assert not any(job.done for job in found)


def test_all_runs_then_the_table_and_the_picture(tmp_path, processes, capsys):
    compare.main(as_config(settings(tmp_path)))
    assert sorted(processes.called) == [("again", 3), ("again", 4), ("plain", 3), ("plain", 4)]
    summary = json.loads((tmp_path / "compare.json").read_text())
    assert summary["rollouts"] == 60 and summary["config"]["seeds"] == [3, 4]
    after = {name: row["after"] for name, row in summary["variants"].items()}
    assert after["plain"]["mean"] == pytest.approx(0.2 + 0.035 * 6)  # all six steps
    assert after["again"]["mean"] == pytest.approx(0.2 + 0.035 * 2)  # 60 samples are three steps, evaluated after two
    assert summary["variants"]["again"]["rollouts"]["mean"] == 40
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "compare.md").read_text() in capsys.readouterr().out
    processes.called.clear()
    compare.main(as_config(settings(tmp_path)))
    assert processes.called == []  # all were done


def test_runs_beside_each_other_have_cores_of_their_own(tmp_path, monkeypatch):
    """Never more at once than asked for, no core in two runs, and every run once."""
    here, most, seen, lock = set(), [], [], threading.Lock()

    def run(line, *, stdout, **_):
        module, cores = line[2], line[3]
        assert module == "experiments.compare.held" and line[4] == "experiments.grpo"
        with lock:
            assert cores not in here
            here.add(cores)
            most.append(len(here))
            seen.append(line[-3])
        time.sleep(0.05)
        with lock:
            here.remove(cores)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(runs, "available", lambda: [0, 1, 2, 3, 4])
    monkeypatch.setattr(runs, "subprocess", types.SimpleNamespace(run=run, STDOUT=subprocess.STDOUT))
    assert list(runs.failures(runs.jobs(settings(tmp_path)), 2)) == []
    assert max(most) == 2 and len(set(seen)) == len(seen) == 4


def test_held_to_a_core(tmp_path):
    """What the module sees, its arguments and its name included."""
    (tmp_path / "shown.py").write_text(
        "import os, sys\nif __name__ == '__main__':\n    print(os.sched_getaffinity(0), sys.argv[1:])\n"
    )
    core = min(os.sched_getaffinity(0))
    line = [sys.executable, "-m", "experiments.compare.held", str(core), "shown", "--a=1"]
    path = os.pathsep.join([str(tmp_path), str(pathlib.Path(runs.__file__).parents[2])])
    ended = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert ended.stdout == f"{{{core}}} ['--a=1']\n", ended.stderr


def test_a_run_ends_with_the_process_that_began_it(tmp_path):
    """Killed, it says nothing to its runs; they would go on, hold their folders and share cores with later ones."""
    (tmp_path / "sleeps.py").write_text(
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    starts = (
        "import pathlib\nfrom experiments.compare.runs import Job, run\n"
        f"run(Job('', 0, ('-m', 'sleeps'), pathlib.Path({str(tmp_path / 'log')!r}), None))\n"
    )
    path = os.pathsep.join([str(tmp_path), str(pathlib.Path(runs.__file__).parents[2])])
    began = subprocess.Popen([sys.executable, "-c", starts], env=os.environ | {"PYTHONPATH": path})
    until = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until and began.poll() is None
        time.sleep(0.05)
    began.kill()
    began.wait()
    process = pathlib.Path("/proc") / (tmp_path / "pid").read_text()
    while process.exists() and "State:\tZ" not in (process / "status").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_finished_runs_of_other_settings_are_not_mixed_in(tmp_path, processes):
    compare.main(as_config(settings(tmp_path)))
    processes.called.clear()
    changed = dataclasses.replace(settings(tmp_path), overrides=("--config.y=2",))
    with pytest.raises(UserError, match=r"/3 holds a finished run of other settings \(--config.y=1, --config.y=2\)"):
        compare.main(as_config(changed))
    assert processes.called == []


def test_a_failed_run_is_named_and_done_again(tmp_path, processes):
    processes.fails.add("again")
    with pytest.raises(UserError, match=r"2 of 4 runs failed.*again with seed 3 \(error: no such thing\)"):
        compare.main(as_config(settings(tmp_path)))
    assert "again" not in (tmp_path / "compare.md").read_text()
    processes.fails.clear()
    processes.called.clear()
    compare.main(as_config(settings(tmp_path)))
    assert sorted(processes.called) == [("again", 3), ("again", 4)]


def test_what_comes_first_is_needed(tmp_path, processes):
    processes.fails.add("plain")
    first = {"model": VariantSettings("configs/m.py", "sft", ("--config.x=plain", "--config.seed=0"))}
    with pytest.raises(UserError, match="what comes first has failed"):
        compare.main(as_config(settings(tmp_path, prepare=first)))
    assert processes.called == [("plain", 0)]


def test_a_run_is_read_at_the_last_evaluation_within_the_rollouts(tmp_path):
    write_run(tmp_path, 10, 0.1)
    curve = read_curve(tmp_path, "eval/accuracy")
    found = within(curve, 55)
    assert found["rollouts"] == 40 and found["steps"] == 4 and found["after"] == pytest.approx(0.6)
    assert found["seconds"] == 12  # evaluations are no work, and neither is compiling
    assert (found["zero_variance"], found["zero_variance_used"]) == (0.5, 0.25)
    assert found["reward"] == pytest.approx(0.5)  # of step 5, the last tenth
    write_run(tmp_path, 10, 0.1, counted=False)
    np.testing.assert_array_equal(read_curve(tmp_path, "eval/accuracy").rollouts, 10 * np.arange(7))
    with pytest.raises(UserError, match="have no eval/other"):
        read_curve(tmp_path, "eval/other")


def test_the_interval_is_students():
    found = interval([0.1, 0.2, 0.6])
    assert found["mean"] == pytest.approx(0.3)
    assert found["half_width"] == pytest.approx(4.302653 * np.std([0.1, 0.2, 0.6], ddof=1) / 3**0.5, rel=1e-6)
    assert interval([0.4]) == {"mean": 0.4, "half_width": None}


def line(values, rollouts):
    ones = np.ones(len(values))
    return Curve(np.array(rollouts, float), np.array(rollouts, float) / 10, np.array(values), ones, ones, ones)


def test_bands_and_table_of_several_runs():
    group = [line([0.0, np.nan, 1.0], [0, 10, 20]), line([0.2, 0.4, 0.6], [0, 10, 30])]
    x, mean, half = banded(group, "rollouts")
    assert x[-1] == 20 and mean[0] == pytest.approx(0.1) and mean[-1] == pytest.approx((1.0 + 0.5) / 2)
    assert half[0] > 0
    text = markdown(summarize({"worse": [line([0.0, 0.1], [0, 20])], "better": group}, 0), "eval/accuracy")
    rows = [row for row in text.splitlines() if row.startswith(("| worse", "| better"))]
    assert rows[0].startswith("| better | 2 |") and "±" in rows[0] and "±" not in rows[1]


@pytest.mark.parametrize("which", ["algorithms", "remedies", "steps"])
def test_the_committed_comparison_names_configs_that_there_are(which):
    found = from_config(CompareExperiment, load_config(f"configs/compare_tiny.py:{which}"))
    pretrained = load_config(found.prepare["pretrain"].config)
    sources = [o.partition("=")[2] for o in found.overrides if o.startswith("--config.model.source=")]
    assert [f"{pretrained.workdir}/model"] == (sources or [load_config("configs/grpo_variants.py").model.source])
    if which == "steps":
        assert pretrained.data.made.train == 1280 and pretrained.data.worked
    for variant in found.variants.values():
        config = load_config(variant.config)
        for override in (*found.overrides, *variant.overrides):
            section, key = override.partition("=")[0].removeprefix("--config.").split(".")
            assert key in config[section], override
    assert len(found.seeds) == 3


BAD = {
    "nothing at once": {"at_once": 0},
    "no variant": {"variants": {}},
    "one seed twice": {"seeds": (1, 1)},
    "a path": {"variants": {"a/b": None}},
}


@pytest.mark.parametrize("name", BAD)
def test_settings_without_meaning_are_refused(name):
    with pytest.raises(UserError):
        CompareExperiment(**{"variants": {"a": VariantSettings("c.py")}} | BAD[name])


def test_the_interpreter_of_a_run_is_this_one(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        runs.subprocess, "run", lambda line, **_: seen.append(line) or types.SimpleNamespace(returncode=0)
    )
    assert runs.run(runs.jobs(settings(tmp_path))[0]) == 0
    assert seen[0][0] == sys.executable
