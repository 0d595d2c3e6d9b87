"""Make trl.npz: losses, gradients, metrics and advantages of TRL's GRPOTrainer and RLOOTrainer on small random arrays.

Run in an environment with the ``parity`` extra:

    python tests/goldens/make_trl.py tests/goldens

The loss is TRL's own ``GRPOTrainer._compute_loss``, called on a stand-in for the trainer that has the attributes it
reads and returns given log-probabilities in place of a model's.  The advantages are a few lines in the middle of a
long method of the trainer: those lines of its source are executed by themselves.
"""

import collections
import inspect
import pathlib
import sys
import textwrap
import types

import numpy as np
import torch
import trl
from trl.trainer import grpo_trainer, rloo_trainer

ROWS, LENGTH, GROUP, MAX_LENGTH = 8, 12, 4, 20
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo")
EPSILONS = ((0.2, 0.2), (0.1, 0.28))
BETAS = ((0.0, False), (0.04, False), (0.04, True))  # (beta, use_bias_correction_kl)
CLIPS = ("low_mean", "low_min", "high_mean", "high_max", "region_mean")
METRICS = ("kl", "entropy", "cispo_clip_ratio", "vespo/phi_seq_mean", *(f"clip_ratio/{name}" for name in CLIPS))
RLOO_EPSILONS = (0.1, 0.2)
VESPO = {"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}
SAPO = {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}
# Name -> (loss type, epsilons, (beta, use_bias_correction_kl), what else differs from the stand-in's attributes).
FAMILY: dict[str, tuple[str, tuple, tuple, dict]] = {
    "gspo": ("grpo", (0.02, 0.03), (0.0, False), {"importance_sampling_level": "sequence"}),
    "gspo_kl": ("dapo", (0.02, 0.03), (0.04, True), {"importance_sampling_level": "sequence"}),
    "luspo": ("luspo", (0.02, 0.03), (0.04, False), {"importance_sampling_level": "sequence"}),
    "luspo_token": ("luspo", (0.1, 0.28), (0.04, True), {}),
    "delta": ("bnpo", (0.1, 0.28), (0.04, False), {"delta": 1.4}),
    "cispo": ("cispo", (0.2, 5.0), (0.0, False), {}),
    "cispo_capped": ("cispo", (0.2, 1.1), (0.04, True), {}),
    "sapo": ("sapo", (0.2, 0.2), (0.04, False), SAPO),
    "vespo": ("vespo", (0.2, 0.2), (0.0, False), VESPO),
    "high_entropy": ("dapo", (0.2, 0.28), (0.04, True), {"top_entropy_quantile": 0.3}),
    "off_policy": ("grpo", (0.2, 0.2), (0.04, False), {"off_policy_mask_threshold": 0.01}),
    "entropy_bonus": ("grpo", (0.2, 0.2), (0.0, False), {"entropy_coef": 0.05}),
    "everything": (
        "dr_grpo",
        (0.1, 0.28),
        (0.04, True),
        {"delta": 1.6, "top_entropy_quantile": 0.5, "off_policy_mask_threshold": 0.05, "entropy_coef": 0.01},
    ),
}


def case_name(loss: str, epsilons: tuple[float, float], beta: tuple[float, bool]) -> str:
    """Name of one case in the file."""
    return f"{loss}|{epsilons[0]}|{epsilons[1]}|{beta[0]}|{'k3_corrected' if beta[1] else 'k3'}"


def make_inputs() -> dict[str, np.ndarray]:
    """Ragged random rollouts: ratios inside and outside the clip range for advantages of both signs."""
    rng = np.random.default_rng(0)
    logp = -rng.gamma(2.0, 0.7, (ROWS, LENGTH)).astype(np.float32)
    lengths = np.array([12, 1, 7, 5, 12, 3, 9, 2])
    return {
        "logp": logp,
        "old_logp": logp + rng.normal(0, 0.25, logp.shape).astype(np.float32),
        "ref_logp": logp + rng.normal(0, 0.5, logp.shape).astype(np.float32),
        "entropy": rng.gamma(2.0, 0.5, logp.shape).astype(np.float32),
        "mask": np.arange(LENGTH)[None] < lengths[:, None],
        "advantages": rng.normal(0, 1, ROWS).astype(np.float32),
        "rewards": np.array([[1, 0, 0, 1], [1, 1, 1, 1], [0.1, 0.7, 0.2, 0.2], [0, 0, 0, 0]], np.float32),
    }


def stand_in(logp: torch.Tensor, entropy: torch.Tensor, loss: str, epsilons: tuple, beta: tuple, more: dict) -> object:
    """What ``_compute_loss`` reads of a trainer: one process, one gradient-accumulation step, no extras."""
    accelerator = types.SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        reduce=lambda x, reduction: x,
        pad_across_processes=lambda x, **kwargs: x,
        sync_gradients=True,
    )
    args = {"use_bias_correction_kl": beta[1], "delta": None, "steps_per_generation": 1}
    attributes = {"top_entropy_quantile": 1.0, "off_policy_mask_threshold": None, "importance_sampling_level": "token"}
    trainer = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logp, entropy, None),
        get_off_policy_mask=grpo_trainer.GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=grpo_trainer.GRPOTrainer.get_gamma_weights,
        args=types.SimpleNamespace(**args | more),
        model=types.SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        beta=beta[0],
        loss_type=loss,
        epsilon_low=epsilons[0],
        epsilon_high=epsilons[1],
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_LENGTH,
        use_adaptive_entropy=False,
        _entropy_bonus_enabled="entropy_coef" in more,
        _metrics={"train": collections.defaultdict(list)},
        **attributes | more,
    )
    trainer.get_high_entropy_mask = types.MethodType(grpo_trainer.GRPOTrainer.get_high_entropy_mask, trainer)
    return trainer


