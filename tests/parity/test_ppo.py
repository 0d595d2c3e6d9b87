"""TRL itself: what of its PPO the pinned version still has, and with 1.12 put before it, the stored goldens.

The pinned TRL has no PPOTrainer.  ``make_ppo.py`` says how 1.12.0 is put before it; without it that test is skipped.
"""

import importlib.util
import os
import pathlib
import types

import jax.numpy as jnp
import numpy as np
import pytest

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
pytest.importorskip("trl")

import torch
from trl.experimental.utils import first_true_indices, get_reward

from lqlm.algorithms.kl_control import rewards_at_last_token, rewards_from_scores
from lqlm.models.heads import last_real, scalars

GOLDENS = pathlib.Path(__file__).parent.parent / "goldens"
PAD = 0


def responses(seed, rows=16, length=7):
    """Tokens, some rows without padding, and their mask."""
    rng = np.random.default_rng(seed)
    mask = np.arange(length)[None] < rng.integers(1, length + 1, rows)[:, None]
    return np.where(mask, rng.integers(1, 9, mask.shape), PAD), mask


@pytest.mark.parametrize("seed", range(3))
def test_the_place_of_a_score_is_that_of_trl(seed):
    tokens, mask = responses(seed)
    last = (first_true_indices(torch.from_numpy(tokens) == PAD) - 1).numpy()
    after = np.where(last + 1 < mask.shape[1], last + 1, last)
    scores, nothing = jnp.ones(len(mask)), jnp.zeros(mask.shape)
    np.testing.assert_array_equal(np.argmax(rewards_from_scores(scores, nothing, 0.0, jnp.asarray(mask)), 1), after)
    np.testing.assert_array_equal(np.argmax(rewards_at_last_token(scores, nothing, 0.0, jnp.asarray(mask)), 1), last)


class Backbone:
    """A model whose hidden states are given."""

    base_model_prefix = "inner"

    def __init__(self, hidden, kernel):
        self.inner = lambda **inputs: types.SimpleNamespace(hidden_states=[hidden], last_hidden_state=hidden)
        self.score = lambda states: states @ kernel[:, None]


def test_a_reward_is_read_at_the_token_where_trl_reads_it():
    tokens, mask = responses(5)
    rng = np.random.default_rng(6)
    hidden, kernel = rng.normal(size=(*mask.shape, 4)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    model = Backbone(torch.from_numpy(hidden), torch.from_numpy(kernel))
    _, want, _ = get_reward(model, torch.from_numpy(tokens), PAD, 0)
    head = {"kernel": jnp.asarray(kernel), "bias": jnp.float32(0.0)}
    found = scalars(head, last_real(jnp.asarray(hidden), jnp.asarray(mask)))
    np.testing.assert_allclose(found, want.numpy(), rtol=1e-5, atol=1e-6)


def test_goldens_are_reproduced():
    pytest.importorskip("trl.experimental.ppo", reason="the pinned TRL has no PPOTrainer: see make_ppo.py")
    spec = importlib.util.spec_from_file_location("make_ppo", GOLDENS / "make_ppo.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    stored, made = np.load(GOLDENS / "ppo.npz"), maker.make()
    assert set(made) == set(stored.files) - {"versions"}
    for name, want in made.items():
        np.testing.assert_allclose(stored[name], want, rtol=1e-5, atol=1e-7, err_msg=name)
