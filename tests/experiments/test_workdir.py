"""Whose folder it is: settings that differ are refused, those that are younger than the run are not."""

import dataclasses
import json
import pathlib

import pytest

from configs.grpo_smollm2_arithmetic import get_config
from experiments.configdict import from_config
from experiments.grpo.settings import GRPOExperiment
from experiments.rollouts.settings import RewardSettings
from experiments.workdir import claim, write_learned
from lqlm.adapters.configs import FullConfig
from lqlm.errors import UserError


@pytest.fixture
def begun(tmp_path):
    """Settings of a run that has left a checkpoint."""
    settings = dataclasses.replace(from_config(GRPOExperiment, get_config()), workdir=str(tmp_path))
    with claim(settings) as workdir:
        (workdir.checkpoints / "0").mkdir(parents=True)
    return settings


def rewrite(settings, change):
    with claim(settings) as workdir:
        then = json.loads(workdir.config.read_text())
        change(then)
        workdir.config.write_text(json.dumps(then))


def resume(settings):
    """The settings that the folder's run was begun with."""
    with claim(settings) as workdir:
        return json.loads(workdir.config.read_text())


def test_the_same_settings_go_on(begun):
    assert resume(begun)["run"]["prompts"] == 8


def test_a_setting_that_differs_is_refused(begun):
    with pytest.raises(UserError, match=r"run.prompts=8, this one has 4; set --config.workdir"):
        resume(dataclasses.replace(begun, run=dataclasses.replace(begun.run, prompts=4)))


def test_a_run_goes_on_without_a_setting_that_is_younger(begun):
    rewrite(begun, lambda then: (then.pop("reward_model"), then["run"].pop("reward_timeout"), then["run"].pop("merge")))
    assert "reward_model" not in resume(begun)  # the record of what it was begun with stays


def test_a_younger_setting_must_have_its_default(begun):
    rewrite(begun, lambda then: then["run"].pop("merge"))
    with pytest.raises(UserError, match=r"run.merge=True, this one has False"):
        resume(dataclasses.replace(begun, run=dataclasses.replace(begun.run, merge=False)))


def test_a_setting_that_is_gone_is_refused(begun):
    rewrite(begun, lambda then: then["run"].update(scale="batch"))
    with pytest.raises(UserError, match=r"run.scale='batch', this one has None"):
        resume(begun)


def test_an_entry_goes_on_without_a_field_that_is_younger(begun, tmp_path):
    rewards = {"right": RewardSettings("lqlm.rewards.functions.correct")}
    settings = dataclasses.replace(begun, rewards=rewards, workdir=str(tmp_path / "own"))
    with claim(settings) as workdir:
        (workdir.checkpoints / "0").mkdir(parents=True)
    rewrite(settings, lambda then: then["rewards"]["right"].pop("scenarios"))
    assert "scenarios" not in resume(settings)["rewards"]["right"]
    other = RewardSettings("lqlm.rewards.functions.correct", scenarios=("sums",))
    with pytest.raises(UserError, match=r"rewards.right.scenarios=\[\], this one has \['sums'\]"):
        resume(dataclasses.replace(settings, rewards={"right": other}))


def test_what_a_run_learned_from_stays(begun, tmp_path):
    path, run = tmp_path / "rows.jsonl", pathlib.Path(begun.workdir)
    for rows in ([{"a": 1}], [{"a": 2}]):  # no run has begun there
        write_learned(path, rows, tmp_path / "new")
        assert json.loads(path.read_text()) == rows[0]
    stamp = path.stat().st_mtime_ns
    write_learned(path, [{"a": 2}], run)
    assert path.stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match=f"rows.jsonl: the run in {run} learned from these records"):
        write_learned(path, [{"a": 3}], run)
    assert json.loads(path.read_text()) == {"a": 2}


def test_another_kind_of_section_is_not_filled_up_with_defaults(begun):
    rewrite(begun, lambda then: then.update(adapter=dataclasses.asdict(FullConfig())))
    with pytest.raises(UserError, match=r"adapter"):
        resume(begun)
