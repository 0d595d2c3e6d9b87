"""Rewards, advantages, losses, gradients and metrics of TRL's PPOTrainer (1.12), from stored arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.algorithms.actor_critic import batch_weights, mean_metrics
from lqlm.algorithms.gae import gae, whiten, whiten_keeping_mean
from lqlm.algorithms.kl_control import less_without_end, rewards_from_scores, states_mask, token_kl
from lqlm.algorithms.ppo import PPOConfig, ppo_loss
from tests.algorithms.ppo_cases import batch_of, outputs_of

EOS = 2
CASES = {  # those of make_ppo.py: estimator, coefficient, gamma, lam, whitened rewards, penalty, the loss
    "default": ("k1", 0.05, 1.0, 0.95, False, 0.0, PPOConfig()),
    "k3": ("k3", 0.5, 1.0, 0.95, False, 0.0, PPOConfig()),
    "discount": ("k1", 0.2, 0.9, 0.5, False, 0.0, PPOConfig()),
    "whiten": ("k1", 0.05, 1.0, 0.95, True, 1.0, PPOConfig()),
    "narrow": ("k1", 0.05, 1.0, 0.95, False, 0.0, PPOConfig(0.05, 0.05, 1.0)),
    "wide": ("k1", 0.05, 1.0, 0.95, False, 0.5, PPOConfig(0.9, 100.0)),
}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def trl(goldens):
    return dict(np.load(goldens / "ppo.npz"))


def inputs(trl):
    return {name.removeprefix("inputs/"): jnp.asarray(x) for name, x in trl.items() if name.startswith("inputs/")}


def rollout(found, case):
    """Scores, divergences, rewards and estimates as `experiments.ppo` makes them with TRL's settings."""
    estimator, coefficient, gamma, lam, whitened, penalty, _ = CASES[case]
    mask = found["mask"]
    ended = jnp.any((found["responses"] == EOS) & mask, axis=-1)
    scores = less_without_end(found["scores"], ended, penalty)
    kl = token_kl(found["old_logp"], found["ref_logp"], mask, estimator)
    rewards, states = rewards_from_scores(scores, kl, coefficient, mask), states_mask(mask)
    if whitened:
        rewards = whiten_keeping_mean(rewards, states)
    return scores, kl, rewards, states, gae(rewards, found["old_values"], states, gamma=gamma, lam=lam)


def test_the_version_and_the_masks(trl):
    assert "trl 1.12.0" in str(trl["versions"])
    mask = trl["inputs/mask"]
    for case in CASES:
        np.testing.assert_array_equal(trl[f"{case}/trl_mask"], mask)
        np.testing.assert_array_equal(trl[f"{case}/states"], states_mask(jnp.asarray(mask)))
    assert (trl["default/states"].sum(1) == np.minimum(mask.sum(1) + 1, mask.shape[1])).all()


@pytest.mark.parametrize("case", CASES)
def test_rewards_advantages_and_returns_equal_trl(trl, case):
    scores, _, rewards, states, found = rollout(inputs(trl), case)
    np.testing.assert_allclose(scores, trl[f"{case}/scores"], **CLOSE)
    np.testing.assert_allclose(rewards, trl[f"{case}/rewards"], **CLOSE)
    np.testing.assert_allclose(found.returns, np.where(states, trl[f"{case}/returns"], 0), **CLOSE)
    np.testing.assert_allclose(whiten(found.advantages, inputs(trl)["mask"]), trl[f"{case}/advantages"], **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_loss_gradient_and_metrics_equal_trl(trl, case):
    found, cfg = inputs(trl), CASES[case][-1]
    # Estimates of TRL's own, so that a fault of ours above cannot hide here.
    fixed = [trl[f"{case}/{name}"] for name in ("advantages", "returns")]
    batch = batch_of(found["mask"], found["old_logp"], found["old_values"], *fixed)

    def loss(logp, values):
        return ppo_loss(outputs_of(logp, values), batch, batch_weights(batch), cfg)

    (value, sums), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(found["logp"], found["values"])
    metrics = mean_metrics(sums)
    np.testing.assert_allclose(value, trl[f"{case}/loss"], **CLOSE)
    np.testing.assert_allclose(grads[0], trl[f"{case}/grad_logp"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(grads[1], trl[f"{case}/grad_values"], rtol=1e-5, atol=1e-7)
    named = {"policy_loss": "pg_loss", "value_loss": "vf_loss", "clip_ratio/region_mean": "pg_clipfrac"}
    for ours, name in {**named, "value_clip_ratio": "vf_clipfrac"}.items():
        np.testing.assert_allclose(metrics[ours], trl[f"{case}/{name}"], **CLOSE, err_msg=name)
    # TRL's means of these two run over the padding too, where the difference is 0 and the ratio 1.
    share = float(np.mean(found["mask"]))
    np.testing.assert_allclose(metrics["approx_kl"] * share, trl[f"{case}/approxkl"], **CLOSE)
    np.testing.assert_allclose(metrics["ratio"] * share + 1 - share, trl[f"{case}/ratio_mean"], **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_objective_metrics_equal_trl(trl, case):
    scores, kl, *_ = rollout(inputs(trl), case)
    mean = float(kl.sum(-1).mean())
    assert mean == pytest.approx(float(trl[f"{case}/mean_kl"]), rel=1e-5)
    assert -CASES[case][1] * mean == pytest.approx(float(trl[f"{case}/mean_non_score_reward"]), rel=1e-5)
    assert float(scores.mean()) - CASES[case][1] * mean == pytest.approx(float(trl[f"{case}/rlhf_reward"]), rel=1e-5)


def test_whitening_equals_trl(trl):
    values, mask = inputs(trl)["values"], inputs(trl)["mask"]
    np.testing.assert_allclose(whiten(values, mask), trl["whiten/centred"], **CLOSE)
    np.testing.assert_allclose(whiten_keeping_mean(values, mask), trl["whiten/kept"], **CLOSE)
