"""The GRPO loss: by hand, and by the laws that it has to keep."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.algorithms import policy
from lqlm.algorithms.grpo import GRPOConfig, grpo_loss, mean_metrics
from lqlm.errors import UserError

CONFIGS = {
    "sequence": GRPOConfig(),
    "token": GRPOConfig(epsilon_high=0.28, reduction="token", kl="k3_corrected"),
    "constant": GRPOConfig(beta=0.0, reduction="constant", max_length=7),
}
EACH = pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)


def rollouts(shape=(2, 3, 5), seed=0):
    rng = np.random.default_rng(seed)
    logp = -rng.gamma(2.0, 0.5, shape)
    old, ref = logp + rng.normal(0, 0.3, shape), logp + rng.normal(0, 0.4, shape)
    mask = np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, shape[:-1])[..., None]
    arrays = [jnp.asarray(x, jnp.float32) for x in (logp, old, ref, rng.normal(size=shape[:-1]))]
    return [*arrays, jnp.asarray(mask)]


def test_loss_by_hand():
    logp = jnp.log(jnp.array([[0.5, 0.3], [0.4, 0.9]]))
    old = jnp.log(jnp.array([[0.25, 0.3], [0.5, 0.9]]))
    ref = jnp.log(jnp.array([[0.5, 0.6], [0.2, 0.9]]))
    mask = jnp.array([[True, True], [True, False]])
    # Ratios 2 (clipped to 1.2) and 1 with A = 1; 0.8 with A = -1, which is not below 1 - 0.3.
    first, second = (1.2 + 1.0) / 2, -0.8
    kl = [0.0, 2 - np.log(2) - 1, 0.5 - np.log(0.5) - 1]
    cfg = GRPOConfig(epsilon_low=0.3, beta=0.1)
    loss, sums = grpo_loss(logp, old, ref, jnp.array([1.0, -1.0]), mask, cfg)
    want_kl = 0.1 * ((kl[0] + kl[1]) / 2 + kl[2]) / 2
    np.testing.assert_allclose(loss, -(first + second) / 2 + want_kl, rtol=1e-5)
    metrics = mean_metrics(sums)
    want = {"policy_loss": -(first + second) / 2, "kl": np.mean(kl), "ratio": 3.8 / 3, "clip_ratio/high_mean": 1 / 3}
    want |= {"clip_ratio/low_mean": 0.0, "clip_ratio/region_mean": 1 / 3, "tokens": 3.0}
    for name, value in want.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


@EACH
def test_ratio_one_gives_the_reinforce_gradient(cfg):
    logp, _, _, advantages, mask = rollouts()
    cfg = GRPOConfig(beta=0.0, reduction=cfg.reduction, max_length=cfg.max_length)
    gradient = jax.grad(lambda x: grpo_loss(x, None, None, advantages, mask, cfg)[0])(logp)
    weights = policy.token_weights(mask, cfg.reduction, max_length=cfg.max_length)
    np.testing.assert_allclose(gradient, -weights * advantages[..., None], rtol=1e-6)
    given_old = jax.grad(lambda x: grpo_loss(x, logp, None, advantages, mask, cfg)[0])(logp)
    np.testing.assert_array_equal(gradient, given_old)


@EACH
def test_only_the_policy_has_a_gradient(cfg):
    *arrays, mask = rollouts()
    gradients = jax.grad(lambda *xs: grpo_loss(*xs, mask, cfg)[0], argnums=(1, 2, 3))(*arrays)
    chex.assert_trees_all_equal(gradients, jax.tree.map(jnp.zeros_like, gradients))


@EACH
@given(seed=st.integers(0, 50), extra=st.integers(1, 4))
def test_padding_changes_nothing(cfg, seed, extra):
    *arrays, mask = rollouts(seed=seed)
    junk = iter([jnp.nan, jnp.inf, 900.0])
    wide = [jnp.pad(x, ((0, 0), (0, 0), (0, extra)), constant_values=next(junk)) for x in arrays[:3]]
    wide_mask = jnp.pad(mask, ((0, 0), (0, 0), (0, extra)))

    def run(logp, old, ref, mask):
        return jax.value_and_grad(lambda x: grpo_loss(x, old, ref, arrays[3], mask, cfg), has_aux=True)(logp)

    (loss, sums), gradient = run(*arrays[:3], mask)
    (wide_loss, wide_sums), wide_gradient = run(*wide, wide_mask)
    chex.assert_trees_all_close((loss, sums), (wide_loss, wide_sums), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(wide_gradient[..., :5], gradient, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(wide_gradient[..., 5:], 0.0)


@EACH
@given(seed=st.integers(0, 50), order=st.permutations(range(3)))
def test_the_order_within_a_group_does_not_matter(cfg, seed, order):
    arrays = rollouts(seed=seed)
    permuted = [x[:, jnp.array(order)] for x in arrays]
    chex.assert_trees_all_close(grpo_loss(*arrays, cfg), grpo_loss(*permuted, cfg), rtol=1e-5, atol=1e-6)


@EACH
def test_an_empty_completion_weighs_nothing(cfg):
    *arrays, mask = rollouts()
    mask = mask.at[0, 1].set(False)
    loss, gradient = jax.value_and_grad(lambda x: grpo_loss(x, *arrays[1:], mask, cfg)[0])(arrays[0])
    assert np.isfinite(loss)
    np.testing.assert_array_equal(gradient[0, 1], 0.0)
    assert np.abs(gradient[0, 0]).sum() > 0
    empty, sums = grpo_loss(*arrays, jnp.zeros_like(mask), cfg)
    assert float(empty) == 0.0
    chex.assert_tree_all_finite(mean_metrics(sums))


@EACH
def test_parts_add_up_to_the_whole(cfg):
    arrays = rollouts(shape=(4, 3, 5))
    weights = policy.token_weights(arrays[-1], cfg.reduction, max_length=cfg.max_length)
    whole = grpo_loss(*arrays, cfg)
    parts = [grpo_loss(*[x[i : i + 2] for x in arrays], cfg, weights[i : i + 2]) for i in (0, 2)]
    chex.assert_trees_all_close(jax.tree.map(jnp.add, *parts), whole, rtol=1e-5, atol=1e-6)


@EACH
def test_duplicating_the_batch_changes_no_loss(cfg):
    """A division by the batch twice over would halve it."""
    arrays = rollouts()
    twice = [jnp.concatenate([x, x]) for x in arrays]
    np.testing.assert_allclose(grpo_loss(*arrays, cfg)[0], grpo_loss(*twice, cfg)[0], rtol=1e-5, atol=1e-7)


@EACH
def test_jit_equals_eager(cfg):
    arrays = rollouts()
    chex.assert_trees_all_close(jax.jit(grpo_loss, static_argnums=5)(*arrays, cfg), grpo_loss(*arrays, cfg), rtol=1e-5)


def test_shapes_are_exact():
    *arrays, mask = rollouts()
    with pytest.raises(AssertionError):
        grpo_loss(*arrays[:3], arrays[3][..., None], mask, GRPOConfig())
    with pytest.raises(AssertionError):
        grpo_loss(arrays[0], arrays[1][:, :1], *arrays[2:], mask, GRPOConfig())


def test_a_missing_reference_is_refused():
    logp, old, _, advantages, mask = rollouts()
    with pytest.raises(UserError, match="ref_logp"):
        grpo_loss(logp, old, None, advantages, mask, GRPOConfig())


BAD = [
    {"epsilon_low": 0.0},
    {"epsilon_high": -0.1},
    {"beta": -1.0},
    {"reduction": "mean"},
    {"reduction": "constant"},
    {"kl": "k9"},
]


@pytest.mark.parametrize("setting", BAD, ids=str)
def test_a_config_without_meaning_is_refused(setting):
    with pytest.raises(UserError, match="GRPOConfig"):
        GRPOConfig(**setting)
