import contextlib
import decimal
import fractions
import functools
import re
import sys
import threading
import time
import types

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from lqlm.errors import UserError
from lqlm.rewards.combine import score_all
from lqlm.rewards.specs import FIELDS, RewardSpec, Sample, bind, bind_all, load_reward
from lqlm.tasks.base import AnswerFormat, Item, Task

TASK = Task("t", [Item("q", "7", "a")], [Item("r", "8", "b")], strict=AnswerFormat.NUMBER.extract)


def sample(completion, answer="7", n_tokens=3, truncated=False):
    return Sample("q", completion, answer, n_tokens, truncated)


def run(function, *completions, timeout_s=5.0, **params):
    """Rewards of one function of weight 1."""
    spec = RewardSpec("f", function, params=params)
    return score_all(bind_all([spec], TASK), [sample(c) for c in completions], task=TASK, timeout_s=timeout_s)


def test_components_are_weighted_and_summed_in_float32():
    specs = [
        RewardSpec("correct", "lqlm.rewards.functions.correct"),
        RewardSpec("format", "lqlm.rewards.functions:format_reward", weight=0.5),
        RewardSpec("length", "lqlm.rewards.functions.soft_overlong", 0.25, {"limit": 10, "buffer": 4}),
    ]
    samples = [sample("7"), sample("It is 7", n_tokens=8), sample("8", n_tokens=10), sample("no")]
    rewards = score_all(bind_all(specs, TASK), samples, task=TASK, timeout_s=1.0)
    np.testing.assert_array_equal(rewards.components["correct"], [1, 1, 0, 0])
    np.testing.assert_array_equal(rewards.components["format"], [1, 0, 1, 0])
    np.testing.assert_array_equal(rewards.components["length"], [0, -0.5, -1, 0])
    np.testing.assert_array_equal(rewards.total, [1.5, 0.875, 0.25, 0])
    assert {a.dtype for a in (rewards.total, *rewards.components.values())} == {np.dtype("float32")}
    assert (rewards.errors, rewards.first_error) == (0, None)


def test_whole_numbers_and_fractions_of_one_keep_their_value():
    """An integer first value must not make the array integer and turn 0.5 into 0."""
    values = {"a": 1, "b": 0.5, "c": True, "d": np.float16(0.25), "e": np.int8(-2), "f": np.array(0.125)}
    values |= {"g": fractions.Fraction(1, 4), "h": decimal.Decimal("0.5"), "i": np.True_}
    rewards = run(lambda completion: values[completion], *values)
    np.testing.assert_array_equal(rewards.total, np.float32([1, 0.5, 1, 0.25, -2, 0.125, 0.25, 0.5, 1]))
    assert rewards.total.dtype == np.float32 and rewards.errors == 0


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=6), st.floats(-2, 2, width=32))
def test_total_is_weight_times_value(values, weight):
    spec = RewardSpec("f", lambda n_tokens: values[n_tokens], weight)
    samples = [sample("", n_tokens=i) for i in range(len(values))]
    np.testing.assert_array_equal(
        score_all([spec], samples, task=None, timeout_s=None).total, np.float32(weight) * np.float32(values)
    )


def test_every_field_arrives():
    seen = {}

    def everything(*, prompt, completion, answer, n_tokens, truncated, task, item, bonus, unused=3):
        seen.update(locals())
        return bonus

    assert run(everything, "c", bonus=2).total[0] == 2
    assert {k: v for k, v in seen.items() if k != "seen"} == {
        "prompt": "q", "completion": "c", "answer": "7", "n_tokens": 3, "truncated": False, "task": TASK,
        "item": Item("q", "7", ""), "bonus": 2, "unused": 3,
    }  # fmt: skip
    assert run(lambda **everything: len(everything), "c").total[0] == len(FIELDS)
    item = Item("real", "7", "id")
    given_item = Sample("q", "c", "7", 1, False, item)
    assert (
        score_all([RewardSpec("f", lambda item: item.id == "id")], [given_item], task=None, timeout_s=1.0).total[0] == 1
    )


def raising(completion):
    if completion == "bad":
        raise ValueError("two\nlines")
    return 1.0


def test_a_function_that_raises_costs_only_its_sample():
    rewards = run(raising, "good", "bad", "good", "bad")
    np.testing.assert_array_equal(rewards.total, [1, 0, 1, 0])
    assert rewards.errors == 2
    assert re.fullmatch(
        r"reward 'f' \(.*raising\) failed on sample 2 of 4 \(counted 0\): "
        r"ValueError: two lines at test_combine.py:\d+; make .*",
        rewards.first_error,
    )


class Odd:
    def __float__(self):
        return 1.0


