"""What a run is built from."""

import jax
import numpy as np

from experiments.keys import keys


def test_no_step_draws_what_the_adapters_were_drawn_with():
    initial, steps = keys(0)
    of_steps = {bits(jax.random.fold_in(steps, n)) for n in range(64)}
    of_initial = {bits(key) for key in (initial, *jax.random.split(initial, 16))}
    assert len(of_steps) == 64 and len(of_initial) == 17 and not of_steps & of_initial


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_one_key_for_both_would_draw_the_same():
    """Why there are two: the faulty form is caught by the test above."""
    key = jax.random.key(0)
    assert [bits(k) for k in jax.random.split(key, 4)] == [bits(jax.random.fold_in(key, n)) for n in range(4)]
