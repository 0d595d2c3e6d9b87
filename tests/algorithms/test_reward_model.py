"""Losses of a reward model by hand and against each other, its metrics, and how calibrated it is."""

import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from lqlm.algorithms import reward_losses as rl
from lqlm.algorithms import reward_model as rm
from lqlm.algorithms import scored
from lqlm.algorithms.pairs import PairBatch
from lqlm.algorithms.step import init_state, make_update
from lqlm.errors import UserError

rewards = st.floats(-20, 20, width=32)


def array(*values):
    return jnp.asarray(values, jnp.float32)


@hypothesis.given(rewards, rewards)
def test_exchanged_sides_are_the_other_probability(chosen, rejected):
    one, other = (rl.bradley_terry(array(*pair), array(*pair[::-1])) for pair in ((chosen, rejected),) * 2)
    first, second = (float(x) for x in rl.bradley_terry(array(chosen, rejected), array(rejected, chosen)))
    assert math.exp(-first) + math.exp(-second) == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_array_equal(one, other)
    assert first - second == pytest.approx(rejected - chosen, rel=1e-4, abs=1e-4)


@hypothesis.given(rewards, rewards, st.floats(-5, 5, width=32))
def test_only_centring_sees_a_common_shift(chosen, rejected, shift):
    c, r = array(chosen), array(rejected)
    np.testing.assert_allclose(rl.bradley_terry(c + shift, r + shift), rl.bradley_terry(c, r), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rl.margin_ranking(c + shift, r + shift), rl.margin_ranking(c, r), rtol=1e-4, atol=1e-4)
    moved = (chosen + rejected + 2 * shift) ** 2
    np.testing.assert_allclose(rl.centring(c + shift, r + shift), moved, rtol=1e-3, atol=1e-3)


def test_by_hand():
    np.testing.assert_allclose(rl.bradley_terry(array(2.0), array(1.0), array(1.0)), math.log(2), rtol=1e-6)
    found = rl.margin_ranking(array(2.0, 2.0, 2.0), array(1.0, 1.0, 1.0), array(1.0, -1.0, 1.0), array(0.5, 0.5, 3.0))
    np.testing.assert_allclose(found, [0.0, 1.5, 2.0])
    np.testing.assert_allclose(rl.classification(array(-1.0, 3.0), jnp.array([1, 0])), np.log1p(np.exp([1.0, 3.0])))
    half = rl.classification(array(0.7), array(0.5))
    np.testing.assert_allclose(half, -0.5 * np.log(0.25 - (1 / (1 + np.exp(-0.7)) - 0.5) ** 2), rtol=1e-5)
    np.testing.assert_allclose(rl.regression(array(1.5), jnp.array([2])), [0.25])
    assert np.isfinite(rl.bradley_terry(array(-1e4), array(1e4))).all()


@hypothesis.given(rewards, rewards)
def test_margin_ranking_with_the_other_sign_is_that_of_exchanged_sides(first, second):
    one = rl.margin_ranking(array(first), array(second), -1.0, 0.5)
    np.testing.assert_array_equal(one, rl.margin_ranking(array(second), array(first), 1.0, 0.5))


def test_metrics_leave_out_what_is_no_pair():
    chosen, rejected = array(1.0, jnp.inf, 3.0, jnp.nan), array(2.0, -jnp.inf, 3.0, jnp.nan)
    found = rm.reward_metrics(chosen, rejected, jnp.array([True, False, True, False]))
    assert {k: float(x) for k, x in found.items()} == {
        "min_reward": 1.0, "mean_reward": 2.25, "max_reward": 3.0, "accuracy": 0.0, "margin": -0.5
    }  # fmt: skip
    assert all(float(x) == 0 for x in rm.reward_metrics(chosen, rejected, jnp.zeros(4, bool)).values())