@pytest.mark.parametrize(
    "value",
    [
        None, "1.0", b"1", 1j, float("nan"), float("inf"), -np.inf, 1e39, 10**400, [1.0], np.zeros(1), np.zeros((1, 1)),
        Odd(), decimal.Decimal("NaN"), np.float64("nan"), np.array("x"), np.array(None),
    ],
)  # fmt: skip
def test_a_value_that_is_no_finite_number_costs_only_its_sample(value):
    rewards = run(lambda completion: value if completion == "bad" else 1.0, "bad", "good")
    np.testing.assert_array_equal(rewards.total, [0, 1])
    assert rewards.errors == 1 and "finite number" in rewards.first_error and "\n" not in rewards.first_error


@pytest.mark.parametrize("error", [SystemExit, RecursionError, MemoryError, AssertionError, UserError])
def test_no_exception_of_a_reward_ends_the_run(error):
    def f(completion):
        if completion == "bad":
            raise error("x")
        return 1

    assert run(f, "bad", "good").errors == 1


def test_ctrl_c_does():
    def f(completion):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(f, "a", "b")


def sleeps():
    time.sleep(60)


def spins():
    while True:
        pass


def regex():
    re.match(r"(a+)+$", "a" * 60 + "b")


def swallows():
    try:
        while True:
            pass
    except Exception:
        return 1.0


def tries_again():
    for _ in range(100):
        with contextlib.suppress(Exception):
            time.sleep(0.1)


def swallows_all():
    try:
        time.sleep(60)
    except BaseException:
        time.sleep(60)


def returns_late():
    try:
        time.sleep(60)
    except BaseException:
        return 1.0


def waits():
    threading.Event().wait(60)


needs_alarm = pytest.mark.skipif(not hasattr(__import__("signal"), "setitimer"), reason="no SIGALRM on this system")


@needs_alarm
@pytest.mark.parametrize("hang", [sleeps, spins, regex, swallows, tries_again, swallows_all, returns_late, waits])
def test_a_function_that_hangs_costs_only_its_sample(hang):
    start = time.monotonic()
    rewards = run(lambda completion: hang() if completion == "bad" else 1.0, "good", "bad", "good", timeout_s=0.1)
    assert time.monotonic() - start < 5
    np.testing.assert_array_equal(rewards.total, [1, 0, 1])
    assert rewards.errors == 1 and "it ran longer than 0.1 s; make it end sooner" in rewards.first_error


@needs_alarm
def test_the_alarm_of_others_is_given_back():
    import signal

    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.15)
        mine = signal.getsignal(signal.SIGALRM)
        run(lambda completion: sleeps() if completion == "bad" else 1.0, "good", "bad", timeout_s=0.05)
        assert signal.getsignal(signal.SIGALRM) is mine and not rang
        time.sleep(0.3)
        assert rang == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@needs_alarm
def test_no_alarm_is_left_behind():
    import signal

    before = signal.getsignal(signal.SIGALRM)
    run(lambda completion: 1.0, "a", timeout_s=0.02)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0) and signal.getsignal(signal.SIGALRM) is before
    time.sleep(0.04)


def test_outside_of_the_main_thread_there_is_no_limit_and_no_crash():
    results = []
    thread = threading.Thread(target=lambda: results.append(run(lambda completion: 1.0, "a", timeout_s=0.01)))
    thread.start()
    thread.join()
    assert results[0].total[0] == 1


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan")])
def test_a_time_limit_is_positive(timeout_s):
    with pytest.raises(UserError, match="timeout_s"):
        run(lambda completion: 1.0, "a", timeout_s=timeout_s)


def test_a_component_that_always_fails_ends_the_run():
    with pytest.raises(UserError, match=r"reward 'f' \(.*raising\) failed on every sample: ValueError: two lines"):
        run(raising, "bad", "bad")


def test_a_component_that_fails_sometimes_does_not_hide_one_that_always_fails():
    specs = [RewardSpec("some", raising), RewardSpec("never", lambda completion: None)]
    with pytest.raises(UserError, match="'never'"):
        score_all(specs, [sample("good"), sample("bad")], task=None, timeout_s=1.0)


def test_failures_of_all_components_are_counted():
    specs = [RewardSpec("first", raising), RewardSpec("second", raising), RewardSpec("third", lambda completion: 1)]
    rewards = score_all(specs, [sample("bad"), sample("good"), sample("bad")], task=None, timeout_s=1.0)
    assert rewards.errors == 4 and rewards.first_error.startswith("reward 'first'")
    np.testing.assert_array_equal(rewards.total, [1, 3, 1])


def test_no_samples():
    rewards = run(raising)
    assert rewards.total.shape == (0,) and rewards.total.dtype == np.float32 and rewards.errors == 0


def my_module(monkeypatch, **members):
    module = types.ModuleType("my_rewards")
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, "my_rewards", module)


