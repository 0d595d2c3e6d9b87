"""The cases of tests/goldens/make_trl.py's FAMILY (and its RLOO) as settings of lqlm, and one evaluation of them."""

import jax
import jax.numpy as jnp

from lqlm.algorithms.grpo import GRPOBatch, GRPOConfig, grpo_objective
from lqlm.algorithms.surrogates import Cispo, Sapo, SequenceClip, SummedClip, TokenClip, Vespo

LENGTH = 20
CONSTANT = {"reduction": "constant", "max_length": LENGTH}
FAMILY = {
    "gspo": GRPOConfig(0.02, 0.03, 0.0, surrogate=SequenceClip()),
    "gspo_kl": GRPOConfig(0.02, 0.03, reduction="token", kl="k3_corrected", surrogate=SequenceClip()),
    "luspo": GRPOConfig(0.02, 0.03, reduction="sequence_sum", surrogate=SequenceClip()),
    "luspo_token": GRPOConfig(0.1, 0.28, reduction="sequence_sum", kl="k3_corrected"),
    "delta": GRPOConfig(0.1, 0.28, reduction="micro_batch", surrogate=TokenClip(delta=1.4)),
    "cispo": GRPOConfig(beta=0.0, reduction="token", surrogate=Cispo()),
    "cispo_capped": GRPOConfig(reduction="token", kl="k3_corrected", surrogate=Cispo(1.1)),
    "sapo": GRPOConfig(surrogate=Sapo()),
    "vespo": GRPOConfig(beta=0.0, reduction="token", surrogate=Vespo()),
    "high_entropy": GRPOConfig(epsilon_high=0.28, reduction="token", kl="k3_corrected", top_entropy_quantile=0.3),
    "off_policy": GRPOConfig(off_policy_mask_threshold=0.01),
    "entropy_bonus": GRPOConfig(beta=0.0, entropy_coef=0.05),
    "everything": GRPOConfig(
        0.1,
        0.28,
        kl="k3_corrected",
        surrogate=TokenClip(delta=1.6),
        top_entropy_quantile=0.5,
        off_policy_mask_threshold=0.05,
        entropy_coef=0.01,
        **CONSTANT,
    ),
    "rloo": GRPOConfig(0.1, 0.2, kl="k1", kl_place="reward", surrogate=SummedClip()),
}


def loss_gradients_and_metrics(inputs, case):
    """Through the objective, as a step of training does it: loss, both gradients, and the finished metrics."""
    arrays = {name: jnp.asarray(x)[None] for name, x in inputs.items()}  # one group of all rows
    empty, mask = jnp.zeros((1, 1), jnp.int32), arrays["mask"]
    batch = GRPOBatch(empty, empty > 0, jnp.zeros(mask.shape, jnp.int32), mask, arrays["advantages"])
    batch = batch.replace(old_logp_BGC=arrays["old_logp"], ref_logp_BGC=arrays["ref_logp"])
    objective = grpo_objective(lambda scores, base, batch, key: scores, FAMILY[case])

    def loss(logp, entropy):
        return objective.loss((logp, entropy), None, objective.prepare(batch), None)

    (value, sums), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(arrays["logp"], arrays["entropy"])
    return objective.finish(sums) | {"loss": value, "grad": grads[0][0], "entropy_grad": grads[1][0]}
