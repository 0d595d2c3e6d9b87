"""Rewards weighted and summed; a failure of a reward is counted instead of ending the run.

>>> from lqlm.rewards.specs import bind_all
>>> length = RewardSpec("length", "lqlm.rewards.functions.soft_overlong", weight=0.5, params={"limit": 10, "buffer": 4})
>>> score_all(bind_all([length], task=None), [Sample("2 + 2?", "4", "4", 8, False)], task=None, timeout_s=5.0).total
array([-0.25], dtype=float32)
"""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from lqlm.errors import UserError
from lqlm.rewards.pool import RewardPool
from lqlm.rewards.specs import RewardFunction, RewardSpec, Sample, bind, describe
from lqlm.rewards.timeout import Timeout, within
from lqlm.tasks.base import Task


@dataclasses.dataclass(frozen=True)
class Rewards:
    """Rewards of n samples.

    Attributes:
        total: float32 [n], the weighted sum.
        components: name -> float32 [n], before weighting; 0 where the function failed, NaN where it does not judge.
        errors: failures, counted over samples and components.
        first_error: one line on the first of them, or None.
        failed: name -> samples on which the function failed, and one line on the first cause.
    """

    total: np.ndarray
    components: dict[str, np.ndarray]
    errors: int
    first_error: str | None
    failed: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

    def checked(self) -> "Rewards":
        """These, if no component has failed on every sample: it is broken then, not unlucky.

        One that judges some of the samples only, of a mixture of tasks, is counted whatever happens: they may be few.

        Raises:
            UserError: naming it.
        """
        for count, cause in self.failed.values():
            if count == len(self.total):
                raise UserError(cause)
        return self


def as_float(value: Any) -> float:
    """A reward value as a float that float32 can hold; ValueError or TypeError otherwise."""
    if getattr(value, "ndim", None) == 0:  # numpy and jax scalars
        value = value.item()
    if not isinstance(value, (numbers.Real, Decimal)):
        raise TypeError(f"returned {type(value).__name__} {str(value)[:40]!r}, not a number")
    if math.isnan(value) or abs(float(value)) > float(np.finfo(np.float32).max):
        raise ValueError(f"returned {str(value)[:40]}, not a finite float32")
    return float(value)


def value_of(
    reward: RewardFunction, sample: Sample, task: Task | None, timeout_s: float | None
) -> tuple[float, str | None]:
    """(value, None), or (0, cause and cure) when the function failed on this sample; NaN where it does not judge."""
    if not reward.judges(sample):
        return math.nan, None
    try:
        return within(timeout_s, lambda: as_float(reward(sample, task))), None
    except Timeout:
        return 0.0, f"it ran longer than {timeout_s} s; make it end sooner or raise the time limit"
    except (Exception, SystemExit) as error:  # an exception in a reward is that sample's reward, not a crash
        return 0.0, f"{describe(error)}; make it return a finite number for every completion"


def _values(
    reward: RewardFunction,
    samples: Sequence[Sample],
    task: Task | None,
    timeout_s: float | None,
    pool: RewardPool | None,
) -> list[tuple[float, str | None]]:
    """`value_of` each sample, in this process or in those of a pool."""
    if pool is None or not pool.serves(reward):
        return [value_of(reward, sample, task, timeout_s) for sample in samples]
    answers = iter(pool.values(reward, [sample for sample in samples if reward.judges(sample)]))
    return [next(answers) if reward.judges(sample) else (math.nan, None) for sample in samples]


def score_all(
    rewards: Sequence[RewardFunction | RewardSpec],
    samples: Sequence[Sample],
    *,
    task: Task | None,
    timeout_s: float | None,
    some: bool = False,
    pool: RewardPool | None = None,
) -> Rewards:
    """Rewards of all samples: ``total = sum_k weight_k * component_k`` over the components that judge a sample.

    A function that raises, exits, runs longer than `timeout_s` or returns no finite number gives that sample 0 and is
    counted; a component that fails on every sample raises UserError.

    Args:
        rewards: from `bind_all`, or specs.
        samples: n completions.
        task: for functions that ask for it.
        timeout_s: seconds for one function on one sample; None: no limit.  See `within` for where it holds.
        some: these are some of a step's samples; whether a component fails on every one is asked of all of them.
        pool: processes for the functions that can be asked there; the time limit is the pool's.
    """
    if timeout_s is not None and not timeout_s > 0:
        raise UserError(f"rewards: timeout_s={timeout_s} is not positive; give seconds, or None for no limit")
    bound = [bind(reward) if isinstance(reward, RewardSpec) else reward for reward in rewards]
    components, failures, all_failed = {}, [], {}
    for reward in bound:
        results = _values(reward, samples, task, timeout_s, pool)
        components[reward.name] = np.array([value for value, _ in results], np.float32)
        failed = [
            f"reward {reward.name!r} ({reward.path}) failed on sample {i + 1} of {len(samples)} (counted 0): {cause}"
            for i, (_, cause) in enumerate(results)
            if cause is not None
        ]
        if failed:
            cause = next(cause for _, cause in results if cause is not None)
            all_failed[reward.name] = (
                len(failed),
                f"reward {reward.name!r} ({reward.path}) failed on every sample: {cause}",
            )
        failures += failed
    total = np.zeros(len(samples), np.float32)
    for reward in bound:
        total += np.float32(reward.weight) * np.nan_to_num(components[reward.name])
    found = Rewards(total, components, len(failures), failures[0] if failures else None, all_failed)
    return found if some else found.checked()
