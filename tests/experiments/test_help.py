"""``--help`` helps: it shows the command, what is written, and every key with its value and meaning."""

import dataclasses
import shlex

import pytest

from experiments.grpo.settings import GRPOExperiment, RunSettings
from experiments.help import _shown, field_docs
from experiments.settings import LoopSettings
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.optim.chains import OptimConfig
from lqlm.tasks.gsm8k import Gsm8kConfig
from tests.experiments.conftest import CONFIG
from tests.experiments.tiny_model import tiny


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpfull"])
def test_it_names_command_files_and_flags(cli, flag):
    ended = cli(flag)
    assert (ended.status, ended.err) == (0, "")
    words = (
        "usage: python -m experiments.grpo",
        "--config=FILE",
        "--cache=",
        "metrics.jsonl",
        "summary.json",
        "adapter/",
    )
    for word in words:
        assert word in ended.out
    assert max(map(len, ended.out.splitlines())) <= 120


def test_it_lists_every_key_with_the_value_of_the_config_file(cli, model, tmp_path):
    out = cli("--help", "--config.optim.learning_rate=0.25").out
    assert CONFIG in out
    for path, value in leaves(tiny(model, tmp_path), "config"):
        assert f"--{path}=" in out, path
        if isinstance(value, int | float):
            shown = 0.25 if path.endswith("learning_rate") else value
            assert f"--{path}={shown} " in out or f"--{path}={shown}\n" in out, path


def test_what_it_shows_can_be_typed():
    shown = [_shown(value) for value in (("q_proj", "v_proj"), (16, 32), "{a}?", "it's $5", "", "3")]
    typed = [("".join(shlex.split(text))) for text in shown]
    assert typed == ["('q_proj', 'v_proj')", "(16, 32)", "{a}?", "it's $5", "", "3"]


def leaves(value, path):
    if isinstance(value, dict) and value:
        return [leaf for name, part in value.items() for leaf in leaves(part, f"{path}.{name}")]
    if not dataclasses.is_dataclass(value):
        return [(path, value)]
    fields = [field.name for field in dataclasses.fields(value)]
    return [leaf for name in fields for leaf in leaves(getattr(value, name), f"{path}.{name}")]


def test_the_documentation_of_a_field_is_found():
    assert field_docs(RunSettings)["steps"].startswith("rollouts in all")
    assert field_docs(RunSettings).keys() == {field.name for field in dataclasses.fields(RunSettings)}
    docs = field_docs(Gsm8kConfig)
    assert docs["train_path"] == docs["test_path"] == ".jsonl or .jsonl.gz files; None for both: the dataset."
    assert field_docs(OptimConfig)["clip_norm"].startswith("of the gradient") and "b1" not in field_docs(OptimConfig)
    assert field_docs(GRPOConfig)["max_length"].startswith("tokens") and "reduction" not in field_docs(GRPOConfig)
    assert field_docs(GRPOExperiment).keys() >= {"workdir", "mesh", "start"}
    assert field_docs(LoopSettings)["steps"].startswith("steps in all") and "reward_timeout" not in field_docs(
        LoopSettings
    )


def test_bad_input_beside_it_is_still_one_line(cli):
    assert "did you mean learning_rate" in cli("--help", "--config.optim.learning_ratee=1").line()
