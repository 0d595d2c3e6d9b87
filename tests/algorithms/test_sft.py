"""Supervised fine-tuning: by hand, by TRL's numbers, packed and unpacked."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lqlm.algorithms.sft import SFTBatch, dft_loss, mean_scores, nll_loss, score_sums, sft_objective, target_weights
from lqlm.algorithms.step import init_state, make_update
from lqlm.logprobs import TokenScores
from tests.algorithms.sft_cases import check, loss_and_gradient, lqlm_model, packed, padded

MODELS, LOSSES = ("qwen2", "llama_untied"), ("nll", "dft")
CASES = [(name, loss) for name in MODELS for loss in LOSSES]


@pytest.fixture(scope="module")
def trl(goldens):
    return dict(np.load(goldens / "sft.npz"))


def rows_of(trl, name):
    return {key: trl[f"{name}/rows/{key}"] for key in ("tokens", "mask", "targets")}


def case(trl, name, loss, which="padded"):
    start = f"{name}|{loss}|{which}/"
    return {key.removeprefix(start): x for key, x in trl.items() if key.startswith(start)}


ALL = ("padded", "accumulated", "packed")


@pytest.mark.parametrize(
    ("name", "loss", "cases"),
    [
        ("qwen2", "nll", ALL),
        ("qwen2", "dft", ["packed"]),
        ("llama_untied", "nll", ["packed"]),
        ("llama_untied", "dft", ["padded"]),
    ],
)
def test_loss_gradient_and_metrics_equal_trl(trl, goldens, name, loss, cases):
    assert "trl 1.16" in str(trl["versions"])
    want = case(trl, name, loss)
    assert 0 < want["mean_token_accuracy"] < 1
    check(lqlm_model(goldens / "transformers" / name), rows_of(trl, name), loss, want, cases)


def test_trl_itself_gives_one_loss_whether_padded_accumulated_or_packed(trl):
    for name, loss in CASES:
        values = [case(trl, name, loss, which)["loss"] for which in ALL]
        np.testing.assert_allclose(values, values[0], rtol=1e-6)


def test_packed_rows_give_the_loss_and_gradient_of_single_ones(trl, goldens):
    """Also where a text is cut off by the next one: without segments both would differ."""
    model, rows = lqlm_model(goldens / "transformers" / "qwen2"), rows_of(trl, "qwen2")
    alone, gradient = loss_and_gradient(model, padded(rows), "nll")
    together = packed(rows, 31)  # all four in one row
    assert together.tokens_BT.shape == (1, 31) and int(together.segments_BT.max()) == 4
    found, other = loss_and_gradient(model, together, "nll")
    chex.assert_trees_all_close(found["loss"], alone["loss"], rtol=1e-6)
    chex.assert_trees_all_close(other, gradient, rtol=1e-4, atol=1e-6)
    blind, _ = loss_and_gradient(model, together.replace(segments_BT=jnp.ones_like(together.segments_BT)), "nll")
    assert abs(float(blind["loss"] - alone["loss"])) > 1e-2


def test_losses_by_hand():
    logp, targets = jnp.log(jnp.array([[0.5, 0.1, 0.25], [0.9, 0.8, 0.2]])), jnp.array([[1, 0, 1], [0, 1, 0]], bool)
    weights = target_weights(targets)
    np.testing.assert_allclose(weights, [[1 / 3, 0, 1 / 3], [0, 1 / 3, 0]], rtol=1e-6)
    probabilities = np.array([0.5, 0.25, 0.8])
    np.testing.assert_allclose(nll_loss(logp, weights), -np.log(probabilities).mean(), rtol=1e-6)
    np.testing.assert_allclose(dft_loss(logp, weights), -(probabilities * np.log(probabilities)).mean(), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(nll_loss)(logp, weights), -weights, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(dft_loss)(logp, weights), -weights * jnp.exp(logp), rtol=1e-6)


@pytest.mark.parametrize("loss", [nll_loss, dft_loss])
def test_what_is_no_target_does_not_matter(loss):
    logp, targets = jnp.array([-1.0, -jnp.inf, jnp.nan]), jnp.array([True, False, False])
    value, grad = jax.value_and_grad(loss)(logp, target_weights(targets))
    assert np.isfinite(value) and np.isfinite(grad).all() and grad[1] == grad[2] == 0


@pytest.mark.parametrize("loss", [nll_loss, dft_loss])
def test_a_batch_without_targets_teaches_nothing(loss):
    weights = target_weights(jnp.zeros((2, 3), bool))
    value, grad = jax.value_and_grad(loss)(jnp.full((2, 3), -2.0), weights)
    assert value == 0 and not grad.any()


@given(st.integers(0, 99), st.permutations(range(4)))
def test_the_order_of_rows_does_not_matter(seed, order):
    rng = np.random.default_rng(seed)
    logp, targets = jnp.asarray(-rng.gamma(2.0, 1.0, (4, 6)), jnp.float32), jnp.asarray(rng.random((4, 6)) < 0.5)
    order = jnp.array(order)
    for loss in (nll_loss, dft_loss):
        value = loss(logp, target_weights(targets))
        chex.assert_trees_all_close(loss(logp[order], target_weights(targets)[order]), value, rtol=1e-5)


def bigram(adapters, base, batch, key):
    """Scores of a table of logits [V, V] as the model."""
    logp = jax.nn.log_softmax(adapters[batch.tokens_BT[:, :-1]])
    chosen = jnp.take_along_axis(logp, batch.tokens_BT[:, 1:, None], axis=-1)[..., 0]
    correct = jnp.argmax(logp, axis=-1) == batch.tokens_BT[:, 1:]
    scores = TokenScores(chosen, -jnp.sum(jnp.exp(logp) * logp, axis=-1), correct)
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (1, 0))), scores)


def batch_of(seed, rows=4, length=6, vocab=5):
    rng = np.random.default_rng(seed)
    tokens = jnp.asarray(rng.integers(0, vocab, (rows, length)), jnp.int32)
    targets = jnp.asarray(rng.random((rows, length)) < 0.5).at[:, 0].set(False).at[0, 1].set(True)
    return SFTBatch(tokens, jnp.ones_like(tokens), targets)


@pytest.mark.parametrize("loss", [nll_loss, dft_loss])
def test_micro_batches_with_unequal_targets_give_the_full_gradient(loss):
    batch, table = batch_of(1), jnp.asarray(np.random.default_rng(0).normal(size=(5, 5)), jnp.float32)
    batch = batch.replace(targets_BT=batch.targets_BT.at[2:, 1:].set(False).at[3, 5].set(True))
    assert int(batch.targets_BT[:2].sum()) > 2 * int(batch.targets_BT[2:].sum())
    optimizer, found = optax.sgd(1.0), []
    for parts in (1, 2, 4):
        update = make_update(sft_objective(bigram, loss), optimizer, micro_batches=parts)
        found.append(update(init_state(table, optimizer), {}, batch, None))
    for state, metrics in found[1:]:
        chex.assert_trees_all_close((state.adapters, metrics), (found[0][0].adapters, found[0][1]), rtol=1e-5)


def test_metrics_are_means_over_targets():
    batch, table = batch_of(2), jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)), jnp.float32)
    scores = bigram(table, None, batch, None)
    metrics = mean_scores(score_sums(scores, batch))
    mask = np.asarray(batch.targets_BT)
    np.testing.assert_allclose(metrics["nll"], -np.asarray(scores.logp)[mask].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["entropy"], np.asarray(scores.entropy)[mask].mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["mean_token_accuracy"], np.asarray(scores.correct)[mask].mean(), rtol=1e-6)
    assert (float(metrics["targets"]), float(metrics["tokens"])) == (mask.sum(), batch.tokens_BT.size)


def test_it_learns_a_bigram():
    batch, optimizer = batch_of(3, rows=16), optax.adam(0.3)
    update = jax.jit(make_update(sft_objective(bigram), optimizer, micro_batches=2))
    state = init_state(jnp.zeros((5, 5)), optimizer)
    losses = []
    for _ in range(60):
        state, metrics = update(state, {}, batch, None)
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(5), rel=1e-5) and losses[-1] < losses[0] - 0.1
    assert update._cache_size() == 1
