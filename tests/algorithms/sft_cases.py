"""One batch of supervised fine-tuning through lqlm, compared with what TRL's SFTTrainer gives for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lqlm.algorithms.sft import SFTBatch, dft_loss, nll_loss, sft_objective
from lqlm.algorithms.step import init_state, make_update
from lqlm.io.export import as_hf, entries
from lqlm.io.safetensors import open_safetensors, read_json
from lqlm.models.convert import from_hf_tensors
from lqlm.models.hf_config import config_from_hf
from lqlm.models.targets import target_scores
from lqlm.tasks.instructions import Example
from lqlm.tasks.packing import pack

LOSSES = {"nll": nll_loss, "dft": dft_loss}
CHUNK = 5  # divides neither the tokens nor the targets of a batch


def lqlm_model(folder):
    """Base and config of a checkpoint."""
    config, weights = config_from_hf(read_json(folder / "config.json")), open_safetensors(folder)
    return from_hf_tensors(weights.get, weights.names, config, quant=None, dtype="float32"), config


def padded(rows):
    """One text a row; a row's first token is never a target."""
    targets = rows["targets"] & (np.arange(rows["mask"].shape[1]) > 0)
    return SFTBatch(jnp.asarray(rows["tokens"], jnp.int32), jnp.asarray(rows["mask"], jnp.int32), jnp.asarray(targets))


def packed(rows, length):
    """The same texts, several in a row."""
    batch = jax.device_get(padded(rows))
    each = zip(batch.tokens_BT, batch.segments_BT > 0, batch.targets_BT)
    examples = [Example(tokens[mask], targets[mask]) for tokens, mask, targets in each]
    return SFTBatch(*map(jnp.asarray, pack(examples, length, 0)))


@functools.lru_cache
def updater(cfg, loss, micro_batches):
    """One jitted update of every weight, by plain descent of rate 1."""

    def score(adapters, base, batch, key):
        arrays = batch.tokens_BT, batch.segments_BT, batch.targets_BT
        return target_scores(base, adapters, *arrays, cfg, chunk=CHUNK)

    optimizer = optax.sgd(1.0)
    objective = sft_objective(score, LOSSES[loss])
    return jax.jit(make_update(objective, optimizer, micro_batches=micro_batches)), optimizer


def loss_and_gradient(model, batch, loss, micro_batches=1):
    """Metrics of one update, and the gradient under Hugging Face names."""
    base, cfg = model
    update, optimizer = updater(cfg, loss, micro_batches)
    state, metrics = update(init_state({"full": base}, optimizer), {}, batch, None)
    change = jax.tree.map(jnp.subtract, base, state.adapters["full"])
    return jax.device_get(metrics), {name: as_hf(name, x, "float32") for name, x in entries(change, cfg)}


def check(model, rows, loss, want, cases=("padded",)):
    """Loss, gradient and metrics equal those given, whether the rows are padded, accumulated or packed."""
    batches = {"padded": (padded(rows), 1), "accumulated": (padded(rows), 2), "packed": (packed(rows, 19), 1)}
    for case in cases:
        batch, micro_batches = batches[case]
        metrics, gradient = loss_and_gradient(model, batch, loss, micro_batches)
        for name in ("loss", "entropy", "mean_token_accuracy"):
            np.testing.assert_allclose(metrics[name], want[name], rtol=1e-5, err_msg=f"{case} {name}")
        assert metrics["tokens"] == want["num_tokens"]
        expected = {name.removeprefix("grad/"): x for name, x in want.items() if name.startswith("grad/")}
        assert gradient.keys() == expected.keys()
        for name, grad in expected.items():
            np.testing.assert_allclose(gradient[name], grad, rtol=1e-4, atol=1e-5, err_msg=f"{case} {name}")
