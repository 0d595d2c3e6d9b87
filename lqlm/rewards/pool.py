"""Rewards in several processes: a slow sample keeps one of them waiting, and one that cannot be interrupted ends it.

What is asked there is a function of a sample's texts and numbers that a dotted path finds; one that wants the task or
the problem itself runs in this process, as all do without a pool.
"""

import concurrent.futures
import json
import queue
import sys
from collections.abc import Sequence

from lqlm.errors import UserError
from lqlm.rewards.specs import RewardFunction, Sample, load_reward
from lqlm.rewards.worker import Worker

SENT = ("prompt", "completion", "answer", "n_tokens", "truncated")
MOST_PARAMS = 16_384
"""Characters of a function's params: all of them are told on one command line."""
GRACE_S = 2.0  # beyond the time limit, within which the function is interrupted where that is possible

Value = tuple[float, str | None]
"""What a function gave, or 0 and why it failed."""


class RewardPool:
    """Processes that wait for samples; they start at the first one, and end with this object or this process.

    >>> from lqlm.rewards.specs import RewardSpec, bind
    >>> reward = bind(RewardSpec("short", "lqlm.rewards.functions.length_penalty", params={"per_token": 0.5}))
    >>> with RewardPool([reward], workers=2, timeout_s=5.0) as pool:
    ...     pool.values(reward, [Sample("", "a", "", 3, False), Sample("", "b", "", 1, False)])
    [(-1.5, None), (-0.5, None)]
    """

    def __init__(self, rewards: Sequence[RewardFunction], *, workers: int, timeout_s: float):
        """Find out which of the rewards can be asked elsewhere.

        Args:
            rewards: of the run.
            workers: processes.
            timeout_s: seconds for one function on one sample.
        """
        if workers < 1:
            raise UserError(f"rewards: a pool of {workers} workers; give 1 or more")
        self.timeout_s, self.workers = timeout_s, workers
        self._places = {reward.name: place for place, reward in enumerate(filter(_can_be_sent, rewards))}
        told = [{"path": r.path, "params": dict(r.params)} for r in rewards if r.name in self._places]
        line = [sys.executable, "-m", "lqlm.rewards.pool_worker", json.dumps({"timeout_s": timeout_s, "rewards": told})]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for _ in range(workers):
            self._free.put(Worker(line, wall_s=timeout_s + GRACE_S))

    def serves(self, reward: RewardFunction) -> bool:
        """Whether a reward is asked in the pool's processes."""
        return reward.name in self._places

    def values(self, reward: RewardFunction, samples: Sequence[Sample]) -> list[Value]:
        """What a function that `serves` says of each sample, in their order."""
        with concurrent.futures.ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(lambda sample: self._value(reward, sample), samples))

    def _value(self, reward: RewardFunction, sample: Sample) -> Value:
        fields = {name: getattr(sample, name) for name in reward.fields}
        worker = self._free.get()
        try:
            answer = worker.ask([self._places[reward.name], fields])
        finally:
            self._free.put(worker)
        if answer is None:
            limit = self.timeout_s + GRACE_S
            return 0.0, f"it ended its process, or could not be interrupted within {limit:g} s; make it end sooner"
        value, cause = answer
        return float(value), cause

    def close(self) -> None:
        """End the processes."""
        for _ in range(self.workers):
            worker = self._free.get()
            worker.close()
            self._free.put(worker)

    def __enter__(self) -> "RewardPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _can_be_sent(reward: RewardFunction) -> bool:
    try:
        told = json.dumps(dict(reward.params))
        same = json.loads(told) == dict(reward.params) and len(told) <= MOST_PARAMS
        elsewhere = not reward.path.startswith("__main__.")  # that is another module in another process
        return same and elsewhere and set(reward.fields) <= set(SENT) and load_reward(reward.path) is reward.function
    except (TypeError, ValueError, UserError):
        return False
