"""Whatever a person can get wrong ends in one line that names cause and cure, status 2, and nothing saved is lost."""

import dataclasses
import json
import pathlib
import resource
import shutil
import subprocess

import jax
import numpy as np
import pytest

from experiments.grpo import __main__ as grpo
from experiments.grpo.setup import build
from experiments.workdir import claim
from lqlm.errors import UserError
from lqlm.io.checkpoint import Checkpoints
from lqlm.io.load import default_model_path
from lqlm.io.metrics import MetricsWriter, read_jsonl
from tests.experiments.conftest import CONFIG, process, run_process
from tests.experiments.tiny_model import save_model, save_tokenizer, tiny

REWARD = "--config.rewards.digits.function=tests.experiments.rewards."


@pytest.fixture
def go(cli, tmp_path):
    """The command in a workdir of its own."""
    return lambda *arguments, **kwargs: cli(f"--config.workdir={tmp_path / 'work'}", *arguments, **kwargs)


COMMAND_LINES = {
    "misspelt key": (["--config.optim.learning_ratee=1"], ["learning_ratee", "did you mean learning_rate"]),
    "misspelt section": (["--config.optimm.learning_rate=1"], ["'optimm'", "did you mean optim"]),
    "key of a value": (["--config.run.steps.more=1"], ["config.run.steps is no section"]),
    "new reward": (["--config.rewards.more.function=a.b"], ["'more'", "it has digits"]),
    "word for int": (["--config.run.steps=abc"], ["config.run.steps", "abc"]),
    "float for int": (["--config.run.steps=1.5"], ["config.run.steps", "1.5"]),
    "word for float": (["--config.optim.learning_rate=fast"], ["config.optim.learning_rate", "fast"]),
    "word for int or None": (["--config.grpo.max_length=abc"], ["config.grpo.max_length", "int or None"]),
    "long tuple": (["--config.task.operands=1,2,3"], ["config.task.operands", "tuple[int, int] or None"]),
    "unknown choice": (["--config.grpo.kl_place=foo"], ["config.grpo.kl_place", "'loss', 'reward'"]),
    "unknown dtype": (["--config.model.dtype=int8"], ["config.model.dtype", "bfloat16"]),
    "unknown adapter dtype": (["--config.adapter.dtype=int8"], ["lora.dtype", "bfloat16"]),
    "unknown codebook": (["--config.model.quant.codebook=fp5"], ["fp5", "nf4"]),
    "no steps": (["--config.run.steps=-3"], ["run.steps is -3", "1 or more"]),
    "no checkpoints": (["--config.run.checkpoint_every=0"], ["run.checkpoint_every is 0", "1 or more"]),
    "odd micro-batches": (["--config.run.micro_batches=3"], ["run.micro_batches 3"]),
    "group of one": (["--config.run.group=1"], ["run.group is 1"]),
    "no value": (["--config.run.steps"], ["config.run.steps"]),
    "unknown flag": (["--seed=1"], ["'seed'", "--help"]),
    "no flag": (["steps=3"], ["'steps=3'", "--config.key=value"]),
    "other kind": (["--config.task.kind=chess"], ["config.task.kind is 'chess'", "arithmetic, gsm8k, gym"]),
    "hits nothing": (["--config.adapter.targets=query"], ["'query'", "hits no linear layer"]),
    "no such model": (["--config.model.source=no/such/model"], ["no/such/model", "no such file or directory"]),
    "no such gguf": (["--config.model.source=model.gguf"], ["model.gguf", "no such file"]),
    "long prompt": (["--config.task.shots=6"], ["prompt tokens", "context of 64", "sampling.max_new_tokens"]),
    "small bucket": (["--config.run.prompt_buckets=4,8"], ["largest bucket of 8", "larger"]),
    "no reward module": (["--config.rewards.digits.function=no.such.module"], ["no.such", "spelling"]),
    "no reward function": ([REWARD + "digitz"], ["digitz", "its functions: digit_steps, "]),
    "reward raises": ([REWARD + "raises"], ["'digits'", "every sample", "ValueError: no reward today"]),
    "reward is infinite": ([REWARD + "infinite"], ["every sample", "not a finite"]),
    "reward hangs": ([REWARD + "hangs", "--config.run.reward_timeout=0.2"], ["every sample", "longer than 0.2 s"]),
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_the_line_names_what_is_wrong(go, name):
    arguments, words = COMMAND_LINES[name]
    line = go(*arguments).line()
    for word in words:
        assert word in line


@pytest.mark.parametrize("folder", ["/dev/null", "/dev/null/runs", "/proc/nowhere"])
def test_a_workdir_that_cannot_be_made(cli, folder):
    line = cli(f"--config.workdir={folder}").line()
    assert folder in line and "--config.workdir" in line


CONFIG_FILES = {
    "raise KeyError('seed')": ["config.py:1", "KeyError: seed"],
    "def get_config(:": ["config.py:1", "SyntaxError"],
    "import no_such_module": ["config.py:1", "no_such_module"],
    "def configuration(): pass": ["it has no get_config()"],
    "def get_config(): return {}": ["get_config() returned dict", "as_config"],
    "def get_config(): return None": ["get_config() returned NoneType"],
    "from lqlm.optim.chains import OptimConfig\ndef get_config():\n    return OptimConfig(learning_ratee=1)": [
        "config.py:3",
        "learning_ratee",
    ],
    "from lqlm.optim.chains import OptimConfig\ndef get_config():\n    return OptimConfig(schedule='fast')": [
        "'fast'",
        "cosine",
    ],
    "from tests.experiments import tiny_config\n"
    "def get_config():\n    c = tiny_config.get_config('.')\n    c.optim.learning_ratee = 1\n    return c": [
        "config.optim.learning_ratee is no setting",
        "did you mean learning_rate",
    ],
    "import ml_collections\ndef get_config(): return ml_collections.ConfigDict({'run': 3})": [
        "config.run is 3",
        "section of keys",
    ],
    "import ml_collections\ndef get_config(): return ml_collections.ConfigDict({'seed': 3})": ["task", "rewards"],
}


@pytest.mark.parametrize("text", CONFIG_FILES)
def test_a_config_file_that_is_wrong(cli, tmp_path, text):
    file = tmp_path / "config.py"
    file.write_text(text)
    line = cli(config=str(file)).line()
    for word in CONFIG_FILES[text]:
        assert word in line


def test_a_config_file_that_is_missing(cli):
    assert "configs/typo.py: no such file" in cli(config="configs/typo.py").line()


def test_a_misspelt_key_is_found_before_any_work(go, tmp_path):
    go("--config.optim.learning_ratee=1").line()
    assert not (tmp_path / "work").exists()


@pytest.fixture
def broken(model, tmp_path):
    return pathlib.Path(shutil.copytree(model, tmp_path / "broken"))


def test_truncated_and_corrupted_safetensors(go, broken):
    file = broken / "model.safetensors"
    data = file.read_bytes()
    for bad in (data[:-1000], data[:100], b"", b"\xff" * 64 + data[64:]):
        file.write_bytes(bad)
        assert "model.safetensors" in go(f"--config.model.source={broken}").line()
    file.unlink()
    assert "safetensors" in go(f"--config.model.source={broken}").line()


def test_truncated_and_corrupted_gguf(go, tmp_path):
    try:
        real = default_model_path()
    except UserError as error:
        pytest.skip(str(error))
    file = tmp_path / "model.gguf"
    with real.open("rb") as opened:
        start = opened.read(4 << 20)
    for bad in (start, start[:1000], b"", b"GGML" + start[4:], start[:64] + b"\xff" * 64 + start[128:]):
        file.write_bytes(bad)
        assert "model.gguf" in go(f"--config.model.source={file}").line()


def test_damaged_config_and_tokenizer(go, broken):
    for name in ("config.json", "tokenizer.json"):
        good = (broken / name).read_text()
        for bad in ("{", "[]", "{}", None):
            (broken / name).unlink() if bad is None else (broken / name).write_text(bad)
            assert str(broken) in go(f"--config.model.source={broken}").line()
        (broken / name).write_text(good)


def test_a_tokenizer_with_more_tokens_than_the_model(go, broken):
    save_tokenizer(broken, extra=1)
    line = go(f"--config.model.source={broken}").line()
    assert "'[0]'" in line and "embeddings" in line and "tokenizer that belongs" in line


def test_a_failed_beginning_does_not_bind_the_workdir(go, tmp_path):
    go("--config.model.source=no/such/model").line()
    ended = go("--config.run.steps=1", "--config.run.eval_every=0")
    assert ended.status == 0, ended
    line = go("--config.run.steps=1", "--config.run.eval_every=0", "--config.optim.learning_rate=1.0").line()
    assert "optim.learning_rate=0.005" in line and "1.0" in line and "--config.workdir" in line


def test_free_settings_may_change(go):
    one_step = ["--config.run.steps=1", "--config.run.eval_every=0"]
    assert go(*one_step).status == 0
    assert go(*one_step, "--config.run.keep=5", "--config.run.reward_timeout=9").status == 0


def test_two_runs_in_one_workdir(go, model, tmp_path):
    with claim(tiny(model, tmp_path / "work")):
        assert "another process works in this folder" in go().line()


def test_another_base_than_the_run_was_begun_with(go, model, tmp_path):
    moving = shutil.copytree(model, tmp_path / "moving")
    arguments = [f"--config.model.source={moving}", "--config.run.steps=1", "--config.run.eval_every=0"]
    assert go(*arguments).status == 0
    shutil.rmtree(moving)
    save_model(moving, seed=1)
    line = go(*arguments[:1], "--config.run.steps=2", *arguments[2:]).line()
    assert "sha256" in line and "the same weights" in line


def test_a_reward_that_raises_on_some_samples_is_counted_and_said_once(go, tmp_path):
    ended = go(REWARD + "raises_on_some", "--config.run.eval_every=0")
    assert ended.status == 0
    (said,) = ended.said()
    assert said.startswith("warning: reward 'digits'") and "said once" in said
    assert "ValueError: digits are not allowed" in said
    rows = read_jsonl(tmp_path / "work" / "metrics.jsonl")
    errors = [row["reward_errors"] for row in rows[1:]]
    assert sum(errors) > 1 and all(0 <= count < 8 for count in errors)


def test_updates_that_are_not_finite_are_skipped_and_the_run_stops(go, model, tmp_path):
    # The first update makes weights of 1e38, so that everything after it overflows.
    huge = ["--config.optim.learning_rate=1e38", "--config.run.checkpoint_every=1", "--config.run.steps=9"]
    line = go(*huge, "--config.run.max_skipped=5", "--config.run.eval_every=0").line()
    assert "non-finite" in line and "learning_rate" in line and "run.max_skipped" in line
    rows = read_jsonl(tmp_path / "work" / "metrics.jsonl")[1:]
    assert [row["skipped"] for row in rows] == [1, 3, 5] and [row["finite"] for row in rows] == [0, 0, 0]
    first, last = (saved(model, tmp_path, step) for step in (1, 2))  # the state of step 3 was not saved
    assert (int(last.skipped), int(last.skipped_total), int(last.step)) == (3, 3, 4)
    jax.tree.map(np.testing.assert_array_equal, first.adapters, last.adapters)
    jax.tree.map(np.testing.assert_array_equal, first.opt_state, last.opt_state)
    line = go(*huge, "--config.run.max_skipped=9", "--config.run.eval_every=0").line()  # goes on from step 2
    assert "step 5: 9 updates" in line


def saved(model, tmp_path, step):
    checkpoints = Checkpoints(tmp_path / "work" / "checkpoints", 9)
    assert step in checkpoints.steps()
    checkpoints.close()
    copy = shutil.copytree(tmp_path / "work" / "checkpoints", tmp_path / f"copy{step}")
    for folder in copy.iterdir():
        if folder.name.isdigit() and int(folder.name) > step:
            shutil.rmtree(folder)
    checkpoints = Checkpoints(copy, 9)
    found = checkpoints.restore(build(tiny(model, tmp_path)).state)
    checkpoints.close()
    return jax.device_get(found[1])


@pytest.mark.parametrize(
    ("place", "room"), [("metrics.jsonl", 1200), ("tensorboard", 4000), ("checkpoints/2", 16 << 10)]
)
def test_a_full_disk_costs_nothing_saved(go, tmp_path, monkeypatch, place, room):
    """From step 2 on no file may grow beyond ``room`` bytes: what comes to ``place`` does not fit."""
    arguments = ["--config.run.checkpoint_every=1", "--config.run.steps=3", "--config.run.samples=0"]
    assert go(*arguments).status == 0
    weights = (tmp_path / "work" / "adapter" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "work")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    real = grpo.ALGORITHM.one_step

    def one_step(run, state, step):
        if step == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        return real(run, state, step)

    with monkeypatch.context() as patch:
        patch.setattr(grpo, "ALGORITHM", dataclasses.replace(grpo.ALGORITHM, one_step=one_step))
        if place == "metrics.jsonl":  # without this the events meet the limit first
            patch.setattr(MetricsWriter, "_tensorboard", lambda *_: None)
        try:
            ended = go(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    line = ended.line()
    assert "disk full" in line and str(tmp_path / "work" / place) in line and "same command" in line
    assert sorted(p.name for p in (tmp_path / "work" / "checkpoints").iterdir()) == ["0", "1"]
    assert go(*arguments).status == 0
    assert (tmp_path / "work" / "adapter" / "adapter_model.safetensors").read_bytes() == weights
    assert [row["step"] for row in read_jsonl(tmp_path / "work" / "metrics.jsonl")] == [0, 1, 2, 3]


ON_A_SMALL_DISK = """
mount -t tmpfs -o size={size} tmpfs {disk} || exit 77
{command}; first=$?
ls {disk}/work/checkpoints > {seen}
rm -f {disk}/filler
{command} || exit 78
cp {disk}/work/summary.json {disk}/work/metrics.jsonl {seen}.d/
exit $first
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare to mount a small disk")
def test_a_disk_that_really_is_full(model, tmp_path):
    """The reward fills the disk in step 2; it is emptied, and the same command ends the run."""
    disk, seen = tmp_path / "disk", tmp_path / "seen"
    disk.mkdir()
    (tmp_path / "seen.d").mkdir()
    arguments = [f"--config={CONFIG}:{model}", f"--config.workdir={disk / 'work'}", REWARD + "fills"]
    run = process(*arguments, LQLM_TEST_FILL=f"12:{disk}")
    script = ON_A_SMALL_DISK.format(size="8m", disk=disk, seen=seen, command=" ".join(run.pop("args")))
    ended = subprocess.run(["unshare", "-rm", "sh", "-c", script], **run, capture_output=True, timeout=300)
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip(f"no small disk can be mounted here: {ended.stderr.strip()}")
    assert ended.returncode == 2, ended
    (line,) = [part for part in ended.stderr.splitlines() if "error:" in part]
    assert "disk full" in line and "Traceback" not in ended.stderr
    assert seen.read_text().split() == ["0"]
    assert json.loads((tmp_path / "seen.d" / "summary.json").read_text())["steps"] == 4
    assert [row["step"] for row in read_jsonl(tmp_path / "seen.d" / "metrics.jsonl")] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_the_process_itself_ends_with_status_2_and_one_line(model, tmp_path):
    ended = run_process(f"--config={CONFIG}:{model}", f"--config.workdir={tmp_path}", "--config.task.shots=6")
    assert "context of 64" in ended.line() and ended.out == ""
