"""Rewards in processes of their own: the same numbers, and nothing that one sample does reaches another."""

import sys

import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.rewards.combine import score_all
from lqlm.rewards.pool import RewardPool
from lqlm.rewards.specs import RewardSpec, Sample, bind_all
from lqlm.tasks.base import AnswerFormat, Item, Task

TASK = Task("t", [Item("q", "7", "a")], [Item("r", "8", "b")], strict=AnswerFormat.NUMBER.extract)
WAITS, MISBEHAVES = "tests.experiments.rewards.waits_or_calls", "tests.experiments.rewards.misbehaves"


def samples(*completions, scenario=""):
    item = Item("q", "7", "a", scenario=scenario)
    return [Sample("q", text, "7", n, n % 2 == 0, item) for n, text in enumerate(completions)]


def both(specs, given, task=TASK, workers=2, timeout_s=5.0):
    """Rewards by a pool and without one."""
    bound = bind_all(specs, task)
    with RewardPool(bound, workers=workers, timeout_s=timeout_s) as pool:
        return [score_all(bound, given, task=task, timeout_s=timeout_s, pool=p) for p in (pool, None)], pool


def test_the_numbers_are_those_of_this_process():
    specs = [
        RewardSpec("length", "lqlm.rewards.functions.length_penalty", 0.5, {"per_token": 0.25}),
        RewardSpec("format", "lqlm.rewards.functions.format_reward", 2.0),  # asks for the task: stays here
        RewardSpec("raises", "tests.experiments.rewards.raises_on_some", 1.0),
    ]
    (ours, theirs), pool = both(specs, samples("7", "a", "", "\u00e9 8\n", "b"))
    assert [pool.serves(reward) for reward in bind_all(specs, TASK)] == [True, False, True]
    np.testing.assert_array_equal(ours.total, theirs.total)
    for name, values in theirs.components.items():
        np.testing.assert_array_equal(ours.components[name], values)
    assert (ours.errors, ours.first_error, ours.failed) == (theirs.errors, theirs.first_error, theirs.failed)
    assert ours.errors == 2 and "digits are not allowed" in ours.first_error


def test_a_slow_sample_does_not_keep_others_waiting(tmp_path):
    """One waits for what the other does: by turns the first would run into its time limit."""
    given = samples(f"wait {tmp_path}/a", f"call {tmp_path}/a")
    bound = bind_all([RewardSpec("f", WAITS)], TASK)
    with RewardPool(bound, workers=2, timeout_s=20.0) as pool:
        found = score_all(bound, given, task=TASK, timeout_s=20.0, pool=pool)
    assert found.total.tolist() == [1.0, 1.0] and found.errors == 0


def test_what_one_sample_does_reaches_no_other():
    """One ends its process, one is stuck in C, one sleeps, all print; the others get their rewards."""
    bound = bind_all([RewardSpec("f", MISBEHAVES)], TASK)
    given = samples("a", "dies", "bb", "stuck", "slow", "ccc", "dies", "dddd")
    with RewardPool(bound, workers=2, timeout_s=1.0) as pool:
        found = score_all(bound, given, task=TASK, timeout_s=1.0, pool=pool)
    assert found.total.tolist() == [1, 0, 2, 0, 0, 3, 0, 4] and found.errors == 4
    count, cause = found.failed["f"]
    assert count == 4 and "it ended its process, or could not be interrupted within 3 s" in cause
    assert "on sample 2 of 8" in found.first_error


def test_scenarios_are_kept():
    scenes = Task("t", [], [], strict=AnswerFormat.NUMBER.extract, scenarios={"sums": TASK, "general": TASK})
    given = [*samples("a", "bb", scenario="sums"), *samples("ccc", scenario="general")]
    (ours, theirs), _ = both([RewardSpec("f", MISBEHAVES, scenarios=("general",))], given, task=scenes)
    np.testing.assert_array_equal(ours.components["f"], [np.nan, np.nan, 3.0])
    np.testing.assert_array_equal(ours.total, theirs.total)


def test_what_cannot_be_sent_stays_here():
    def local(completion):
        return len(completion)

    specs = [RewardSpec("local", local), RewardSpec("tuple", "math.fsum", params={"seq": (1, 2)})]
    (ours, theirs), pool = both(specs[:1], samples("a", "bb"))
    assert not pool.serves(bind_all(specs[:1], TASK)[0]) and ours.total.tolist() == theirs.total.tolist() == [1.0, 2.0]


def test_what_another_process_would_not_find_stays_here(monkeypatch):
    """A function of the script that runs is of another module there; many words are too many for a command line."""

    def scripted(completion):
        return len(completion)

    scripted.__module__, scripted.__qualname__ = "__main__", "scripted"
    monkeypatch.setattr(sys.modules["__main__"], "scripted", scripted, raising=False)
    words = RewardSpec("words", "tests.experiments.rewards.knows", params={"words": ["word"] * 5000})
    bound = bind_all([RewardSpec("mine", "__main__.scripted"), words], TASK)
    with RewardPool(bound, workers=1, timeout_s=5.0) as pool:
        assert [pool.serves(reward) for reward in bound] == [False, False]
        assert score_all(bound, samples("word"), task=TASK, timeout_s=5.0, pool=pool).total.tolist() == [4 + 5.0]


def test_a_pool_has_workers():
    with pytest.raises(UserError, match="a pool of 0 workers; give 1 or more"):
        RewardPool([], workers=0, timeout_s=1.0)


def test_a_function_that_cannot_be_imported_there_is_one_line(monkeypatch):
    """As where the working directory is another one by then."""
    bound = bind_all([RewardSpec("f", MISBEHAVES)], TASK)
    with RewardPool(bound, workers=1, timeout_s=1.0) as pool:
        worker = pool._free.get()
        worker.command = (*worker.command[:-1], worker.command[-1].replace("misbehaves", "is_not_there"))
        pool._free.put(worker)
        with pytest.raises(UserError, match=r"did not start: reward function .* no 'is_not_there' in"):
            pool.values(bound[0], samples("a"))


def test_its_processes_leave_the_accelerator_to_the_run(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    (ours, theirs), _ = both([RewardSpec("f", "tests.experiments.rewards.on_the_cpu")], samples("a"))
    assert (ours.total.tolist(), theirs.total.tolist()) == ([1.0], [0.0])