def test_load_reward(monkeypatch, tmp_path):
    from lqlm.rewards.functions import correct

    assert load_reward("lqlm.rewards.functions.correct") is load_reward("lqlm.rewards.functions:correct") is correct
    my_module(monkeypatch, Mine=type("Mine", (), {"f": staticmethod(raising)}))
    assert load_reward("my_rewards:Mine.f") is raising


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("correct", "not a dotted path"),
        ("", "not a dotted path"),
        (".correct", "not a dotted path"),
        ("rewards/mine.py:f", "not a dotted path"),
        (
            "lqlm.rewards.functions.corect",
            "no 'corect' in 'lqlm.rewards.functions'; its functions: correct, correct_strict",
        ),
        ("lqlm.rewards.function.correct", "there is no module 'lqlm.rewards.function'"),
        ("no_such_package.f", "there is no module 'no_such_package'"),
        ("lqlm.rewards.specs.FIELDS", "it is a tuple, not a function"),
        ("broken_rewards.f", r"importing 'broken_rewards' raised ModuleNotFoundError: No module named 'absent'"),
    ],
)
def test_paths_that_lead_nowhere(path, words, tmp_path, monkeypatch):
    (tmp_path / "broken_rewards.py").write_text("import absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        bind(RewardSpec("f", path))
    assert "\n" not in str(caught.value)


async def asynchronous(completion):
    return 1.0


def positional(completion, /):
    return 1.0


@pytest.mark.parametrize(
    ("function", "params", "words"),
    [
        (lambda completion, scale: 0, {}, "parameter 'scale' is none of prompt, completion"),
        (lambda completions: 0, {}, "parameter 'completions' is none of"),
        (lambda completion: 0, {"limit": 3}, "params has limit; the function's parameters are completion"),
        (lambda completion: 0, {"completion": "x"}, "params binds completion"),
        (positional, {}, "parameter 'completion'"),
        (asynchronous, {}, "asynchronous"),
        (3, {}, "neither a function nor the path"),
    ],
)
def test_signatures_are_checked_before_any_work(function, params, words):
    with pytest.raises(UserError, match=words):
        bind_all([RewardSpec("f", function, params=params)], TASK)


def test_partials_and_defaults_are_fine():
    assert run(functools.partial(lambda completion, scale: scale, scale=2), "a").total[0] == 2
    assert run(lambda completion, scale=3: scale, "a").total[0] == 3


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "1", None, 1j])
def test_weights_are_finite_numbers(weight):
    with pytest.raises(UserError, match="weight"):
        bind(RewardSpec("f", raising, weight))


def test_sets_of_rewards():
    with pytest.raises(UserError, match="a name of its own"):
        bind_all([RewardSpec("f", raising), RewardSpec("f", raising)], TASK)
    with pytest.raises(UserError, match="at least one"):
        bind_all([], TASK)
    with pytest.raises(UserError, match="wants a task"):
        bind_all([RewardSpec("f", "lqlm.rewards.functions.correct")], None)


SCENES = Task("t", [], [], strict=AnswerFormat.NUMBER.extract, scenarios={"sums": TASK, "general": TASK})


def scene(completion, scenario):
    return Sample("q", completion, "7", 3, False, Item("q", "7", "a", scenario=scenario))


def test_a_component_judges_its_scenarios_only():
    specs = [
        RewardSpec("right", "lqlm.rewards.functions.correct", 2.0, scenarios=("sums",)),
        RewardSpec("length", lambda n_tokens: n_tokens),
    ]
    samples = [scene("7", "sums"), scene("7", "general"), scene("8", "sums")]
    rewards = score_all(bind_all(specs, SCENES), samples, task=SCENES, timeout_s=1.0)
    np.testing.assert_array_equal(rewards.components["right"], [1, np.nan, 0])
    np.testing.assert_array_equal(rewards.total, [5, 3, 3])
    assert rewards.total.dtype == np.float32 and rewards.errors == 0


def test_failing_on_all_of_a_scenario_is_counted():
    """There may be a single sample of it; without scenarios, all that a step has."""

    def broken():
        raise ValueError("no")

    bound = bind_all([RewardSpec("f", broken, scenarios=("sums",)), RewardSpec("g", lambda: 1.0)], SCENES)
    found = score_all(bound, [scene("7", "sums"), scene("7", "general")], task=SCENES, timeout_s=1.0)
    assert found.errors == 1 and found.total.tolist() == [1.0, 1.0] and "ValueError: no" in found.first_error
    fine = score_all(bound, [scene("7", "general")], task=SCENES, timeout_s=1.0)  # nothing here is for it
    assert fine.errors == 0 and fine.total.tolist() == [1.0]


def test_scenarios_are_those_of_the_task():
    spec = RewardSpec("f", "lqlm.rewards.functions.correct", scenarios=("sum",))
    with pytest.raises(UserError, match="'f': there is no scenario sum; the task's are sums, general"):
        bind_all([spec], SCENES)
    with pytest.raises(UserError, match="the task is no mixture; leave scenarios empty"):
        bind_all([spec], TASK)
