"""Settings: from and to a ConfigDict, from the command line, and those of the committed config files."""

import dataclasses
import importlib
import pathlib
import re
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.a2c.settings import A2CExperiment
from experiments.command import load_config
from experiments.compare.settings import CompareExperiment
from experiments.configdict import as_config, from_config, kind_of, kinds
from experiments.dpo.settings import DPOExperiment
from experiments.export import ExportSettings
from experiments.generate.settings import GenerateSettings
from experiments.grpo import __main__ as grpo
from experiments.grpo.settings import GRPOExperiment, RunSettings
from experiments.iterative.settings import IterativeExperiment
from experiments.online_dpo.settings import OnlineDPOExperiment
from experiments.panel.settings import PanelExperiment
from experiments.plan.settings import PlanSettings
from experiments.poker import tuning
from experiments.poker.pipeline_settings import PipelineExperiment
from experiments.poker.self_play_settings import SelfPlayExperiment
from experiments.poker.small_games_settings import SmallGamesExperiment
from experiments.ppo.settings import PPOExperiment
from experiments.quantize.settings import QuantizeExperiment
from experiments.r1.settings import R1Experiment
from experiments.report import ReportSettings
from experiments.reward_model.settings import RewardModelExperiment
from experiments.rollouts.settings import RewardSettings
from experiments.rollouts.setup import build_sampling
from experiments.settings import Experiment, ModelSettings, scheduled
from experiments.sft.settings import DataSettings, ScratchSettings, SFTExperiment
from experiments.sft.settings import RunSettings as SFTRunSettings
from lqlm.adapters.configs import (
    FullConfig,
    Ia3Config,
    LoraConfig,
    PrefixConfig,
    PromptConfig,
    target_names,
)
from lqlm.algorithms.grpo import GRPOConfig
from lqlm.errors import UserError
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import OptimConfig, make_optimizer
from lqlm.rewards.specs import RewardSpec, bind
from lqlm.tasks.arithmetic import ArithmeticConfig
from lqlm.tasks.gsm8k import Gsm8kConfig
from lqlm.tasks.gym import GymConfig
from lqlm.tasks.poker import PokerConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
COMMANDS = {
    "grpo": GRPOExperiment,
    "ppo": PPOExperiment,
    "a2c": A2CExperiment,
    "sft": SFTExperiment,
    "quantize": QuantizeExperiment,
    "quantize --plan": PlanSettings,
    "export": ExportSettings,
    "generate": GenerateSettings,
    "panel": PanelExperiment,
    "compare": CompareExperiment,
    "reward_model": RewardModelExperiment,
    "dpo": DPOExperiment,
    "online_dpo": OnlineDPOExperiment,
    "report": ReportSettings,
    "r1": R1Experiment,
    "iterative": IterativeExperiment,
    "poker": PipelineExperiment,
    "poker train-small": SmallGamesExperiment,
    "poker self-play": SelfPlayExperiment,
}
CONFIGS = sorted((ROOT / "configs").glob("*.py"))

counts, names = st.integers(1, 1000), st.text("abcdefgh_", min_size=1, max_size=8)
maybe_text = st.none() | st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))
tasks = st.one_of(
    st.builds(
        ArithmeticConfig,
        operands=st.none() | st.just((2, 9)),
        terms=st.just(2) | st.just((2, 4)),
        train=counts,
        system=maybe_text,
    ),
    st.builds(Gsm8kConfig, train=st.none() | counts, heldout=st.none() | counts, system=maybe_text),
    st.builds(GymConfig, name=names, options=st.dictionaries(names, values, max_size=3), system=maybe_text),
    st.builds(
        PokerConfig, source=names, heldout_source=names, choices=st.just((1, 3)), field=st.just(("call", "fold"))
    ),
)
rewards = st.builds(
    RewardSettings, function=names, weight=st.floats(-9, 9), params=st.dictionaries(names, values, max_size=3)
)
experiments = st.builds(
    GRPOExperiment,
    task=tasks,
    rewards=st.dictionaries(names, rewards, min_size=1, max_size=3),
    workdir=st.text(max_size=9),
    seed=st.integers(),
    adapter=st.builds(LoraConfig, rank=counts, alpha=st.floats(0.1, 99), targets=st.just(("q_proj", "[kv]_proj"))),
    sampling=st.builds(SamplingConfig, max_new_tokens=counts, temperature=st.floats(0, 2)),
    grpo=st.builds(GRPOConfig, beta=st.floats(0, 1), max_length=st.none() | counts),
    optim=st.builds(
        OptimConfig, clip_norm=st.none() | st.floats(0.1, 9), schedule=st.sampled_from(["linear", "cosine"])
    ),
    run=st.builds(
        RunSettings, steps=counts, merge=st.booleans(), prompt_buckets=st.lists(counts, max_size=3).map(tuple)
    ),
)
adapters = st.one_of(
    st.builds(LoraConfig, rank=counts, dora=st.booleans(), rank_pattern=st.just((("q_proj", 3), ("v_proj", 5)))),
    st.builds(Ia3Config),
    st.builds(PromptConfig, tokens=counts),
    st.builds(PrefixConfig, tokens=counts),
)
trainings = st.builds(
    SFTExperiment,
    model=st.builds(ModelSettings, quantize=st.booleans()),
    adapter=adapters,
    data=st.builds(DataSettings, source=st.text(max_size=9), limit=counts, data_files=st.just(("a", "b"))),
    run=st.builds(SFTRunSettings, packing=st.booleans(), loss=st.sampled_from(["nll", "dft"]), patience=counts),
) | st.builds(SFTExperiment, model=st.builds(ScratchSettings, layers=counts), adapter=st.builds(FullConfig))