def trl_loss(
    inputs: dict[str, np.ndarray], loss: str, epsilons: tuple, beta: tuple, more: dict | None = None
) -> dict[str, np.ndarray]:
    """TRL's loss, its gradients with respect to log-probabilities and entropies, and its metrics."""
    tensors = {name: torch.from_numpy(x) for name, x in inputs.items()}
    logp, entropy = tensors["logp"].clone().requires_grad_(), tensors["entropy"].clone().requires_grad_()
    mask = tensors["mask"].int()
    trainer = stand_in(logp, entropy, loss, epsilons, beta, more or {})
    batch = {
        "prompt_ids": torch.zeros(ROWS, 1, dtype=torch.long),
        "prompt_mask": torch.ones(ROWS, 1, dtype=torch.long),
        "completion_ids": torch.zeros(ROWS, LENGTH, dtype=torch.long),
        "completion_mask": mask,
        "advantages": tensors["advantages"],
        "old_per_token_logps": tensors["old_logp"],
        "ref_per_token_logps": tensors["ref_logp"],
        "num_items_in_batch": mask.sum(),
    }
    value = grpo_trainer.GRPOTrainer._compute_loss(trainer, None, batch)
    value.backward()
    out = {"loss": value.detach().numpy(), "grad": logp.grad.numpy()}
    if entropy.grad is not None:
        out["entropy_grad"] = entropy.grad.numpy()
    return out | {name: np.float32(x[0]) for name, x in trainer._metrics["train"].items() if name in METRICS}


def rloo_loss(inputs: dict[str, np.ndarray], epsilons: tuple) -> dict[str, np.ndarray]:
    """The loss of TRL's RLOOTrainer, its gradient with respect to the log-probabilities, and its metrics."""
    tensors = {name: torch.from_numpy(x) for name, x in inputs.items()}
    logp, mask = tensors["logp"].clone().requires_grad_(), tensors["mask"].int()
    trainer = stand_in(logp, tensors["entropy"], "rloo", epsilons, (0.0, False), {})
    zeros = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    batch = {
        "prompt_ids": zeros[:, :1],
        "prompt_mask": zeros[:, :1],
        "completion_ids": zeros,
        "completion_mask": mask,
        "advantages": tensors["advantages"],
        "old_logps": (tensors["old_logp"] * mask).sum(1),
    }
    value = rloo_trainer.RLOOTrainer._compute_loss(trainer, None, batch)
    value.backward()
    out = {"loss": value.detach().numpy(), "grad": logp.grad.numpy()}
    return out | {name: np.float32(x[0]) for name, x in trainer._metrics["train"].items() if name in METRICS}


def lines_of(method: object, start: str, end: str, scope: dict) -> torch.Tensor:
    """Run the lines of a method's source from `start` to before `end`, and return their ``advantages``."""
    source = inspect.getsource(method)
    exec(textwrap.dedent(source[source.index(start) : source.index(end)]), scope)
    return scope["advantages"]


