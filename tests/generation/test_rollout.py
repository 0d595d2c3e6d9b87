"""Prompts to padded arrays of a few lengths."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from lqlm.errors import UserError
from lqlm.generation.rollout import bucket_for, check_context, pad_prompts, round_up


@hypothesis.given(st.integers(1, 100), st.lists(st.integers(1, 100), min_size=1, max_size=5))
def test_the_smallest_bucket_that_holds_it(length, buckets):
    fitting = [size for size in buckets if size >= length]
    if fitting:
        assert bucket_for(length, buckets) == min(fitting)
    else:
        with pytest.raises(UserError, match=f"{length} tokens .* largest bucket of {max(buckets)}"):
            bucket_for(length, buckets)


@hypothesis.given(st.integers(0, 1000), st.integers(1, 64))
def test_round_up(length, multiple):
    found = round_up(length, multiple)
    assert found % multiple == 0 and length <= found < length + multiple


PROMPTS = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), min_size=1, max_size=4)


@hypothesis.given(PROMPTS, st.integers(6, 9))
def test_prompts_are_padded_on_the_left(prompts, length):
    tokens, mask = pad_prompts(prompts, length, pad_id=7)
    assert tokens.shape == mask.shape == (len(prompts), length)
    assert (tokens.dtype, mask.dtype) == (np.int32, np.bool_)
    for row, real, prompt in zip(tokens, mask, prompts):
        assert row[real].tolist() == prompt and real[length - len(prompt) :].all()
        assert (row[~real] == 7).all()


@pytest.mark.parametrize("prompts", [[[1, 2], []], [[1], [1, 2, 3, 4, 5]]])
def test_an_empty_or_too_long_prompt_is_named(prompts):
    with pytest.raises(UserError, match=f"prompt 1 has {len(prompts[1])} tokens; it must have 1 to 4"):
        pad_prompts(prompts, 4, 0)


def test_context():
    check_context(10, 6, 16, "here")
    with pytest.raises(UserError, match=r"item 3: 11 prompt tokens .* 6 new tokens exceed .* 16"):
        check_context(11, 6, 16, "item 3")