@given(trainings)
def test_every_kind_of_section_to_a_config_and_back(settings):
    back = from_config(SFTExperiment, as_config(settings))
    assert back == settings
    assert type(back.model) is type(settings.model) and type(back.adapter) is type(settings.adapter)


@pytest.mark.parametrize(("cls", "kind"), [(Ia3Config, "ia3"), (ScratchSettings, "scratch"), (Gsm8kConfig, "gsm8k")])
def test_the_names_of_kinds(cls, kind):
    assert kind_of(cls) == kind


def test_a_section_of_one_kind_has_none():
    assert kinds(ModelSettings | ScratchSettings) == {"pretrained": ModelSettings, "scratch": ScratchSettings}
    assert kinds(ModelSettings) == kinds(int | None) == {}
    assert "kind" not in as_config(GRPOExperiment(task=ArithmeticConfig(), rewards={})).model


@given(experiments)
def test_to_a_config_and_back(settings):
    back = from_config(GRPOExperiment, as_config(settings))
    assert back == settings and type(back.task) is type(settings.task)


@given(experiments)
def test_a_plain_dict_does_as_well(settings):
    assert from_config(GRPOExperiment, as_config(settings).to_dict()) == settings


def test_what_is_equal_has_equal_types():
    """``1 == 1.0 == True``: the round trip must not be fooled by it."""
    settings = from_config(OptimConfig, as_config(OptimConfig(learning_rate=1)))
    assert type(settings.learning_rate) is float
    assert type(from_config(ModelSettings, as_config(ModelSettings())).quantize) is bool
    with pytest.raises(UserError, match=r"config\.quantize is 1; it must be of type bool"):
        from_config(ModelSettings, {"quantize": 1})
    with pytest.raises(UserError, match=r"config\.warmup_steps is True; it must be of type int"):
        from_config(OptimConfig, {"warmup_steps": True})


OVERRIDES = {
    "--config.task.operands=2,9": ("task.operands", (2, 9)),
    "--config.task.operands=(2, 9)": ("task.operands", (2, 9)),
    "--config.task.operands=None": ("task.operands", None),
    "--config.task.terms=2,3": ("task.terms", (2, 3)),
    "--config.task.terms=3": ("task.terms", 3),
    "--config.task.system=Be brief.": ("task.system", "Be brief."),
    "--config.optim.clip_norm=None": ("optim.clip_norm", None),
    "--config.optim.clip_norm=2": ("optim.clip_norm", 2.0),
    "--config.optim.learning_rate=1e-4": ("optim.learning_rate", 1e-4),
    "--config.grpo.max_length=7": ("grpo.max_length", 7),
    "--config.run.merge=false": ("run.merge", False),
    "--noconfig.run.merge": ("run.merge", False),
    "--config.run.prompt_buckets=16,32": ("run.prompt_buckets", (16, 32)),
    "--config.run.prompt_buckets=()": ("run.prompt_buckets", ()),
    "--config.adapter.targets=q_proj": ("adapter.targets", ("q_proj",)),
    "--config.adapter.targets=('q_proj', 'v_proj')": ("adapter.targets", ("q_proj", "v_proj")),
    "--config.rewards.digits.weight=3": ("rewards.digits.weight", 3.0),
}


@pytest.mark.parametrize("argument", OVERRIDES)
def test_the_command_line_sets_a_key(cli, monkeypatch, argument):
    seen = []
    monkeypatch.setattr(grpo, "main", lambda config: seen.append(from_config(GRPOExperiment, config)))
    ended = cli(argument)
    assert (ended.status, ended.err) == (0, "")
    key, value = OVERRIDES[argument]
    found = seen[0]
    for part in key.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value and type(found) is type(value)


