"""Losses of pairs: cases worked by hand, and what holds for every loss."""

import math
from typing import get_args

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from lqlm.algorithms import divergences, dpo, dpo_config, preference
from lqlm.algorithms.pairs import PairBatch, pair_weights, real_pairs
from lqlm.algorithms.policy import token_weights
from lqlm.algorithms.step import init_state, make_update
from lqlm.errors import UserError
from lqlm.logprobs import TokenStatistics

NOISY = dict.fromkeys(dpo_config.SMOOTHED, 0.2)
CONFIGS = {loss: dpo.DPOConfig(loss=loss, label_smoothing=NOISY.get(loss, 0.0)) for loss in get_args(dpo_config.Loss)}
BY_MARGIN = ("sigmoid", "cdpo", "robust", "hinge", "exo_pair", "discopop")
PAIRS, LENGTH = 4, 5


def arrays(seed, lengths=((5, 2), (1, 4), (3, 3), (2, 5)), fill=0.0):
    """Log-probabilities under policy and reference, and the mask; ``fill`` stands in the padding."""
    rng = np.random.default_rng(seed)
    mask = np.arange(LENGTH) < np.asarray(lengths)[..., None]
    logp, ref = (np.where(mask, -rng.gamma(2.0, 0.7, mask.shape), fill).astype(np.float32) for _ in range(2))
    return jnp.asarray(logp), jnp.asarray(ref), jnp.asarray(mask)


def batch_of(ref, mask):
    prompts = jnp.zeros((len(mask), 2), jnp.int32)
    return PairBatch(
        prompts, jnp.ones_like(prompts, bool), mask.astype(jnp.int32), mask, jnp.zeros(len(mask), jnp.float32), ref
    )


def statistics(entropy):
    """Of tokens that are all as likely as chance."""
    return TokenStatistics(entropy, -entropy, 0.0 * entropy, entropy > 9.0)


def value(logp, ref, mask, cfg, entropy):
    weights, tokens = pair_weights(real_pairs(mask)), token_weights(mask[:, 0], "token")
    return dpo.dpo_loss(logp, statistics(entropy), batch_of(ref, mask), cfg, weights, tokens)


compiled = jax.jit(jax.value_and_grad(value, has_aux=True), static_argnames="cfg")


def graded(logp, ref, mask, cfg, entropy=0.0):
    return compiled(logp, ref, mask, cfg, jnp.full(logp.shape, 0.5) + entropy)


def one(loss, c, r, **constants):
    """A loss of plain numbers."""
    return float(getattr(preference, loss)(jnp.asarray([c]), jnp.asarray([r]), **constants)[0])


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def test_by_hand():
    assert one("sigmoid_loss", 3.0, 1.0, beta=0.5) == pytest.approx(-log_sigmoid(1.0))
    assert one("hinge_loss", 3.0, 1.0, beta=0.25) == 0.5 and one("hinge_loss", 9.0, 1.0, beta=0.25) == 0
    smoothed = -0.9 * log_sigmoid(1.0) - 0.1 * log_sigmoid(-1.0)
    assert one("smoothed_loss", 3.0, 1.0, beta=0.5, label_smoothing=0.1) == pytest.approx(smoothed)
    lengths = jnp.array([4]), jnp.array([2])
    found = preference.ipo_loss(jnp.array([3.0]), jnp.array([1.0]), *lengths, beta=0.5)
    np.testing.assert_allclose(found, [(0.75 - 0.5 - 1.0) ** 2])
    assert one("sppo_loss", 3.0, 1.0, beta=0.5) == pytest.approx((3 - 1) ** 2 + (1 + 1) ** 2)


@hypothesis.given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.01, 0.45))
def test_robust_takes_the_noise_out(c, r, noise):
    """The mean over labels that are wrong with this probability is DPO of the right ones (arXiv:2403.00409)."""
    right, wrong = (one("robust_loss", *pair, beta=0.7, label_smoothing=noise) for pair in ((c, r), (r, c)))
    assert (1 - noise) * right + noise * wrong == pytest.approx(one("sigmoid_loss", c, r, beta=0.7), abs=2e-4)


@hypothesis.given(st.floats(0.55, 0.95))
def test_cdpo_is_least_where_the_model_is_as_sure_as_the_labels(share):
    """``sigma(beta (c - r)) = 1 - e``: unlike DPO it does not drive the margin to infinity."""
    gradient = jax.grad(lambda c: preference.smoothed_loss(c, 0.0 * c, beta=1.0, label_smoothing=1 - share))
    assert abs(float(gradient(jnp.float32(math.log(share / (1 - share)))))) < 1e-5


