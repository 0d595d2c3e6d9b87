"""Make preference.npz: losses, gradients and metrics of TRL's DPOTrainer and RewardTrainer on small random arrays.

Run in an environment with the ``parity`` extra:

    python tests/goldens/make_preference.py tests/goldens

The losses are TRL's own ``DPOTrainer._compute_loss`` and ``RewardTrainer.compute_loss``, called on stand-ins for the
trainers that have the attributes they read; a function that returns given numbers stands in for the model.
"""

import collections
import contextlib
import pathlib
import sys
import types

import numpy as np
import torch
import trl
from trl.trainer import dpo_trainer, reward_trainer

PAIRS, LENGTH = 6, 9
Case = tuple[str, dict[str, object]]
# (name of the case, what differs from TRL's defaults)
DPO: tuple[Case, ...] = (
    ("sigmoid", {}),
    ("sigmoid|beta=0.5", {"beta": 0.5}),
    ("sigmoid_norm|beta=2.0", {"loss_types": ["sigmoid_norm"], "beta": 2.0}),
    ("robust|label_smoothing=0.2", {"loss_types": ["robust"], "label_smoothing": 0.2}),
    ("hinge", {"loss_types": ["hinge"]}),
    ("ipo", {"loss_types": ["ipo"]}),
    ("exo_pair|label_smoothing=0.1", {"loss_types": ["exo_pair"], "label_smoothing": 0.1}),
    ("nca_pair", {"loss_types": ["nca_pair"]}),
    ("bco_pair", {"loss_types": ["bco_pair"]}),
    ("sppo_hard", {"loss_types": ["sppo_hard"]}),
    ("apo_zero", {"loss_types": ["apo_zero"]}),
    ("apo_down", {"loss_types": ["apo_down"]}),
    ("discopop", {"loss_types": ["discopop"]}),
    ("aot|label_smoothing=0.1", {"loss_types": ["aot"], "label_smoothing": 0.1}),
    ("aot_unpaired|label_smoothing=0.1", {"loss_types": ["aot_unpaired"], "label_smoothing": 0.1}),
    ("sigmoid|divergence=forward_kl", {"f_divergence_type": "forward_kl"}),
    ("sigmoid|divergence=js_divergence", {"f_divergence_type": "js_divergence"}),
    ("sigmoid|divergence=alpha_divergence|alpha=0.5", {"f_divergence_type": "alpha_divergence"}),
    ("ipo|divergence=js_divergence", {"loss_types": ["ipo"], "f_divergence_type": "js_divergence"}),
    ("sigmoid|tail=0.3", {"ld_alpha": 0.3}),
    ("sigmoid|wpo=1", {"use_weighting": True}),
    ("ipo|wpo=1|beta=0.5", {"loss_types": ["ipo"], "use_weighting": True, "beta": 0.5}),
    ("nca_pair|wpo=1|tail=0.5", {"loss_types": ["nca_pair"], "use_weighting": True, "ld_alpha": 0.5}),
    ("sigmoid|sft_weight=0.7", {"loss_types": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
)
REWARD: dict[str, tuple[bool, float | None]] = {  # (whether there are margins, center_rewards_coefficient)
    "plain": (False, None),
    "margin": (True, None),
    "center": (False, 0.01),
    "both": (True, 0.1),
}
METRICS = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen")
METRICS += ("logps/rejected", "entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy")
SEEN = {"log_sum_sq_probs": "log_collision", "mean_logits": "mean_logit", "is_top1": "correct", "entropy": "entropy"}


def make_inputs(seed: int = 0) -> dict[str, np.ndarray]:
    """Ragged pairs [B, 2, C]: log-probabilities under a policy that has moved from the reference; and rewards."""
    rng = np.random.default_rng(seed)
    logp = -rng.gamma(2.0, 0.7, (PAIRS, 2, LENGTH)).astype(np.float32)
    lengths = rng.integers(1, LENGTH + 1, (PAIRS, 2))
    lengths[0], lengths[1] = (LENGTH, 1), (2, LENGTH)
    return {
        "logp": logp,
        "ref_logp": logp + rng.normal(0, 0.8, logp.shape).astype(np.float32),
        "entropy": rng.gamma(2.0, 0.5, logp.shape).astype(np.float32),
        "mask": np.arange(LENGTH) < lengths[..., None],
        "rewards": rng.normal(0, 1.5, (PAIRS, 2)).astype(np.float32),
        "margins": rng.gamma(1.0, 0.5, PAIRS).astype(np.float32),
        "log_collision": -rng.gamma(2.0, 0.5, logp.shape).astype(np.float32),
        "mean_logit": rng.normal(0, 2.0, logp.shape).astype(np.float32),
        "correct": rng.random(logp.shape) < 0.4,
    }


def accelerator() -> types.SimpleNamespace:
    """One process."""
    same = {name: staticmethod(lambda x: x) for name in ("gather", "gather_for_metrics")}
    return types.SimpleNamespace(device=torch.device("cpu"), autocast=contextlib.nullcontext, **same)


def both_sides(x: np.ndarray) -> torch.Tensor:
    """[B, 2, C] as TRL has it: the chosen rows, then the rejected ones."""
    return torch.from_numpy(np.concatenate([x[:, 0], x[:, 1]]).copy())


def model_of(logp: torch.Tensor, seen: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A model whose fused head gives these numbers."""

    class Model(torch.nn.Module):
        is_gradient_checkpointing = False

        def forward(self, **_: object) -> types.SimpleNamespace:
            return types.SimpleNamespace(log_probs=logp, **seen)

    return Model()


def trl_dpo(inputs: dict[str, np.ndarray], changes: dict[str, object]) -> dict[str, np.ndarray]:
    """TRL's loss, its gradient [B, 2, C] with respect to the log-probabilities, and its metrics."""
    mask = both_sides(inputs["mask"])
    logp, ref = (both_sides(inputs[name]) for name in ("logp", "ref_logp"))
    logp.requires_grad_()
    seen = {theirs: both_sides(inputs[ours]) for theirs, ours in SEEN.items()}
    model = model_of(torch.where(mask, logp, 0.0), seen)
    defaults = {
        "loss_types": ["sigmoid"],
        "loss_weights": [1.0],
        "beta": 0.1,
        "label_smoothing": 0.0,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "ld_alpha": None,
        "use_weighting": False,
    }
    trainer = types.SimpleNamespace(
        **(defaults | changes),
        model=model,
        ref_model=model_of(torch.where(mask, ref, 0.0), seen),
        accelerator=accelerator(),
        args=types.SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=0.05),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        _total_train_tokens=0,
        _tp_size=1,
        _metrics={"train": collections.defaultdict(list)},
    )
    # One prompt token before the completions, which nothing predicts.
    rows = torch.nn.functional.pad(mask.long(), (1, 0))
    batch = {"input_ids": torch.zeros_like(rows), "attention_mask": torch.ones_like(rows), "completion_mask": rows}
    value = dpo_trainer.DPOTrainer._compute_loss(trainer, model, batch, False)
    value.backward()
    out = {"loss": value.detach().numpy(), "grad": logp.grad.numpy().reshape(2, PAIRS, LENGTH).swapaxes(0, 1).copy()}
    return out | {name: np.float32(trainer._metrics["train"][name][0]) for name in METRICS}


def trl_reward(inputs: dict[str, np.ndarray], with_margin: bool, center: float | None) -> dict[str, np.ndarray]:
    """TRL's loss, its gradient [B, 2] with respect to the rewards, and its metrics."""
    rewards = torch.from_numpy(np.concatenate(list(inputs["rewards"].T))[:, None].copy()).requires_grad_()
    trainer = types.SimpleNamespace(
        model=types.SimpleNamespace(training=True),
        args=types.SimpleNamespace(center_rewards_coefficient=center),
        accelerator=accelerator(),
        _total_train_tokens=0,
        _tp_size=1,
        _metrics={"train": collections.defaultdict(list)},
    )
    batch = {"attention_mask": torch.ones(2 * PAIRS, 1)}
    if with_margin:
        batch["margin"] = torch.from_numpy(inputs["margins"])
    model = lambda **_: types.SimpleNamespace(logits=rewards)  # noqa: E731
    value = reward_trainer.RewardTrainer.compute_loss(trainer, model, batch)
    value.backward()
    metrics = {k: np.float32(v[0]) for k, v in trainer._metrics["train"].items() if k != "num_tokens"}
    return {"loss": value.detach().numpy(), "grad": rewards.grad.numpy().reshape(2, PAIRS).T.copy(), **metrics}


def make(seed: int = 0) -> dict[str, np.ndarray]:
    """Compute everything: inputs, and the outputs of each case under ``case/output``."""
    inputs = make_inputs(seed)
    out = {f"inputs/{name}": x for name, x in inputs.items()}
    for name, changes in DPO:
        out |= {f"dpo|{name}/{k}": x for k, x in trl_dpo(inputs, changes).items()}
    for name, case in REWARD.items():
        out |= {f"reward|{name}/{k}": x for k, x in trl_reward(inputs, *case).items()}
    return out


def main(out_dir: pathlib.Path) -> None:
    """Write preference.npz."""
    versions = f"trl {trl.__version__}, torch {torch.__version__}"
    np.savez_compressed(out_dir / "preference.npz", versions=np.array(versions), **make())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
