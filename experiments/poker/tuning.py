"""What is learned, each stage as an experiment of its own; those after SFT go on from the model that it left."""

import dataclasses
from collections.abc import Callable

from tqdm import tqdm

from experiments.grpo.settings import GRPOExperiment
from experiments.pairs.settings import PairData
from experiments.poker.files import read_rows, write_rows
from experiments.poker.pairs import told_pairs, valued_pairs
from experiments.poker.pipeline_settings import PipelineExperiment
from experiments.poker.self_play_settings import SelfPlayExperiment
from experiments.ppo.settings import PPOExperiment, PretrainingSettings, ValueSettings
from experiments.reward_model.settings import RewardModelExperiment
from experiments.rollouts.settings import RewardModelSettings
from experiments.settings import Experiment, ModelSettings, scheduled
from experiments.sft.settings import DataSettings, SFTExperiment
from lqlm.adapters.configs import AdapterConfig, FullConfig
from lqlm.io.load import find_model
from lqlm.optim.chains import make_optimizer
from lqlm.rewards.specs import RewardSpec, bind
from lqlm.tasks.pairs import PairConfig
from lqlm.tasks.poker import PokerConfig, poker_task
from lqlm.tasks.records import InstructionConfig


def check(settings: PipelineExperiment) -> None:
    """Refuse settings that a later stage would refuse, before any work."""
    for stage, make in EXPERIMENTS.items():
        if stage in settings.stages:
            made = make(settings)
            make_optimizer(scheduled(made, made.run.steps * getattr(made.run, "updates", 1)))
            for name, one in getattr(made, "rewards", {}).items():
                bind(RewardSpec(name, one.function, one.weight, one.params))


def check_model(settings: PipelineExperiment) -> None:
    """Refuse a model to begin with that is not there, before hours of logs."""
    if "sft" in settings.stages and isinstance(settings.sft.model, ModelSettings):
        find_model(settings.sft.model.source)


def sft(settings: PipelineExperiment) -> SFTExperiment:
    """Supervised fine-tuning on the prompts with their answers."""
    stage, path = settings.sft, settings.folder("records")
    return SFTExperiment(
        workdir=str(settings.folder("sft")),
        seed=settings.seed,
        model=stage.model,
        adapter=stage.adapter,
        data=DataSettings(
            source=str(path / "train.jsonl"),
            heldout_source=str(path / "valid.jsonl"),
            limit=stage.limit,
            heldout=stage.heldout,
        ),
        text=records(settings),
        optim=stage.optim,
        run=stage.run,
    )


def trained_whole(settings: PipelineExperiment) -> bool:
    """Whether SFT trained all weights, so that it leaves a model and no adapter."""
    return isinstance(settings.sft.adapter, FullConfig)


def base(settings: PipelineExperiment) -> ModelSettings:
    """The model that the stages after SFT share: the one that SFT left, or the one that it trained an adapter over."""
    if isinstance(settings.sft.model, ModelSettings) and not trained_whole(settings):
        return settings.sft.model
    held = settings.adapt
    return ModelSettings(
        source=str(settings.folder("sft") / "model"),
        quantize=held.quantize,
        quant=held.quant,
        dtype=settings.sft.model.dtype,
    )


def adapter(settings: PipelineExperiment) -> AdapterConfig:
    """What these stages train: the adapter of SFT, or a new one where SFT trained the weights themselves."""
    return settings.adapt.adapter if trained_whole(settings) else settings.sft.adapter


def start(settings: PipelineExperiment, stage: str) -> str:
    """The adapter that training goes on from after a stage; empty: a new one, over the model that SFT left."""
    return "" if stage == "sft" and trained_whole(settings) else str(settings.folder(stage) / "adapter")


def task(settings: PipelineExperiment) -> PokerConfig:
    """The decisions that PPO and GRPO ask, in the words of SFT."""
    words = {
        field.name: getattr(settings.ask, field.name)
        for field in dataclasses.fields(settings.ask)
        if field.name != "chat"  # tasks always ask in the chat template
    }
    source, heldout = (str(settings.folder("selected") / f"{part}.jsonl") for part in ("train", "valid"))
    return dataclasses.replace(settings.task, source=source, heldout_source=heldout, **words)


