import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.errors import UserError
from lqlm.tasks.batches import Batches, Position, eval_batches, stream_batches
from lqlm.tasks.instructions import Example
from lqlm.tasks.packing import pad_rows


def one(number, n=2):
    return Example(np.full(n, number, np.int32), np.arange(n) > 0)


def rows_of(n, length=3):
    return pad_rows([one(i) for i in range(n)], length, 99)


def numbers(batch):
    return batch.tokens_BT[:, 0].tolist()


@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 3))
def test_every_row_comes_once_per_epoch(n, size, seed):
    batches = Batches(rows_of(n), size, seed)
    steps = n  # n steps of `size` rows are `size` whole epochs
    seen = [i for step in range(steps) for i in numbers(batches.at(step))]
    epochs = [seen[e * n : (e + 1) * n] for e in range(size)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
    assert all(array.shape == (size, 3) for array in batches.at(0))
    assert batches.steps_per_epoch == -(-n // size)
    assert numbers(batches.at(5)) == numbers(Batches(rows_of(n), size, seed).at(5))


def test_orders_depend_on_epoch_and_seed():
    orders = [numbers(Batches(rows_of(20), 20, seed).at(step)) for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_the_arrays_of_a_batch_belong_together():
    batch = Batches(rows_of(9), 4, 0).at(1)
    for i, tokens, segments, targets in zip(numbers(batch), *batch, strict=True):
        assert (tokens.tolist(), segments.tolist(), targets.tolist()) == ([i, i, 99], [1, 1, 0], [False, True, False])


def test_evaluation_sees_every_row_once_in_one_shape():
    batches = list(eval_batches(rows_of(7), 3))
    assert [batch.tokens_BT.shape for batch in batches] == [(3, 3)] * 3
    assert [array.dtype for array in batches[2]] == [np.int32, np.int32, np.bool_]
    assert [i for batch in batches for i in numbers(batch)][:7] == list(range(7))
    assert not batches[2].segments_BT[1:].any() and not batches[2].targets_BT[1:].any()
    assert [numbers(b) for b in eval_batches(rows_of(4), 2)] == [[0, 1], [2, 3]]


@pytest.mark.parametrize(("n", "size"), [(0, 1), (3, 0)])
def test_no_batches(n, size):
    with pytest.raises(UserError, match=f"batches of {size} from {n} rows"):
        Batches(rows_of(n), size, 0)


class Source:
    """A stream of records, some without example and some with two; it remembers how far it was read."""

    def __init__(self, n):
        rng = np.random.default_rng(0)
        self.examples = [[one(10 * i + k, int(rng.integers(1, 6))) for k in range(i % 3)] for i in range(n)]
        self.read = []

    def __call__(self, start):
        for i in range(start, len(self.examples)):
            self.read.append(i)
            yield self.examples[i]


@given(st.integers(2, 30), st.integers(1, 4), st.integers(1, 9), st.integers(0, 30))
def test_a_stream_gives_every_example_once_and_goes_on_anywhere(n, size, buffer, stop):
    source = Source(n)
    whole = list(stream_batches(source, size, 8, 99, buffer=buffer))
    found = []
    for batch, _ in whole:
        assert all(array.shape == (size, 8) for array in batch)
        for tokens, segments, targets in zip(*batch, strict=True):
            for s in range(1, segments.max() + 1):
                found.append((tokens[segments == s].tolist(), targets[segments == s].tolist()))
    wanted = [(e.tokens.tolist(), e.targets.tolist()) for record in source.examples for e in record]
    assert sorted(found) == sorted(wanted)
    stop = min(stop, len(whole) - 1)
    start = whole[stop][1]
    rest = list(stream_batches(source, size, 8, 99, buffer=buffer, start=Position(*start)))
    assert [p for _, p in rest] == [p for _, p in whole[stop + 1 :]]
    for (first, _), (second, _) in zip(rest, whole[stop + 1 :], strict=True):
        np.testing.assert_array_equal(first, second)


def test_resuming_reads_no_more_than_a_buffer_again():
    source = Source(60)
    batches = list(itertools.islice(stream_batches(source, 2, 8, 99, buffer=10), 8))
    reached = max(source.read)
    source.read.clear()
    next(stream_batches(source, 2, 8, 99, buffer=10, start=batches[-1][1]))
    assert reached - 10 < min(source.read) and min(source.read) % 10 == 0


def test_examples_of_a_buffer_share_rows():
    examples = [[one(i, 4)] for i in range(6)]
    batches = [b for b, _ in stream_batches(lambda n: iter(examples[n:]), 1, 8, 99, buffer=3)]
    assert [batch.segments_BT.max() for batch in batches] == [2, 1, 2, 1]


def test_streams_without_examples():
    with pytest.raises(UserError, match="none of its 5 records gives an example"):
        list(stream_batches(lambda n: iter([[]] * 5), 2, 8, 99))
    with pytest.raises(UserError, match=r"\d+ records before record 1002 give no example"):
        next(stream_batches(lambda n: itertools.repeat([]), 2, 8, 99, buffer=3))
    with pytest.raises(UserError, match="example 0 has 9 tokens"):
        next(stream_batches(lambda n: iter([[one(0, 9)]]), 2, 8, 99))
    with pytest.raises(UserError, match="batches of 0 rows"):
        next(stream_batches(lambda n: iter([]), 0, 8, 99))