def test_calibration_by_hand():
    """Two bins of [1/2, 1]: confidences 0.6 and 0.7, one of them right; 0.9, right; and a row that is no pair."""
    margins = array(*(math.log(p / (1 - p)) for p in (0.6, 0.3, 0.9, 0.99)))
    found = rm.calibration_error(margins, jnp.array([True, True, True, False]), bins=2)
    np.testing.assert_allclose(found, (2 * abs(0.5 - 0.65) + abs(1 - 0.9)) / 3, rtol=1e-5)


def test_calibration_of_the_sure_and_of_the_undecided():
    every = jnp.ones(4, bool)
    assert float(rm.calibration_error(jnp.zeros(4), every)) == 0  # says one half, and is right in one half of the cases
    np.testing.assert_allclose(rm.calibration_error(jnp.full(4, -50.0), every), 1.0)  # sure and wrong
    np.testing.assert_allclose(rm.calibration_error(jnp.full(4, 50.0), every), 0.0, atol=1e-6)
    assert float(rm.calibration_error(jnp.full(4, jnp.nan), ~every)) == 0


def test_calibration_of_single_texts():
    """Labels of 0 and 1 are right or wrong; of a probability, what says as much is calibrated."""
    scores, every = array(2.0, -1.0, 0.5), jnp.ones(3, bool)
    towards = scores * array(1.0, -1.0, -1.0)
    found = rm.calibration_error(scores, every, labels=array(1.0, 0.0, 0.0))
    np.testing.assert_allclose(found, rm.calibration_error(towards, every), rtol=1e-6)
    sure = array(*(math.log(p / (1 - p)) for p in (0.9, 0.2, 0.65)))
    np.testing.assert_allclose(rm.calibration_error(sure, every, labels=array(0.9, 0.2, 0.65)), 0.0, atol=1e-6)
    np.testing.assert_allclose(rm.calibration_error(sure[:1], every[:1], labels=array(0.5)), 0.4, atol=1e-6)


def test_calibration_of_a_model_that_knows_its_chances():
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2, 20000)
    right = rng.random(20000) < 1 / (1 + np.exp(-np.abs(margins)))
    margins = jnp.asarray(np.where(right, np.abs(margins), -np.abs(margins)), jnp.float32)
    every = jnp.ones(20000, bool)
    assert float(rm.calibration_error(margins, every)) < 0.02 < 0.1 < float(rm.calibration_error(4 * margins, every))


MASK = jnp.asarray(np.arange(3) < np.array([[3, 1], [2, 2], [1, 3], [0, 0]])[..., None])
NUMBERS = jnp.arange(4, dtype=jnp.int32)[:, None]
BATCH = PairBatch(NUMBERS, jnp.ones((4, 1), bool), MASK.astype(jnp.int32), MASK, array(0.0, 0.5, 0.0, 9.0))
TABLE = jnp.asarray(np.random.default_rng(0).normal(0, 1, (4, 2)), jnp.float32)


def objective(cfg):
    return rm.reward_model_objective(lambda adapters, base, batch, key: adapters[batch.prompts_BP[:, 0]], cfg)


@pytest.mark.parametrize("loss", ["bradley_terry", "margin_ranking", "classification"])
def test_an_objective_by_hand_whatever_the_micro_batches(loss):
    """The last row holds no pair, so that the parts have unequal weights."""
    cfg = rm.RewardModelConfig(loss=loss, margin=0.0 if loss == "classification" else 0.2, center=0.1)
    c, r, margin = TABLE[:3, 0], TABLE[:3, 1], BATCH.margin_B[:3] + cfg.margin
    by_hand = {
        "bradley_terry": jnp.log1p(jnp.exp(-(c - r - margin))),
        "margin_ranking": jnp.maximum(0, r - c + margin),
        "classification": jnp.log1p(jnp.exp(-c)) + jnp.log1p(jnp.exp(r)),
    }
    want = jnp.mean(by_hand[loss] + 0.1 * (c + r) ** 2)
    results = []
    for parts in (1, 2, 4):
        optimizer = optax.sgd(0.1)
        update = jax.jit(make_update(objective(cfg), optimizer, micro_batches=parts))
        state, metrics = update(init_state(jnp.array(TABLE), optimizer), None, BATCH, None)
        np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
        np.testing.assert_array_equal(state.adapters[3], TABLE[3])
        assert float(metrics["tokens"]) == 15 and np.any(state.adapters[:3] != TABLE[:3])
        for name, x in rm.reward_metrics(TABLE[:, 0], TABLE[:, 1], jnp.arange(4) < 3).items():
            np.testing.assert_allclose(metrics[name], x, rtol=1e-5, err_msg=name)
        results.append(state.adapters)
        update(state, None, BATCH, None)
        assert update._cache_size() == 1
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-6)


