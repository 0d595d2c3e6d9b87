"""Positions and visibility in packed rows, and that packed texts are computed as if each were alone."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.models.masks import positions_of, rows_seen, segment_positions, visible
from lqlm.models.transformer import forward
from lqlm.quant.qtensor import QuantConfig
from tests.tiny import FAMILIES, pad, ragged, tiny_adapters, tiny_base, tiny_config

# Fixed length: each new one compiles anew.
rows_of_segments = st.lists(st.integers(0, 3), min_size=9, max_size=9)


def places(row):
    """The reference: count from the first of each run; padding gets 0."""
    found, count = [], 0
    for i, number in enumerate(row):
        count = count + 1 if i and row[i - 1] == number else 0
        found.append(count if number else 0)
    return found


@hypothesis.given(rows_of_segments)
def test_positions_count_from_the_first_of_each_segment(row):
    assert segment_positions(jnp.array([row], jnp.int32)).tolist() == [places(row)]


@hypothesis.given(st.lists(st.booleans(), min_size=9, max_size=9))
def test_one_segment_is_the_mask(mask):
    first = mask.index(True) if any(mask) else 0
    mask = [i >= first for i in range(9)]  # padding on the left only: one run
    segments = jnp.array([mask], jnp.int32)
    np.testing.assert_array_equal(segment_positions(segments), positions_of(jnp.array([mask])))


@hypothesis.given(rows_of_segments, st.sampled_from([None, 1, 3]))
def test_a_token_sees_what_stands_before_it_in_its_segment_and_window(row, window):
    row = sorted(row, key=lambda number: number == 0)  # runs of equal numbers may repeat; padding last
    cfg = tiny_config("mistral", sliding_window=window)
    segments = jnp.array([row], jnp.int32)
    seen = np.asarray(rows_seen(segment_positions(segments), segments > 0, segments, cfg)[0])
    place = places(row)
    for t, s in np.ndindex(9, 9):
        if row[t] and row[t] == row[s] and t - place[t] == s - place[s]:
            assert seen[t, s] == (0 <= t - s < (window or 9))
        elif row[t] != row[s]:
            assert not (row[t] and seen[t, s])


def test_a_window_counts_the_token_itself():
    cfg = tiny_config("mistral", sliding_window=2)
    place = jnp.arange(4)
    np.testing.assert_array_equal(visible(place[:, None], place[None], cfg), np.tri(4) - np.tri(4, k=-2) > 0)


@pytest.mark.parametrize(
    ("family", "quant"), [(family, QuantConfig() if family == "mistral" else None) for family in FAMILIES]
)
def test_packed_rows_equal_separate_rows_in_value_and_gradient(family, quant):
    cfg = tiny_config(family)
    base = tiny_base(jax.random.key(0), cfg, quant)
    adapters = tiny_adapters(jax.random.key(1), base)
    rows = ragged(1, (3, 5, 2, 4), cfg.vocab_size)
    # Two rows, one with padding at its end; numbers need not grow.
    packed = jnp.asarray(np.stack([np.concatenate([rows[0], rows[1]]), np.concatenate([rows[2], rows[3], [7, 7]])]))
    segments = jnp.array([[1] * 3 + [2] * 5, [2] * 2 + [1] * 4 + [0] * 2], jnp.int32)
    real = segments > 0
    tokens, mask = pad(rows, 5, "right")
    weights = jax.random.normal(jax.random.key(2), (14, cfg.width))

    def together(adapters):
        hidden = forward(base, adapters, packed, real, cfg, segments_BT=segments, remat="full")[real]
        return jnp.sum(jnp.sin(hidden) * weights), hidden

    def alone(adapters):
        hidden = forward(base, adapters, tokens, mask, cfg)[mask]
        return jnp.sum(jnp.sin(hidden) * weights), hidden

    (_, found), found_grad = jax.jit(jax.value_and_grad(together, has_aux=True))(adapters)
    (_, want), want_grad = jax.jit(jax.value_and_grad(alone, has_aux=True))(adapters)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found_grad, want_grad)
    assert all(np.abs(leaf).max() > 1e-2 for leaf in jax.tree.leaves(want_grad))
