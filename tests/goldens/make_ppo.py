"""Make ppo.npz: rewards, advantages, losses, gradients and metrics of TRL's PPOTrainer on small random arrays.

TRL removed the trainer in 1.13; the file is made with 1.12.0, put before what the ``parity`` extra installs:

    pip install --no-deps --target FOLDER trl==1.12.0
    PYTHONPATH=FOLDER python tests/goldens/make_ppo.py tests/goldens

What is executed is TRL's own: ``first_true_indices``, ``masked_mean``, ``masked_whiten``, and the lines of
``PPOTrainer.train`` from the missing-EOS penalty to the whitened advantages, those of a minibatch from the new
log-probabilities to the loss, and those of the metrics, cut out of its source.  Nothing is transcribed; the models are
replaced by given arrays.
"""

import inspect
import pathlib
import sys
import textwrap
import types

import numpy as np
import torch
import trl
from trl.experimental.ppo import ppo_trainer

ROWS, LENGTH, PAD, EOS = 8, 12, 0, 2
CASES = {
    "default": {},
    "k3": {"kl_estimator": "k3", "kl_coef": 0.5},
    "discount": {"gamma": 0.9, "lam": 0.5, "kl_coef": 0.2},
    "whiten": {"whiten_rewards": True, "missing_eos_penalty": 1.0},
    "narrow": {"cliprange": 0.05, "cliprange_value": 0.05, "vf_coef": 1.0},
    "wide": {"cliprange": 0.9, "cliprange_value": 100.0, "missing_eos_penalty": 0.5},
}
DEFAULTS = {
    "kl_estimator": "k1",
    "kl_coef": 0.05,
    "gamma": 1.0,
    "lam": 0.95,
    "whiten_rewards": False,
    "missing_eos_penalty": None,
    "cliprange": 0.2,
    "cliprange_value": 0.2,
    "vf_coef": 0.1,
    "temperature": 1.0,
}
# Where pieces of ``train`` begin and, without that line, end.
ROLLOUT = "contain_eos_token = torch.any(", "# Do multiple epochs of PPO"
LOSS = "new_logprobs = torch.masked_fill(", "accelerator.backward(loss)"
CLIPPED = "pg_clipfrac = masked_mean(", "prob_dist = "
APPROX = "approxkl = 0.5", "approxkl_stats["
OBJECTIVE = "mean_kl = kl.sum(1).mean()", "eps = int("


def make_inputs() -> dict[str, np.ndarray]:
    """Ragged random rollouts; most end in an EOS, one fills all places, and ratios move inside and outside the clip."""
    rng = np.random.default_rng(0)
    lengths = np.array([12, 1, 7, 5, 12, 3, 11, 2])
    responses = rng.integers(3, 20, (ROWS, LENGTH))
    responses[np.arange(ROWS), lengths - 1] = EOS
    responses[4, -1] = 7  # cut off
    responses[np.arange(LENGTH)[None] >= lengths[:, None]] = PAD
    shape = (ROWS, LENGTH)
    old_logp = -rng.gamma(2.0, 0.7, shape)
    return {
        "responses": responses.astype(np.int32),
        "mask": np.arange(LENGTH)[None] < lengths[:, None],
        "old_logp": old_logp.astype(np.float32),
        "ref_logp": (old_logp + rng.normal(0, 0.5, shape)).astype(np.float32),
        "logp": (old_logp + rng.normal(0, 0.25, shape)).astype(np.float32),
        "old_values": rng.normal(0, 0.5, shape).astype(np.float32),
        "values": rng.normal(0, 0.8, shape).astype(np.float32),
        "scores": rng.normal(0.5, 1.0, ROWS).astype(np.float32),
    }


def lines(start: str, end: str) -> str:
    """The lines of TRL's ``train`` from one that begins so up to, and without, another one."""
    source = inspect.getsource(ppo_trainer.PPOTrainer.train)
    first = source.index(start)
    last = source.index(end, first)
    return textwrap.dedent(source[source.rindex("\n", 0, first) + 1 : source.rindex("\n", 0, last) + 1])


def run(inputs: dict[str, np.ndarray], case: dict) -> dict[str, np.ndarray]:
    """TRL's rollout phase, and one minibatch of all rows."""
    args = types.SimpleNamespace(**(DEFAULTS | case))
    tensors = {name: torch.from_numpy(x) for name, x in inputs.items()}
    responses = tensors["responses"].long()
    scope = dict(vars(ppo_trainer)) | {
        "args": args,
        "self": types.SimpleNamespace(args=args, processing_class=types.SimpleNamespace(eos_token_id=EOS)),
        "responses": responses,
        "postprocessed_responses": responses,
        "sequence_lengths": ppo_trainer.first_true_indices(responses == PAD) - 1,
        "logprobs": tensors["old_logp"].clone(),
        "ref_logprobs": tensors["ref_logp"].clone(),
        "values": tensors["old_values"].clone(),
        "scores": tensors["scores"].clone(),
        "empty_cache": lambda: None,
    }
    exec(lines(*ROLLOUT), scope)
    out = {name: scope[name] for name in ("scores", "rewards", "advantages", "returns")}
    out |= {"states": ~scope["padding_mask_p1"], "trl_mask": ~scope["padding_mask"]}
    exec(lines(*OBJECTIVE), scope)
    named = ("mean_kl", "mean_entropy", "mean_non_score_reward", "rlhf_reward")
    out |= {name: scope[name] for name in named}
    logp, values = (tensors[name].clone().requires_grad_() for name in ("logp", "values"))
    values_everywhere = torch.cat([values, torch.zeros(ROWS, 1)], 1)[..., None]  # of TRL's [context - 1 : -1]
    scope |= {
        "new_logprobs": logp,
        "vpred_temp": values_everywhere,
        "context_length": 1,
        "micro_batch_inds": slice(None),
    }
    scope |= {"mb_advantage": scope["advantages"], "mb_return": scope["returns"]}
    scope |= {"mb_values": scope["values"], "mb_logprobs": scope["logprobs"]}
    exec(lines(*LOSS), scope)
    scope["loss"].backward()
    exec(lines(*CLIPPED) + lines(*APPROX), scope)
    for name in ("loss", "pg_loss", "vf_loss", "vf_clipfrac", "pg_clipfrac", "approxkl"):
        out[name] = scope[name]
    out |= {"grad_logp": logp.grad, "grad_values": values.grad, "ratio_mean": scope["ratio"].mean()}
    return {name: x.detach().numpy() for name, x in out.items()}


def make() -> dict[str, np.ndarray]:
    """Compute everything: inputs, and the outputs of each case under ``case/output``."""
    inputs = make_inputs()
    out = {f"inputs/{name}": x for name, x in inputs.items()}
    for name, case in CASES.items():
        out |= {f"{name}/{key}": x for key, x in run(inputs, case).items()}
    mask, values = torch.from_numpy(inputs["mask"]), torch.from_numpy(inputs["values"])
    for shift in (True, False):
        whitened = ppo_trainer.masked_whiten(values, mask, shift_mean=shift)
        out[f"whiten/{'centred' if shift else 'kept'}"] = whitened.numpy() * inputs["mask"]
    return out


def main(out_dir: pathlib.Path) -> None:
    """Write ppo.npz."""
    versions = f"trl {trl.__version__}, torch {torch.__version__}"
    np.savez_compressed(out_dir / "ppo.npz", versions=np.array(versions), **make())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