def rloo_advantages(inputs: dict[str, np.ndarray], beta: float, normalize: bool) -> np.ndarray:
    """The advantages [B, G] of TRL's RLOOTrainer: its lines from the summed rewards to the advantages."""
    rewards = inputs["rewards"]
    trainer = types.SimpleNamespace(
        reward_weights=torch.ones(1), reward_clip_range=None, beta=beta, normalize_advantages=normalize
    )
    scope = dict(vars(rloo_trainer)) | {
        "self": trainer,
        "gather": lambda x: x,
        "rewards_per_func": torch.from_numpy(rewards).reshape(-1, 1),
        "old_per_token_logps": torch.from_numpy(inputs["old_logp"])[: rewards.size],
        "ref_per_token_logps": torch.from_numpy(inputs["ref_logp"])[: rewards.size],
        "completion_mask": torch.from_numpy(inputs["mask"])[: rewards.size],
        "num_generations": rewards.shape[1],
        "device": "cpu",
        "unscorable_mask": torch.zeros(rewards.size, dtype=torch.bool),
    }
    method = rloo_trainer.RLOOTrainer._generate_and_score_completions
    start = "        # Apply weights to each reward function's output and sum"
    end = "        # Unscorable completions carry no learning signal: zero"
    return lines_of(method, start, end, scope).numpy().reshape(rewards.shape)


def trl_advantages(
    rewards: np.ndarray,
    scale_rewards: str,
    weights: tuple[float, ...] = (1.0,),
    aggregation: str = "sum_then_normalize",
) -> np.ndarray:
    """TRL's advantages [B, G]: the lines of its source from the rewards ([B, G] or [K, B, G]) to the advantages."""
    parts = rewards.reshape(len(weights), *rewards.shape[-2:])
    trainer = types.SimpleNamespace(
        multi_objective_aggregation=aggregation,
        reward_weights=torch.tensor(weights),
        scale_rewards=scale_rewards,
        reward_funcs=weights,
    )
    scope = dict(vars(grpo_trainer)) | {
        "self": trainer,
        "rewards_per_func": torch.from_numpy(parts.reshape(len(weights), -1).T.copy()),
        "num_generations": rewards.shape[-1],
        "device": "cpu",
    }
    method = grpo_trainer.GRPOTrainer._generate_and_score_completions
    start = "        unscorable_mask = torch.isnan(rewards_per_func)"
    end = "        # Unscorable completions (every reward func returned None) carry no"
    return lines_of(method, start, end, scope).numpy().reshape(rewards.shape[-2:])


def make() -> dict[str, np.ndarray]:
    """Compute everything: inputs, and the outputs of each case under ``case/output``."""
    inputs = make_inputs()
    out = {f"inputs/{name}": x for name, x in inputs.items()}
    for loss in LOSSES:
        for epsilons in EPSILONS:
            for beta in BETAS:
                name = case_name(loss, epsilons, beta)
                out |= {f"{name}/{k}": x for k, x in trl_loss(inputs, loss, epsilons, beta).items()}
    for name, arguments in FAMILY.items():
        out |= {f"family/{name}/{k}": x for k, x in trl_loss(inputs, *arguments).items()}
    out |= {f"family/rloo/{k}": x for k, x in rloo_loss(inputs, RLOO_EPSILONS).items()}
    for scale in ("group", "none", "batch"):
        out[f"advantages/{scale}"] = trl_advantages(inputs["rewards"], scale)
    parts = np.stack([inputs["rewards"], inputs["rewards"][::-1] ** 2])
    out["advantages/gdpo"] = trl_advantages(parts, "group", (1.0, 0.5), "normalize_then_sum")
    few = inputs | {"rewards": inputs["rewards"][:2]}
    out["advantages/rloo"] = rloo_advantages(few, 0.0, False)
    out["advantages/rloo_kl"] = rloo_advantages(few, 0.05, False)
    return out


def main(out_dir: pathlib.Path) -> None:
    """Write trl.npz."""
    versions = f"trl {trl.__version__}, torch {torch.__version__}"
    np.savez_compressed(out_dir / "trl.npz", versions=np.array(versions), max_length=np.array(MAX_LENGTH), **make())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
