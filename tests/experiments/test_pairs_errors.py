"""Bad input to a reward model and to DPO ends in one line that names the file, the line or record, and the setting."""

import json

import pytest

from experiments.dpo import __main__ as dpo
from experiments.reward_model import __main__ as reward_model
from tests.experiments.tiny_pairs import save_pairs

MODULES = {"reward_model": reward_model, "dpo": dpo}


@pytest.fixture
def go(cli, model, tmp_path):
    """A command on a file of pairs, in a workdir of its own."""

    def call(data, *arguments, name="dpo"):
        config = f"tests/experiments/tiny_pairs.py:{name},{model},{data}"
        return cli(f"--config.workdir={tmp_path / 'work'}", *arguments, config=config, module=MODULES[name])

    return call


@pytest.fixture
def pairs(tmp_path):
    return save_pairs(tmp_path / "pairs.jsonl")


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


GOOD = [{"prompt": f"{n}", "chosen": "yes", "rejected": "no"} for n in range(12)]
FILES = {
    "missing field": (lines(*GOOD, {"prompt": "1", "chosen": "2"}), ["line 13", 'no field "rejected"']),
    "equal sides": (lines(*GOOD, {"prompt": "1", "chosen": "2", "rejected": "2"}), ["line 13", "are the same"]),
    "an empty completion": (lines(*GOOD, {"prompt": "1", "chosen": "", "rejected": "2"}), ["line 13", "is empty"]),
    "no prompt": (lines(*GOOD, {"chosen": "1", "rejected": "2"}), ["line 13", '"prompt"', "dialogues"]),
    "a margin that is none": (lines({**GOOD[0], "margin": "much"}, *GOOD[1:]), ["line 1", "margin"]),
    "not JSON": (lines(*GOOD) + "{'prompt': 1}\n", ["line 13", "not JSON"]),
    "empty": ("", ["no records"]),
    "only long ones": (lines(*({**row, "chosen": "x" * 30} for row in GOOD)), ["no pair", "longer than allowed: 12"]),
    "as few as are held out": (lines(*GOOD[:6]), ["6 pairs to hold out of 6"]),
}


@pytest.mark.parametrize("name", FILES)
def test_pairs_that_cannot_be_learned_from(go, tmp_path, name):
    text, words = FILES[name]
    file = tmp_path / "data.jsonl"
    file.write_text(text)
    line = go(file).line()
    for word in words:
        assert word in line, line


def test_no_such_file(go, tmp_path):
    assert "no such file" in go(tmp_path / "none.jsonl", name="reward_model").line()


SETTINGS = {
    "dpo": {
        "nothing held out": (["--config.data.heldout=0"], ["data.heldout 0"]),
        "odd micro-batches": (["--config.run.micro_batches=3"], ["run.micro_batches 3", "run.pairs 4"]),
        "unknown loss": (["--config.dpo.loss=kto"], ["config.dpo.loss", "'sigmoid'"]),
        "smoothing that is not read": (["--config.dpo.label_smoothing=0.1"], ["label_smoothing", "cdpo"]),
        "parts of what is compared as a whole": (["--config.dpo.loss=aot"], ["'aot'", "run.micro_batches"]),
        "a reference that moves": (
            ["--config.adapter.init=pissa", "--config.model.quantize=False"],
            ["reference of DPO", "pissa"],
        ),
        "a prompt of no token": (["--config.text.max_prompt=0"], ["max_prompt=0"]),
        "misspelt": (["--config.dpo.bta=1"], ["did you mean beta"]),
    },
    "reward_model": {
        "unknown loss": (["--config.reward.loss=hinge"], ["config.reward.loss", "'bradley_terry'"]),
        "centring backwards": (["--config.reward.center=-1"], ["center -1"]),
        "no bin": (["--config.bins=0"], ["bins is 0"]),
        "an adapter without a place": (["--config.adapter.kind=prompt"], ["config.adapter"]),
    },
}


@pytest.mark.parametrize(("command", "name"), [(c, name) for c, cases in SETTINGS.items() for name in cases])
def test_settings_that_cannot_be(go, pairs, command, name):
    arguments, words = SETTINGS[command][name]
    line = go(pairs, *arguments, name=command).line()
    for word in words:
        assert word in line, line


def test_pairs_longer_than_the_context(go, tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text(lines(*GOOD, {"prompt": "1" * 60, "chosen": "2" * 9, "rejected": "3"}))
    assert "the longest pair has 70 tokens, the model 64 positions" in go(file, "--config.text.max_prompt=99").line()


def test_other_pairs_than_the_run_was_begun_with(go, tmp_path):
    file = save_pairs(tmp_path / "data.jsonl")
    arguments = ["--config.run.eval_every=0"]
    assert go(file, "--config.run.steps=1", *arguments, name="reward_model").status == 0
    save_pairs(file, count=31)
    assert "begun on other data" in go(file, "--config.run.steps=2", *arguments, name="reward_model").line()
