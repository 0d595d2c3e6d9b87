"""Values, gradients and metrics of TRL's GRPO and RLOO losses, and its advantages, from stored arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.algorithms import advantages, policy
from lqlm.algorithms.grpo import GRPOConfig, grpo_loss, mean_metrics
from tests.algorithms.trl_family import FAMILY, loss_gradients_and_metrics

REDUCTIONS = {"grpo": "sequence", "bnpo": "token", "dr_grpo": "constant", "dapo": "token"}
ARGUMENTS = ("logp", "old_logp", "ref_logp", "advantages", "mask")


@pytest.fixture(scope="module")
def trl(goldens):
    return dict(np.load(goldens / "trl.npz"))


def cases(trl):
    found = {name.rsplit("/", 1)[0] for name in trl if name.endswith("/grad")}
    return sorted(name for name in found if not name.startswith("family/"))


def config(case, max_length):
    loss, low, high, beta, kl = case.split("|")
    length = int(max_length) if loss == "dr_grpo" else None
    return GRPOConfig(float(low), float(high), float(beta), REDUCTIONS[loss], length, kl)


def test_the_cases_are_there_and_differ(trl):
    assert "trl 1.16" in str(trl["versions"])
    assert len(cases(trl)) == 4 * 2 * 3
    assert len({float(trl[f"{c}/loss"]) for c in cases(trl)}) == 3 * 2 * 3  # bnpo and dapo agree on a whole batch


def test_loss_gradient_and_metrics_equal_trl(trl):
    arrays = [jnp.asarray(trl[f"inputs/{name}"]) for name in ARGUMENTS]
    for case in cases(trl):
        cfg = config(case, trl["max_length"])
        (loss, sums), grad = jax.value_and_grad(grpo_loss, has_aux=True)(*arrays, cfg)
        np.testing.assert_allclose(loss, trl[f"{case}/loss"], rtol=1e-5, atol=1e-6, err_msg=case)
        np.testing.assert_allclose(grad, trl[f"{case}/grad"], rtol=1e-5, atol=1e-7, err_msg=case)
        metrics = mean_metrics(sums)
        for name in metrics.keys() & {k.removeprefix(f"{case}/") for k in trl}:
            if name != "loss":
                np.testing.assert_allclose(metrics[name], trl[f"{case}/{name}"], rtol=1e-5, err_msg=f"{case}/{name}")
        assert f"{case}/clip_ratio/low_mean" in trl


def test_every_surrogate_and_mask_equals_trl(trl):
    """Each loss type that TRL has, both levels of the ratio, and all that acts on tokens and sequences."""
    stored = {name.split("/")[1] for name in trl if name.startswith("family/")}
    assert stored == set(FAMILY)
    inputs = {name: trl[f"inputs/{name}"] for name in (*ARGUMENTS, "entropy")}
    for case in FAMILY:
        want = {k.removeprefix(f"family/{case}/"): x for k, x in trl.items() if k.startswith(f"family/{case}/")}
        got = loss_gradients_and_metrics(inputs, case)
        assert want.keys() <= got.keys(), (case, want.keys() - got.keys())
        for name, x in want.items():
            np.testing.assert_allclose(got[name], x, rtol=1e-5, atol=1e-6, err_msg=f"{case}: {name}")


def test_both_clips_occur(trl):
    ratio = policy.importance_ratio(*[jnp.asarray(trl[f"inputs/{n}"]) for n in ("logp", "old_logp", "mask")])
    clipped = policy.clipped_tokens(ratio, jnp.asarray(trl["inputs/advantages"])[:, None], 0.2, 0.2)
    assert int(clipped.low.sum()) > 0
    assert int(clipped.high.sum()) > 0


def test_advantages_equal_trl(trl):
    rewards = jnp.asarray(trl["inputs/rewards"])
    np.testing.assert_allclose(advantages.group_advantages(rewards), trl["advantages/group"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(advantages.centered_advantages(rewards), trl["advantages/none"], rtol=1e-5, atol=1e-6)
    batch = advantages.batch_advantages(rewards)
    np.testing.assert_allclose(batch, trl["advantages/batch"], rtol=1e-5, atol=1e-6)
    parts = jnp.stack([rewards, jnp.square(rewards[::-1])])
    apart = advantages.decoupled_advantages(parts, jnp.array([1.0, 0.5]))
    np.testing.assert_allclose(apart, trl["advantages/gdpo"], rtol=1e-4, atol=1e-6)


def test_rloo_advantages_equal_trl_with_the_divergence_in_the_reward(trl):
    rewards, shape = jnp.asarray(trl["inputs/rewards"])[:2], (2, 4, -1)
    arrays = [jnp.asarray(trl[f"inputs/{name}"]).reshape(shape) for name in ("old_logp", "ref_logp", "mask")]
    for beta, name in ((0.0, "rloo"), (0.05, "rloo_kl")):
        penalized = policy.penalized_rewards(rewards, *arrays, beta, "k1")
        got = advantages.leave_one_out_advantages(penalized)
        np.testing.assert_allclose(got, trl[f"advantages/{name}"], rtol=1e-5, atol=1e-6)
    assert np.abs(trl["advantages/rloo"] - trl["advantages/rloo_kl"]).max() > 0.01