def test_a_batch_without_a_pair_teaches_nothing():
    optimizer, empty = optax.sgd(0.1), BATCH.replace(completion_mask_BGC=jnp.zeros_like(MASK))
    update = make_update(objective(rm.RewardModelConfig(center=0.1)), optimizer)
    state, metrics = jax.jit(update)(init_state(jnp.array(TABLE), optimizer), None, empty, None)
    np.testing.assert_array_equal(state.adapters, TABLE)
    assert float(metrics["loss"]) == 0 and float(metrics["finite"]) == 1


@pytest.mark.parametrize("name", ["classification", "regression"])
def test_single_texts(name):
    loss, asked = getattr(rl, name), jnp.ones((3, 1), bool)
    mask = jnp.array([[True, True], [True, False], [False, False]])[:, None]
    batch = scored.ScoredBatch(NUMBERS[:3], asked, NUMBERS[:3, None].repeat(2, 2), mask, array(1.0, 0.0, 1.0))
    cfg = rm.RewardModelConfig(name)
    objective = scored.scored_objective(lambda adapters, base, batch, key: adapters[batch.prompts_BP], cfg)
    optimizer = optax.sgd(0.1)
    start = init_state(array(0.4, -0.2, 7.0), optimizer)
    state, metrics = jax.jit(make_update(objective, optimizer))(start, None, batch, None)
    np.testing.assert_allclose(metrics["loss"], np.mean(loss(array(0.4, -0.2), array(1.0, 0.0))), rtol=1e-6)
    np.testing.assert_allclose(metrics["mean_reward"], 0.1, rtol=1e-5)
    told = {"classification": ("accuracy", 1.0), "regression": ("error", (0.6 + 0.2) / 2)}[name]
    np.testing.assert_allclose(metrics[told[0]], told[1], rtol=1e-5)
    assert float(metrics["tokens"]) == 2 + 3  # of two prompts and their completions; the last row holds no text
    assert float(state.adapters[2]) == 7.0 and float(state.adapters[0]) > 0.4


def test_losses_of_pairs_and_of_single_texts_are_told_apart():
    with pytest.raises(ValueError, match="a pair has no score to regress to"):
        rm.pair_losses(array(1.0), array(0.0), array(0.0), rm.RewardModelConfig("regression"))
    for cfg in (rm.RewardModelConfig(), rm.RewardModelConfig("classification", center=0.1)):
        with pytest.raises(ValueError, match="single texts take classification or regression, and center 0"):
            scored.scored_objective(lambda *args: None, cfg)


REFUSED = {
    "means nothing to regression": {"loss": "regression", "margin": 1.0},
    "unknown loss 'hinge'": {"loss": "hinge"},
    "drives rewards away": {"center": -1.0},
    "asks for a lag": {"loss": "margin_ranking", "margin": -1.0},
    "means nothing to classification": {"loss": "classification", "margin": 1.0},
}


@pytest.mark.parametrize("words", REFUSED)
def test_configs_that_cannot_be(words):
    with pytest.raises(UserError, match=words):
        rm.RewardModelConfig(**REFUSED[words])