def test_divergences():
    t = jnp.linspace(-2.0, 2.0, 5)
    np.testing.assert_allclose(divergences.alpha_score(t, 0.0), divergences.forward_kl_score(t), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(divergences.alpha_score(t, 1.0), t)
    np.testing.assert_allclose(divergences.js_score(t), np.log(2 * np.exp(t) / (np.exp(t) + 1)), rtol=1e-5, atol=1e-6)
    for score in (divergences.forward_kl_score, divergences.js_score, lambda t: divergences.alpha_score(t, 0.5)):
        assert float(score(jnp.zeros(()))) == 0.0 and float(jax.grad(score)(0.0)) == pytest.approx(
            0.5 if score is divergences.js_score else 1.0
        )
    assert np.isfinite(divergences.alpha_score(jnp.float32(1e4), 3.0))


@pytest.mark.parametrize("loss", CONFIGS)
def test_padding_is_never_looked_at(loss):
    logp, ref, mask = arrays(0)
    (want, sums), grad = graded(logp, ref, mask, CONFIGS[loss])
    bad = (jnp.where(mask, x, jnp.nan) for x in (logp, ref))
    (found, other), found_grad = graded(*bad, mask, CONFIGS[loss], jnp.where(mask, 0.0, jnp.inf))
    np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(found_grad, grad)
    jax.tree.map(np.testing.assert_array_equal, other, sums)
    assert np.all(np.asarray(grad)[~np.asarray(mask)] == 0) and np.any(grad != 0)


@pytest.mark.parametrize("loss", CONFIGS)
def test_exchanged_sides(loss):
    """The gradient pulls the chosen side up against the rejected one, and the other way where they are exchanged."""
    cfg, (logp, ref, mask) = CONFIGS[loss], arrays(0, lengths=((3, 3),) * 4)
    ref = logp + 0.01 * (ref - logp)  # near the reference, where no loss is saturated
    (_, sums), grad = graded(logp, ref, mask, cfg)
    lead = np.asarray(jnp.sum(grad[:, 0] - grad[:, 1], axis=-1))
    (_, turned), _ = graded(logp[:, ::-1], ref[:, ::-1], mask, cfg)
    assert (lead > 0).all() if loss == "discopop" else (lead < 0).all()  # see its docstring
    for name in ("rewards", "logps"):
        np.testing.assert_array_equal(turned[f"{name}/chosen"], sums[f"{name}/rejected"])
    np.testing.assert_allclose(turned["rewards/margins"], -sums["rewards/margins"], rtol=1e-6)


@pytest.mark.parametrize("loss", BY_MARGIN)
def test_what_both_sides_gain_alike_changes_nothing(loss):
    cfg, (c, r) = CONFIGS[loss], (jnp.array([0.3, -2.0]), jnp.array([1.0, 0.5]))
    zeros, ones = jnp.zeros(2), jnp.ones(2)
    one, other = (dpo.pair_losses(dpo.Sums(c + d, r + d, zeros, zeros, ones, ones, ones), cfg) for d in (0.0, 1.5))
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("loss", [loss for loss in CONFIGS if loss not in dpo_config.WHOLE_BATCH])
def test_rows_without_a_pair_have_no_weight(loss):
    cfg, (logp, ref, mask) = CONFIGS[loss], arrays(0)
    want = np.mean(dpo.pair_losses(dpo.sums_of(logp[:2], ref[:2], mask[:2]), cfg))
    (found, sums), grad = graded(logp, ref, mask.at[2:].set(False), cfg)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert not np.any(grad[2:]) and np.any(grad[:2])
    assert (float(sums["pairs"]), float(sums["completion_tokens"])) == (2.0, 12.0)
    assert float(dpo.mean_metrics(sums)["entropy"]) == 0.5
    (nothing, sums), grad = graded(logp, ref, jnp.zeros_like(mask), cfg)
    assert float(nothing) == 0 and not np.any(grad)
    assert all(float(x) == 0 for x in dpo.mean_metrics(sums).values())


@pytest.mark.parametrize("loss", CONFIGS)
def test_an_empty_side_has_a_defined_value(loss):
    """Its log-ratio is 0, as in TRL: nothing was said that the reference would have said otherwise."""
    logp, ref, mask = arrays(0, lengths=((3, 0), (0, 2), (1, 1), (2, 2)))
    (found, _), grad = graded(logp, ref, mask, CONFIGS[loss])
    assert np.isfinite(found) and np.isfinite(grad).all()
    sums = dpo.sums_of(logp, ref, mask)
    assert float(sums.rejected[0]) == float(sums.chosen_length[1]) == 0


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "aot"])
def test_jit_equals_eager_and_compiles_once(loss):
    first, second = arrays(0), arrays(1)
    count = compiled._cache_size()
    cfg = dpo.DPOConfig(loss=loss, beta=0.3)
    found = graded(*first, cfg)
    after = compiled._cache_size()
    graded(*second, cfg)
    assert after == count + 1 == compiled._cache_size()
    want = jax.value_and_grad(value, has_aux=True)(*first, cfg, jnp.full(first[0].shape, 0.5))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, want)


