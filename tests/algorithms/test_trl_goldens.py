"""Values, gradients and metrics of TRL's GRPO losses, and its advantages, from stored arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lqlm.algorithms import advantages, policy
from lqlm.algorithms.grpo import GRPOConfig, grpo_loss, mean_metrics

REDUCTIONS = {"grpo": "sequence", "bnpo": "token", "dr_grpo": "constant", "dapo": "token"}
ARGUMENTS = ("logp", "old_logp", "ref_logp", "advantages", "mask")


@pytest.fixture(scope="module")
def trl(goldens):
    return dict(np.load(goldens / "trl.npz"))


def cases(trl):
    return sorted({name.rsplit("/", 1)[0] for name in trl if name.endswith("/grad")})


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


def test_both_clips_occur(trl):
    ratio = policy.importance_ratio(*[jnp.asarray(trl[f"inputs/{n}"]) for n in ("logp", "old_logp", "mask")])
    clipped = policy.clipped_tokens(ratio, jnp.asarray(trl["inputs/advantages"])[:, None], 0.2, 0.2)
    assert int(clipped.low.sum()) > 0
    assert int(clipped.high.sum()) > 0


def test_advantages_equal_trl(trl):
    rewards = jnp.asarray(trl["inputs/rewards"])
    np.testing.assert_allclose(advantages.group_advantages(rewards), trl["advantages/group"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(advantages.centered_advantages(rewards), trl["advantages/none"], rtol=1e-5, atol=1e-6)
