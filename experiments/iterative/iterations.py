"""One iteration: samples of the policy, the reward model trained again on them, and GRPO against it."""

import hashlib
import pathlib
from collections.abc import Iterable

from experiments.grpo.algorithm import GRPO
from experiments.grpo.settings import GRPOExperiment
from experiments.iterative.settings import IterativeExperiment
from experiments.keys import seed_of
from experiments.main import run_settings
from experiments.pairs.settings import PairData
from experiments.reward_model.algorithm import REWARD_MODEL
from experiments.reward_model.settings import RewardModelExperiment
from experiments.rollouts.drawing import Drawing, Row, draw, pair_records, pairs
from experiments.rollouts.prompts import build_task
from experiments.rollouts.settings import RewardModelSettings
from experiments.workdir import write_learned
from lqlm.errors import UserError
from lqlm.io.datasets import DataSource, records


def iterate(settings: IterativeExperiment, number: int) -> None:
    """Iteration ``number``, from 0; a finished part is only reported."""
    new = new_pairs(settings, number)
    train_judge(settings, number, new)
    train_policy(settings, number)


def folder(settings: IterativeExperiment, number: int) -> pathlib.Path:
    """Where an iteration writes."""
    return pathlib.Path(settings.workdir) / f"iteration_{number}"


def policy_before(settings: IterativeExperiment, number: int) -> str:
    """The adapter that an iteration begins with, which is also its reference; empty: the base."""
    return str(folder(settings, number - 1) / "policy/adapter") if number else settings.start


def new_pairs(settings: IterativeExperiment, number: int) -> list[Row]:
    """Right against wrong samples of the policy that the iteration begins with, to learn from.

    They are also written to ``new.jsonl``, and those of the problems that no reward model learns from, in no iteration,
    to ``heldout.jsonl``.

    Raises:
        UserError: when there are none to learn from or to hold out.
    """
    where, task = folder(settings, number), build_task(settings.task)
    start = policy_before(settings, number)
    seed = seed_of(settings, f"draw/{number}")
    rows = draw(Drawing(settings.model, settings.adapter, start, settings.task, seed, settings.draw), where / "samples")
    apart = held_out([row["id"] for row in rows], settings.judge.heldout)
    found = pairs(rows, settings.draw.threshold)
    held = [pair for pair in found if pair[0]["id"] in apart]
    learned = [pair for pair in found if pair[0]["id"] not in apart]
    if not held or not learned:
        raise UserError(
            f"iteration {number}: {len(found)} problems with right and wrong samples, {len(held)} of them held out; "
            "raise draw.samples or draw.prompts, or change judge.heldout"
        )
    judge, new = where / "reward_model", list(pair_records(task, learned))
    write_learned(where / "heldout.jsonl", pair_records(task, held), judge)
    write_learned(where / "new.jsonl", new, judge)
    return new


def held_out(problems: Iterable[str], count: int) -> set[str]:
    """The problems that reward models are measured on, the same in every iteration: a hash of the name decides.

    >>> names = [f"arithmetic/{n} + 1" for n in range(9)]
    >>> held_out(names, 2) == held_out([*names[::-1], *names], 2), len(held_out(names, 2))
    (True, 2)
    """
    return set(sorted(set(problems), key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())[:count])


def replayed(settings: IterativeExperiment, number: int, count: int) -> list[Row]:
    """Pairs of earlier iterations, so many that they are the share of all that the settings ask for.

    A hash of each pair decides which, so that a command that goes on takes the same.
    """
    share = settings.judge.replay
    earlier = [
        dict(row.fields)
        for before in range(number)
        for row in records(DataSource(str(folder(settings, before) / "new.jsonl")))
    ]
    order = sorted(earlier, key=lambda row: hashlib.blake2b(f"{number}/{row}".encode(), digest_size=8).digest())
    return order[: round(count * share / (1.0 - share))]


def train_judge(settings: IterativeExperiment, number: int, new: list[Row]) -> None:
    """Go on training the reward model on new pairs and a share of old ones."""
    where, judge = folder(settings, number), settings.judge
    write_learned(where / "pairs.jsonl", [*new, *replayed(settings, number, len(new))], where / "reward_model")
    experiment = RewardModelExperiment(
        workdir=str(where / "reward_model"),
        seed=seed_of(settings, f"judge/{number}"),
        model=settings.model,
        adapter=settings.adapter,
        start=str(folder(settings, number - 1) / "reward_model/adapter") if number else "",
        data=PairData(source=str(where / "pairs.jsonl"), heldout_source=str(where / "heldout.jsonl")),
        text=judge.text,
        reward=judge.reward,
        optim=judge.optim,
        run=judge.run,
    )
    run_settings(REWARD_MODEL, experiment)


def train_policy(settings: IterativeExperiment, number: int) -> None:
    """GRPO against the reward model; the reference is the policy that the iteration begins with."""
    where, rl = folder(settings, number), settings.rl
    experiment = GRPOExperiment(
        workdir=str(where / "policy"),
        seed=seed_of(settings, f"policy/{number}"),
        model=settings.model,
        adapter=settings.adapter,
        start=policy_before(settings, number),
        task=settings.task,
        rewards=rl.rewards,
        reward_model=RewardModelSettings(str(where / "reward_model/adapter"), settings.judge.weight),
        sampling=rl.sampling,
        grpo=rl.grpo,
        optim=rl.optim,
        run=rl.run,
    )
    run_settings(GRPO, experiment)