def make_pairs(settings: PipelineExperiment) -> None:
    """The pairs of the training decisions."""
    asked, pairs, path = settings.ask, settings.pairs, settings.folder("prompts") / "train.jsonl"
    if pairs.by == "values":
        decisions = poker_task(dataclasses.replace(task(settings), limit=pairs.limit))
        rows = valued_pairs(decisions, pairs, asked, settings.seed)
    else:
        rows = told_pairs(lambda: read_rows(path), pairs, asked, settings.seed)
    count = write_rows(settings.folder("pairs") / "train.jsonl", tqdm(rows, unit="pair"))
    print(f"{count} pairs by {pairs.by}")


def reward_model(settings: PipelineExperiment) -> RewardModelExperiment:
    """The reward model: adapters and a head over the model that SFT left."""
    stage, most = settings.reward_model, settings.sft.max_length
    return RewardModelExperiment(
        workdir=str(settings.folder("reward_model")),
        seed=settings.seed,
        model=base(settings),
        adapter=adapter(settings),
        start=start(settings, "sft"),
        data=PairData(source=str(settings.folder("pairs") / "train.jsonl"), heldout=stage.heldout),
        text=PairConfig(max_prompt=most, max_completion=most),
        reward=stage.reward,
        optim=stage.optim,
        run=stage.run,
    )


def ppo(settings: PipelineExperiment) -> PPOExperiment:
    """PPO from the policy of SFT; its divergence is taken from that policy."""
    stage, judge = settings.ppo, str(settings.folder("reward_model") / "adapter")
    return PPOExperiment(
        workdir=str(settings.folder("ppo")),
        seed=settings.seed,
        model=base(settings),
        adapter=adapter(settings),
        start=start(settings, "sft"),
        task=task(settings),
        rewards=stage.rewards,
        reward_model=RewardModelSettings(judge if stage.judge else "", stage.judge),
        value=ValueSettings(judge if stage.value == "reward_model" else "", settings.adapt.adapter),
        pretraining=_pretraining(settings),
        sampling=stage.sampling,
        kl=stage.kl,
        ppo=stage.ppo,
        estimate=stage.estimate,
        optim=stage.optim,
        run=stage.run,
    )


def _pretraining(settings: PipelineExperiment) -> PretrainingSettings:
    """As many records of SFT as the updates of PPO take."""
    rows, run = settings.ppo.ptx_rows, settings.ppo.run
    if not rows:
        return PretrainingSettings()
    source = str(settings.folder("records") / "train.jsonl")
    data = DataSettings(source=source, limit=rows * run.steps * run.updates + 1, heldout=1)
    return PretrainingSettings(rows, data, records(settings))


def records(settings: PipelineExperiment) -> InstructionConfig:
    """How the records of SFT are read."""
    return InstructionConfig(
        form="messages" if settings.ask.chat else "completion", max_length=settings.sft.max_length, truncation="skip"
    )


def grpo(settings: PipelineExperiment) -> GRPOExperiment:
    """GRPO from the policy of SFT or of PPO; its divergence is taken from that policy."""
    stage = settings.grpo
    return GRPOExperiment(
        workdir=str(settings.folder("grpo")),
        seed=settings.seed,
        model=base(settings),
        adapter=adapter(settings),
        start=start(settings, stage.start),
        task=task(settings),
        rewards=stage.rewards,
        sampling=stage.sampling,
        grpo=stage.grpo,
        optim=stage.optim,
        run=stage.run,
    )


def self_play(settings: PipelineExperiment) -> SelfPlayExperiment:
    """Self-play from the policy of an earlier stage; the pull is towards that policy."""
    stage = settings.self_play
    return SelfPlayExperiment(
        workdir=str(settings.folder("self_play")),
        seed=settings.seed,
        model=base(settings),
        adapter=adapter(settings),
        start=start(settings, stage.start),
        ask=settings.ask,
        table=dataclasses.replace(stage.table, game=settings.logs.game),
        league=stage.league,
        loss=stage.loss,
        mirror=stage.mirror,
        pull=stage.pull,
        shapes=settings.evaluate.shapes,
        match=stage.match,
        optim=stage.optim,
        run=stage.run,
    )


EXPERIMENTS: dict[str, Callable[[PipelineExperiment], Experiment]] = {
    "sft": sft,
    "reward_model": reward_model,
    "ppo": ppo,
    "grpo": grpo,
    "self_play": self_play,
}
"""Stage -> the experiment that it is."""
