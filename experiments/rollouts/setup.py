"""From settings to objects: the task, its rewards and prompts, and the compiled functions that sample."""

import dataclasses
from collections.abc import Callable, Sequence

from jax.sharding import Mesh

from experiments import trained
from experiments.algorithm import Setup
from experiments.decoding import make_sampler
from experiments.rollouts.prompts import Prompts
from experiments.rollouts.scoring import Judge, load_judge
from experiments.rollouts.settings import RolloutExperiment, RolloutSettings
from lqlm.generation.decode import Completions
from lqlm.io.load import LoadedModel
from lqlm.rewards.pool import RewardPool
from lqlm.rewards.specs import RewardFunction, bind_all, check_scenarios
from lqlm.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What draws completions on the device, and scores them there; each compiles once per prompt bucket."""

    policy: trained.Policy  # (base, adapters) -> what to sample with
    sample: Callable[..., Completions]
    greedy: Callable[..., Completions]
    judge: Judge | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutSetup(Setup):
    """A run on its own samples, ready to begin."""

    settings: RolloutExperiment
    task: Task
    rewards: list[RewardFunction]
    prompts: Prompts
    sampling: Sampling
    pool: RewardPool | None = None


def bind_rewards(settings: RolloutExperiment, task: Task) -> list[RewardFunction]:
    """The rewards that the settings name, checked against their functions' signatures; none beside a reward model."""
    check_scenarios("reward_model", settings.reward_model.scenarios, task)
    if settings.reward_model.path and not settings.rewards:
        return []
    return bind_all([reward.spec(name) for name, reward in settings.rewards.items()], task)


def reward_pool(settings: RolloutSettings, rewards: Sequence[RewardFunction]) -> RewardPool | None:
    """The processes in which rewards are computed, if there are to be any; they start at the first sample."""
    workers = settings.reward_workers
    return RewardPool(rewards, workers=workers, timeout_s=settings.reward_timeout) if workers else None


def build_sampling(settings: RolloutExperiment, model: LoadedModel, group: int, mesh: Mesh | None) -> Sampling:
    """Jit what samples ``group`` completions of each prompt, and the greedy one of evaluations."""
    run = settings.run
    return Sampling(
        trained.policy(settings.adapter, run.merge, mesh, model.config, rows=(run.slots or run.prompts) * group),
        make_sampler(model, settings.sampling, group, mesh, run.cache, run.slots),
        make_sampler(model, dataclasses.replace(settings.sampling, temperature=0.0), 1, mesh),
        load_judge(settings.reward_model, model, mesh),
    )
