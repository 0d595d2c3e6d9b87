"""Every reward that the library offers, on completions that no task expects: a number, the one that is stated."""

import numpy as np
import pytest

from lqlm.rewards.combine import score_all
from lqlm.rewards.specs import RewardSpec, Sample, bind_all
from lqlm.tasks.arithmetic import ArithmeticConfig, arithmetic_task
from lqlm.tasks.think import think_task

TASK = think_task(arithmetic_task(ArithmeticConfig()))
TESTS = "assert f(1) == 1"
WRONG = -1.0  # the shortest wrong answer, for the cosine reward
# path: (params, reference answer, value of a completion without anything)
REWARDS = {
    "functions.correct": ({}, "7", 0.0),
    "functions.correct_strict": ({}, "7", 0.0),
    "functions.format_reward": ({}, "7", 0.0),
    "overlap.bleu": ({}, "seven", 0.0),
    "overlap.rouge_l": ({}, "seven", 0.0),
    "format.think_format": ({"answer_tag": "solution"}, "7", 0.0),
    "format.tag_count": ({}, "7", 0.0),
    "language.language_consistency": ({"script": "latin"}, "7", 0.0),
    "facts.exact_match": ({}, "seven", 0.0),
    "facts.token_f1": ({}, "seven", 0.0),
    "facts.mentions": ({}, "seven", 0.0),
    "facts.facts_recalled": ({}, "seven|7", 0.0),
    "repetition.repetition_penalty": ({}, "7", 0.0),
    "repetition.cosine_length": ({"limit": 10}, "7", WRONG),
    "mathematics.math_correct": ({}, "7", 0.0),
    "mathematics.math_correct_strict": ({}, "7", 0.0),
    "unit_tests.unit_tests_passed": ({}, TESTS, 0.0),
    "unit_tests.all_unit_tests_passed": ({}, TESTS, 0.0),
}
NOTHING = ["", " \n\t\r", "\0", "\ud800", "\ud800\0 \udfff", "?" * 10**6, "\0" * 10**6, "\n" * 10**6]


@pytest.mark.parametrize("path", REWARDS)
def test_nothing_has_its_stated_value(path):
    if path.startswith("mathematics"):
        pytest.importorskip("math_verify", reason="the extra math is not installed")
    params, answer, value = REWARDS[path]
    bound = bind_all([RewardSpec("r", f"lqlm.rewards.{path}", params=params)], TASK)
    texts = NOTHING[:5] if path == "overlap.bleu" else NOTHING  # sacrebleu takes seconds for the long ones
    samples = [Sample("q", text, answer, 0, False) for text in texts]
    rewards = score_all(bound, samples, task=TASK, timeout_s=60.0)
    assert rewards.errors == 0, rewards.first_error
    np.testing.assert_array_equal(rewards.total, np.full(len(texts), value, np.float32))
    assert rewards.total.dtype == np.float32
