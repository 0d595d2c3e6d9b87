"""Make trl.npz: losses, gradients, metrics and advantages of TRL's GRPOTrainer on small random arrays.

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
from trl.trainer import grpo_trainer

ROWS, LENGTH, GROUP, MAX_LENGTH = 8, 12, 4, 20
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo")
EPSILONS = ((0.2, 0.2), (0.1, 0.28))
BETAS = ((0.0, False), (0.04, False), (0.04, True))  # (beta, use_bias_correction_kl)
METRICS = ("kl", "entropy", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")


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


def stand_in(logp: torch.Tensor, entropy: torch.Tensor, loss: str, epsilons: tuple, beta: tuple) -> object:
    """What ``_compute_loss`` reads of a trainer: one process, one gradient-accumulation step, no extras."""
    accelerator = types.SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
    return types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logp, entropy, None),
        args=types.SimpleNamespace(use_bias_correction_kl=beta[1], delta=None, steps_per_generation=1),
        model=types.SimpleNamespace(training=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta[0],
        loss_type=loss,
        epsilon_low=epsilons[0],
        epsilon_high=epsilons[1],
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=MAX_LENGTH,
        _entropy_bonus_enabled=False,
        _metrics={"train": collections.defaultdict(list)},
    )


def trl_loss(inputs: dict[str, np.ndarray], loss: str, epsilons: tuple, beta: tuple) -> dict[str, np.ndarray]:
    """TRL's loss, its gradient with respect to the log-probabilities, and its metrics."""
    tensors = {name: torch.from_numpy(x) for name, x in inputs.items()}
    logp = tensors["logp"].clone().requires_grad_()
    mask = tensors["mask"].int()
    trainer = stand_in(logp, tensors["entropy"], loss, epsilons, beta)
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
    return out | {name: np.float32(x[0]) for name, x in trainer._metrics["train"].items() if name in METRICS}


def trl_advantages(rewards: np.ndarray, scale_rewards: str) -> np.ndarray:
    """TRL's advantages [B, G]: the lines of its source from the summed rewards to the advantages."""
    source = inspect.getsource(grpo_trainer.GRPOTrainer._generate_and_score_completions)
    start = source.index("        unscorable_mask = torch.isnan(rewards_per_func)")
    end = source.index("        # Unscorable completions (every reward func returned None) carry no")
    scope = dict(vars(grpo_trainer))
    scope |= {
        "self": types.SimpleNamespace(
            multi_objective_aggregation="sum_then_normalize", reward_weights=torch.ones(1), scale_rewards=scale_rewards
        ),
        "rewards_per_func": torch.from_numpy(rewards).reshape(-1, 1),
        "num_generations": rewards.shape[1],
        "device": "cpu",
    }
    exec(textwrap.dedent(source[start:end]), scope)
    return scope["advantages"].numpy().reshape(rewards.shape)


def make() -> dict[str, np.ndarray]:
    """Compute everything: inputs, and the outputs of each case under ``case/output``."""
    inputs = make_inputs()
    out = {f"inputs/{name}": x for name, x in inputs.items()}
    for loss in LOSSES:
        for epsilons in EPSILONS:
            for beta in BETAS:
                name = case_name(loss, epsilons, beta)
                out |= {f"{name}/{k}": x for k, x in trl_loss(inputs, loss, epsilons, beta).items()}
    for scale in ("group", "none"):
        out[f"advantages/{scale}"] = trl_advantages(inputs["rewards"], scale)
    return out


def main(out_dir: pathlib.Path) -> None:
    """Write trl.npz."""
    versions = f"trl {trl.__version__}, torch {torch.__version__}"
    np.savez_compressed(out_dir / "trl.npz", versions=np.array(versions), max_length=np.array(MAX_LENGTH), **make())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