def test_the_last_config_file_counts_and_both_spellings_do(cli, monkeypatch, model):
    seen = []
    monkeypatch.setattr(grpo, "main", seen.append)
    cli("--config", "configs/grpo_smollm2_arithmetic.py", "--config.seed=5")
    assert seen[0].model.source == "smollm2-135m-instruct" and seen[0].seed == 5
    cli("--config.seed=5")
    assert seen[1].model.source == str(model) and seen[1].seed == 5
    cli(config=None)
    assert seen[2].model.source == "smollm2-135m-instruct"  # the default


def command_of(file):
    """The command that a config's own documentation names, and its settings."""
    doc = importlib.import_module(f"configs.{file.stem}").__doc__
    command = r"python -m experiments\.(\w+(?: --plan| train-small| self-play)?)(?: --config configs/(\w+\.py))?"
    name, config = re.search(command, doc).groups()
    assert config in (file.name, None)
    return doc, COMMANDS[name]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_committed_config(file):
    """It says how it is run and what to expect, makes valid settings, and needs no model for that."""
    doc, cls = command_of(file)
    assert re.search(r"minutes", doc, re.IGNORECASE) and re.search(r"expected", doc, re.IGNORECASE)
    settings = from_config(cls, load_config(str(file)))
    assert from_config(cls, as_config(settings)) == settings
    assert not pathlib.Path(getattr(settings, "workdir", "")).is_absolute()
    if isinstance(settings, Experiment):
        updates = settings.run.steps * getattr(settings.run, "updates", 1)
        assert scheduled(settings, updates).total_steps == updates
        make_optimizer(scheduled(settings, updates))
        assert target_names(getattr(settings.adapter, "targets", ("all-linear",)))
    if isinstance(settings, PipelineExperiment):
        tuning.check(settings)
    for name, reward in getattr(settings, "rewards", {}).items():
        bind(RewardSpec(name, reward.function, reward.weight, reward.params))


def test_the_workdirs_of_the_committed_configs_differ():
    configs = [load_config(str(file)) for file in CONFIGS]
    found = [config.workdir for config in configs if "workdir" in config]
    assert len(set(found)) == len(found) >= 4


def test_every_key_of_the_settings_reaches_the_config():
    settings = from_config(GRPOExperiment, load_config("configs/grpo_smollm2_arithmetic.py"))
    for section in ("model", "adapter", "sampling", "grpo", "optim", "run", "task"):
        value, of_kinds = getattr(settings, section), section in ("adapter", "task")
        assert set(as_config(value)) == {field.name for field in dataclasses.fields(value)}
        assert set(as_config(settings)[section]) == set(as_config(value)) | ({"kind"} if of_kinds else set())


TASK = {"task": ArithmeticConfig(), "rewards": {}}
REFUSED = {
    "4-bit weights cannot be trained": (SFTExperiment, {"adapter": FullConfig()}, "model.quantize"),
    "nothing to adapt": (SFTExperiment, {"model": ScratchSettings()}, "FullConfig"),
    "a reference that moves": (
        GRPOExperiment,
        {"adapter": FullConfig(), "model": ModelSettings(quantize=False), **TASK},
        "grpo.beta is 0.04",
    ),
    "a dtype that nothing computes in": (SFTExperiment, {"adapter": LoraConfig(dtype="float16")}, "adapter.dtype"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_sections_that_contradict_each_other(name):
    cls, sections, word = REFUSED[name]
    with pytest.raises(UserError, match=re.escape(word)):
        cls(**sections)


def test_rollouts_refuse_texts_that_stop_and_caches_that_are_none():
    config = load_config("configs/grpo_smollm2_arithmetic.py")
    config.sampling.stop = ("\n",)
    with pytest.raises(UserError, match="rollouts compare no texts; leave it empty"):
        from_config(GRPOExperiment, config)
    config.sampling.stop = ()
    config.run.cache = "int4"
    with pytest.raises(UserError, match=r"run\.cache|cache"):
        from_config(GRPOExperiment, config)
    config.run.cache, config.run.slots, config.mesh = "int8", 2, "data=2"
    with pytest.raises(UserError, match=r"run.slots is 2 and mesh 'data=2'; slots are for one device; give 0"):
        from_config(GRPOExperiment, config)


def test_the_cache_of_the_settings_is_that_of_the_rollouts(monkeypatch):
    seen = []
    monkeypatch.setattr("experiments.rollouts.setup.make_sampler", lambda *args: seen.append(args))
    monkeypatch.setattr("experiments.rollouts.setup.load_judge", lambda *args: None)
    config = load_config("configs/grpo_smollm2_arithmetic.py")
    config.run.cache = "int8"
    settings = from_config(GRPOExperiment, config)
    build_sampling(settings, types.SimpleNamespace(config=None), 8, None)
    assert seen[0][-2:] == ("int8", 0) and seen[0][1] == settings.sampling
