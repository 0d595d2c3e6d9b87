"""The parts of the loss, by hand."""

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from lqlm.algorithms import policy
from lqlm.errors import UserError

MASKS = hnp.arrays(bool, (2, 3, 4))


def test_token_weights_by_hand():
    mask = jnp.array([[1, 1, 1, 1], [1, 0, 0, 0]], bool)
    np.testing.assert_allclose(policy.token_weights(mask, "sequence"), [[1 / 8] * 4, [1 / 2, 0, 0, 0]])
    np.testing.assert_allclose(policy.token_weights(mask, "token"), np.array(mask) / 5)
    np.testing.assert_allclose(policy.token_weights(mask, "constant", max_length=10), np.array(mask) / 20)


@given(MASKS)
def test_token_weights_of_any_mask(mask):
    m = jnp.asarray(mask)
    for reduction, length in (("sequence", None), ("token", None), ("constant", 4)):
        weights = policy.token_weights(m, reduction, max_length=length)
        assert np.isfinite(weights).all()
        assert not np.asarray(weights)[~mask].any()
        flat = policy.token_weights(m.reshape(6, 4), reduction, max_length=length)
        np.testing.assert_allclose(weights.reshape(6, 4), flat)
    np.testing.assert_allclose(policy.token_weights(m, "sequence").sum(), mask.any(-1).mean(), rtol=1e-5)
    np.testing.assert_allclose(policy.token_weights(m, "token").sum(), float(mask.any()), rtol=1e-5)


@pytest.mark.parametrize("arguments", [("mean", None), ("constant", None)])
def test_an_unknown_reduction_is_refused(arguments):
    with pytest.raises(UserError, match=r"token_weights.*use"):
        policy.token_weights(jnp.ones((1, 2), bool), arguments[0], max_length=arguments[1])


# ratio, advantage -> objective and d objective / d ratio, for epsilon_low 0.2 and epsilon_high 0.3
CORNERS = [
    (2.0, 1.0, 1.3, 0.0),  # a gain is taken up to 1 + high
    (0.5, 1.0, 0.5, 1.0),  # a good token that fell is pulled back
    (2.0, -1.0, -2.0, -1.0),  # a bad token that rose is pushed back: a max in place of min would stop at -1.3
    (0.5, -1.0, -0.8, 0.0),  # a loss is cut off at 1 - low
    (1.1, 1.0, 1.1, 1.0),
    (0.9, -1.0, -0.9, -1.0),
]


@pytest.mark.parametrize(("ratio", "advantage", "value", "slope"), CORNERS)
def test_clipping_at_every_corner(ratio, advantage, value, slope):
    def objective(r):
        return policy.clipped_surrogate(r, jnp.float32(advantage), 0.2, 0.3)

    got, gradient = jax.value_and_grad(objective)(jnp.float32(ratio))
    np.testing.assert_allclose([got, gradient], [value, slope], rtol=1e-6)
    clipped = policy.clipped_tokens(jnp.float32(ratio), jnp.float32(advantage), 0.2, 0.3)
    assert [bool(clipped.low), bool(clipped.high)] == [slope == 0 and advantage < 0, slope == 0 and advantage > 0]


def test_the_padding_cannot_overflow():
    logp, old, mask = jnp.array([0.0, 900.0]), jnp.array([0.0, -900.0]), jnp.array([True, False])
    np.testing.assert_array_equal(policy.importance_ratio(logp, old, mask), [1.0, 1.0])
    gradient = jax.grad(lambda x: jnp.sum(policy.importance_ratio(x, old, mask)))(logp)
    np.testing.assert_array_equal(gradient, [1.0, 0.0])


def test_corrected_k3_has_the_gradient_of_the_divergence():
    """E_old[r k3] is KL(p || q); its gradient with respect to the logits is exact, that of plain k3 is not."""
    logits, q = jnp.array([0.3, -0.4, 0.1]), jnp.log(jnp.array([0.2, 0.5, 0.3]))
    old = jax.nn.log_softmax(logits)

    def estimate(z):
        logp = jax.nn.log_softmax(z)
        return jnp.sum(jnp.exp(old) * policy.k3_corrected(logp, q, jnp.exp(logp - old)))

    def exact(z):
        logp = jax.nn.log_softmax(z)
        return jnp.sum(jnp.exp(logp) * (logp - q))

    np.testing.assert_allclose(estimate(logits), exact(logits), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(estimate)(logits), jax.grad(exact)(logits), rtol=1e-4, atol=1e-6)