def test_ratio_one_gives_the_likelihood_gradient():
    """At the reference DPO is supervised learning of one side against the other, with weight beta / 2."""
    logp, _, mask = arrays(0)
    (loss, sums), grad = graded(logp, logp, mask, dpo.DPOConfig(beta=0.4))
    assert float(loss) == pytest.approx(math.log(2)) and float(sums["rewards/accuracies"]) == 0
    np.testing.assert_allclose(grad[:, 0], jnp.where(mask[:, 0], -0.2 / PAIRS, 0.0), rtol=1e-6)
    np.testing.assert_allclose(grad[:, 1], jnp.where(mask[:, 1], 0.2 / PAIRS, 0.0), rtol=1e-6)


def test_micro_batches_add_up():
    """Pairs of which one row is a filler, so that the parts have unequal weights."""
    logp, ref, mask = arrays(0)
    mask = mask.at[3].set(False)
    objective = dpo.dpo_objective(
        lambda adapters, base, batch, key: (
            adapters["logp"][batch.prompts_BP[:, 0]],
            statistics(batch.ref_logp_BGC),
        ),
        dpo.DPOConfig(sft_weight=0.5, wpo=True),
    )
    batch = batch_of(ref, mask).replace(prompts_BP=jnp.arange(4, dtype=jnp.int32)[:, None].repeat(2, 1))
    results = []
    for parts in (1, 2, 4):
        optimizer = optax.sgd(0.1)
        state = init_state({"logp": jnp.array(logp)}, optimizer)
        results.append(jax.jit(make_update(objective, optimizer, micro_batches=parts))(state, None, batch, None))
    for state, metrics in results[1:]:
        np.testing.assert_allclose(state.adapters["logp"], results[0][0].adapters["logp"], rtol=1e-6)
        assert metrics.keys() == results[0][1].keys()
        for name, x in metrics.items():
            np.testing.assert_allclose(x, results[0][1][name], rtol=1e-5, atol=1e-6, err_msg=name)


REFUSED = {
    "unknown loss 'kto'": {"loss": "kto"},
    "unknown divergence": {"divergence": "kl"},
    "take more than 0": {"beta": 0.0},
    "less than 0.5": {"loss": "robust", "label_smoothing": 0.5},
    "reads no label_smoothing": {"label_smoothing": 0.1},
    "takes the logarithm": {"loss": "exo_pair"},
    "knows no divergence": {"loss": "nca_pair", "divergence": "js_divergence"},
    "take 0 to 1": {"tail": 2.0},
    "no wpo": {"loss": "aot", "wpo": True},
}


def test_wpo_by_hand():
    """Sides of one and of two tokens: a quarter, and the root of a half times an eighth, against chances of a half."""
    p = jnp.array([[[0.25, 9.0], [0.5, 0.125]]])
    mask = jnp.array([[[True, False], [True, True]]])
    found = dpo.wpo_weights(jnp.log(p), jnp.full(p.shape, math.log(0.5)), mask)
    np.testing.assert_allclose(found, [0.5 * (1.0 * 0.25) ** 0.5], rtol=1e-6)
    gradient = jax.grad(lambda x: dpo.wpo_weights(x, jnp.zeros_like(x), mask).sum())(jnp.log(p))
    assert not np.any(gradient)
    empty = dpo.wpo_weights(jnp.log(p), jnp.log(p), mask.at[0, 1].set(False))
    np.testing.assert_allclose(empty, [1.0])


def test_wpo_scales_each_pair_and_not_the_likelihood_beside_it():
    """Two pairs that would be sampled with other weights; the likelihood of the chosen one stays as it is."""
    logp, ref, mask = arrays(0)
    plain, weighted = dpo.DPOConfig(), dpo.DPOConfig(wpo=True)
    weights = dpo.wpo_weights(logp, jnp.full(logp.shape, -0.5), mask)
    (_, sums), _ = graded(logp, ref, mask, weighted)
    np.testing.assert_allclose(sums["wpo_weight"], weights.sum(), rtol=1e-5)
    losses = dpo.pair_losses(dpo.sums_of(logp, ref, mask), plain)
    for sft in (0.0, 0.7):
        found = graded(logp, ref, mask, dpo.DPOConfig(wpo=True, sft_weight=sft))[0][0]
        likelihood = graded(logp, ref, mask, dpo.DPOConfig(sft_weight=sft))[0][0] - losses.mean()
        np.testing.assert_allclose(found, (losses * weights).mean() + likelihood, rtol=1e-5)


@pytest.mark.parametrize("words", REFUSED)
def test_configs_that_cannot_be(words):
    with pytest.raises(UserError, match=words):
        dpo.DPOConfig(**REFUSED[words])


def test_a_batch_without_a_reference_is_refused():
    logp, _, mask = arrays(0)
    with pytest.raises(UserError, match="no ref_logp_BGC"):
        value(logp, None, mask, dpo.DPOConfig(), logp)
