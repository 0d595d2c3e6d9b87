"""Steps of completions: where they end in text and in tokens, and what becomes of a function that fails."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.rewards import steps as parting
from lqlm.rewards.specs import RewardSpec
from lqlm.rewards.steps import StepSample, at_tokens, bind_steps, known_lengths, last_tokens, score_steps, split_steps

MARKERS = ("\n", "→", "é\n", "--")
parts = st.lists(st.text("a =1é→\n-😀", max_size=5), max_size=6)


@hypothesis.given(parts, st.sampled_from(MARKERS))
def test_the_steps_are_the_text(parts, marker):
    """Cut at the ends and joined they are the whole text; each holds its own words, and one marker or none."""
    text = marker.join(parts)
    found = split_steps(text, marker)
    assert [step.text for step in found] == [part.strip() for part in text.split(marker) if part.strip()]
    starts = [0, *(step.end for step in found)]
    spans = [text[a:b] for a, b in itertools.pairwise(starts)]
    assert "".join(spans) == (text if found else "")
    for step, span in zip(found[:-1], spans):
        *blank, own = span.removesuffix(marker).split(marker)
        assert span.endswith(marker) and own.strip() == step.text and not "".join(blank).strip()


@hypothesis.given(parts, st.sampled_from(MARKERS), st.lists(st.integers(1, 5), min_size=1), st.integers(0, 2))
def test_tokens_are_found_whatever_bytes_they_hold(parts, marker, sizes, ends):
    """Tokens of several bytes, cut inside characters and across markers; counted in bytes instead of in characters."""
    text = marker.join(parts)
    data, pieces = text.encode(), []
    while data:
        size = sizes[len(pieces) % len(sizes)]
        pieces, data = [*pieces, data[:size]], data[size:]
    pieces += [b""] * ends  # end tokens add no text
    decode = lambda tokens: b"".join(pieces[t] for t in tokens).decode(errors="replace")  # noqa: E731
    found = split_steps(text, marker)
    got = last_tokens(known_lengths(range(len(pieces)), decode), found)
    assert len(got) == len(found)
    for step, token in zip(found[:-1], got):
        size, before = len(text[: step.end].encode()), len(b"".join(pieces[:token]))
        assert before < size <= before + len(pieces[token])
    assert got[-1:] == [len(pieces) - 1] * bool(found)


def test_a_completion_cut_off_inside_a_character():
    written = [*b"1=1\na", 0xE2, 0x86]
    decode = lambda tokens: bytes(tokens).decode(errors="replace")  # noqa: E731
    found = split_steps(decode(written))
    assert [step.text for step in found] == ["1=1", "a\ufffd"]
    assert last_tokens(known_lengths(written, decode), found) == [3, 6]


def test_scores_at_tokens():
    scores, ends = at_tokens([0.0, 1.0, 0.5], [1, 3, 3], 5)
    np.testing.assert_array_equal(scores, np.float32([0, 0, 0, 0.75, 0]))
    assert ends.tolist() == [False, True, False, True, False] and scores.dtype == np.float32
    scores, ends = at_tokens([], [0], 3)  # nothing was said
    assert scores.tolist() == [0, 0, 0] and ends.tolist() == [True, False, False]


def sample(*steps, answer="4"):
    return StepSample("2 + 2?", "\n".join(steps), answer, 9, False, None, steps)


def spec(function, **params):
    return RewardSpec("steps", function, params=params)


def scored(function, samples, timeout_s=1.0):
    return score_steps(bind_steps(spec(function), None), samples, task=None, timeout_s=timeout_s)


def test_a_function_is_asked_for_each_completion_that_has_steps():
    seen = []

    def lengths(steps, answer):
        seen.append((steps, answer))
        return np.array([len(step) for step in steps])

    found = scored(lengths, [sample("a", "bcd"), sample(), sample("ef")])
    assert found == ([[1.0, 3.0], [], [2.0]], 0, None)
    assert seen == [(("a", "bcd"), "4"), (("ef",), "4")]


BAD = {
    "returned nan, not a finite": lambda steps: [math.nan] * len(steps),
    "returned 1 scores for 2 steps": lambda steps: [1.0],
    "returned 3 scores for 2 steps": lambda steps: [1.0] * 3,
    "returned float '1.0', not a list": lambda steps: 1.0,
    "returned str 'no', not a number": lambda steps: ["no"] * len(steps),
    "ZeroDivisionError": lambda steps: [1 / 0 for _ in steps],
}


@pytest.mark.parametrize("words", BAD)
def test_a_function_that_fails_costs_one_sample_its_scores_and_says_so_in_a_line(words):
    bad = lambda steps: BAD[words](steps) if steps[0] == "a" else [1.0] * len(steps)  # noqa: E731
    found = scored(bad, [sample("x"), sample("a", "b"), sample("y", "z")])
    assert found.scores == [[1.0], [0.0, 0.0], [1.0, 1.0]] and found.errors == 1
    assert words in found.first_error and "sample 2 of 3" in found.first_error and "\n" not in found.first_error
    with pytest.raises(UserError, match="failed on every sample: ") as raised:
        scored(bad, [sample("a", "b"), sample()])
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_function_that_does_not_end(monkeypatch):
    def slow(steps):
        while steps:
            pass

    with pytest.raises(UserError, match=r"ran longer than 0\.05 s"):
        scored(slow, [sample("a")], timeout_s=0.05)


def test_what_is_bound():
    def wants_a_task(steps, task):
        return [0.0 for _ in steps]

    with pytest.raises(UserError, match="does not ask for steps"):
        bind_steps(spec("lqlm.rewards.functions.length_penalty", per_token=1.0), None)
    with pytest.raises(UserError, match="wants a task"):
        bind_steps(spec(wants_a_task), None)
    with pytest.raises(UserError, match="which every sample brings along"):
        bind_steps(spec("lqlm.rewards.equations.equation_steps", steps=[]), None)
    bound = bind_steps(spec("lqlm.rewards.equations.equation_steps"), None)
    assert parting.FIELDS[-1] != "steps" and set(bound.fields) == {"steps", "answer"}
