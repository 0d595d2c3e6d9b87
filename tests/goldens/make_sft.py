"""Make sft.npz: loss, gradient and metrics of TRL's SFTTrainer on two of the tiny models in transformers/.

Run in an environment with the ``parity`` extra:

    python tests/goldens/make_sft.py tests/goldens

The loss is TRL's own ``SFTTrainer.compute_loss``, with its own fused head on the real transformers model, called on a
stand-in for the trainer that has the attributes it reads.  The cases: padded rows with ragged labels; the same rows in
two accumulation steps, whose number of items is that of both; and the same texts as one packed row, told apart by
their positions, as TRL packs them.
"""

import collections
import pathlib
import sys
import types

import numpy as np
import torch
import transformers
import trl
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import add_fused_lm_head

MODELS = ("qwen2", "llama_untied")  # tied and biased; a head of its own
LOSSES = ("nll", "dft")
LENGTHS, LENGTH = (12, 3, 7, 9), 12
FIRST_TARGETS = (4, 1, 6, 2)  # completions begin there
LIKELY = (5, 8)  # places where the model's own choice stands
METRICS = ("entropy", "mean_token_accuracy", "num_tokens")


def make_rows(model: torch.nn.Module, seed: int = 0) -> dict[str, np.ndarray]:
    """Right-padded tokens, the mask of real ones, and the targets, some of which the model would choose itself."""
    rng = np.random.default_rng(seed)
    place = np.arange(LENGTH)
    mask = place < np.array(LENGTHS)[:, None]
    targets = mask & (place >= np.array(FIRST_TARGETS)[:, None])
    targets[0, 6] = False  # a turn of the user's between two of the assistant's
    tokens = np.where(mask, rng.integers(1, 48, mask.shape), 0)
    for t in LIKELY:
        with torch.no_grad():
            chosen = model(input_ids=torch.from_numpy(tokens[:, :t])).logits[:, -1].argmax(-1).numpy()
        tokens[:, t] = np.where(mask[:, t], chosen, 0)
    return {"tokens": tokens, "mask": mask, "targets": targets}


def load(folder: pathlib.Path) -> torch.nn.Module:
    """One of the tiny models, with TRL's head."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    return model.train()


def stand_in(model: torch.nn.Module, loss: str) -> object:
    """What ``compute_loss`` reads of a trainer: one process, no extras."""
    accelerator = types.SimpleNamespace(num_processes=1, gather_for_metrics=lambda x: x, parallelism_config=None)
    return types.SimpleNamespace(
        model=model,
        args=types.SimpleNamespace(loss_type=loss, average_tokens_across_devices=True),
        accelerator=accelerator,
        aux_loss_enabled=False,
        compute_loss_func=None,
        label_smoother=None,
        get_tp_size=lambda: 1,
        _tp_size=1,
        _metrics={"train": collections.defaultdict(list)},
        _total_train_tokens=0,
    )


def padded(rows: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Inputs as TRL's collator makes them."""
    tokens, targets = torch.from_numpy(rows["tokens"]), torch.from_numpy(rows["targets"])
    mask = torch.from_numpy(rows["mask"]).long()
    return {"input_ids": tokens, "attention_mask": mask, "labels": torch.where(targets, tokens, -100)}


def packed(rows: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The same texts in one row without padding; positions restart with each, and its first token is no label."""
    inputs = {name: x[torch.from_numpy(rows["mask"])][None] for name, x in padded(rows).items()}
    positions = torch.from_numpy(np.concatenate([np.arange(n) for n in LENGTHS]))[None]
    labels = torch.where(positions == 0, -100, inputs["labels"])
    return {"input_ids": inputs["input_ids"], "position_ids": positions, "labels": labels}


def trl_loss(model: torch.nn.Module, loss: str, parts: list[dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    """TRL's loss and gradient over accumulation steps, and the metrics of the last one."""
    model.zero_grad()
    trainer = stand_in(model, loss)
    items = sum((part["labels"] != -100).sum() for part in parts)
    total = 0.0
    for part in parts:
        value = SFTTrainer.compute_loss(trainer, model, dict(part), num_items_in_batch=items)
        value.backward()
        total += float(value.detach())
    out = {f"grad/{name}": p.grad.numpy().copy() for name, p in model.named_parameters()}
    return out | {"loss": np.float32(total)} | {m: np.float32(trainer._metrics["train"][m][-1]) for m in METRICS}


def cases(rows: dict[str, np.ndarray]) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Name of a case -> its accumulation steps."""
    halves = [padded({name: x[part] for name, x in rows.items()}) for part in (slice(0, 2), slice(2, 4))]
    return {"padded": [padded(rows)], "accumulated": halves, "packed": [packed(rows)]}


def make(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Compute everything: each model's rows, and the outputs of each case under ``model|loss|case/output``.

    The gradients of all cases are those of the first, so only its are kept.
    """
    out: dict[str, np.ndarray] = {}
    for name in MODELS:
        model = load(folder / name)
        rows = make_rows(model)
        out |= {f"{name}/rows/{key}": x for key, x in rows.items()}
        for loss in LOSSES:
            for case, parts in cases(rows).items():
                found = trl_loss(model, loss, parts)
                kept = found if case == "padded" else {k: x for k, x in found.items() if not k.startswith("grad/")}
                out |= {f"{name}|{loss}|{case}/{k}": x for k, x in kept.items()}
    return out


def main(out_dir: pathlib.Path) -> None:
    """Write sft.npz."""
    versions = f"trl {trl.__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    np.savez_compressed(out_dir / "sft.npz", versions=np.array(versions), **make(out_dir / "transformers"))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
