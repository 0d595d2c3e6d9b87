"""What one process with eight devices finds out, as JSON: python -m tests.sharding.program FOLDER

Everything is compared with one device of the same process.
"""

import functools
import json
import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mesh import compiled, compiled_update, make_mesh
from lqlm.adapters.configs import Ia3Config, LoraConfig
from lqlm.algorithms.grpo import GRPOBatch, GRPOConfig, grpo_objective
from lqlm.algorithms.step import init_state, make_update
from lqlm.generation.decode import generate
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.checkpoint import Checkpoints
from lqlm.models.score import completion_logprobs
from lqlm.optim.chains import OptimConfig, make_optimizer
from lqlm.quant.mixed import dense, mixed_stack, unstack
from lqlm.quant.qtensor import QTensor, QuantConfig, dequantize, quantize
from lqlm.sharding import replicated, shard, shard_batch
from tests.adapters.cases import random_adapters
from tests.tiny import pad, ragged, tiny_adapters, tiny_base, tiny_config

MESHES = ("data=8", "fsdp=8", "data=2,fsdp=2,tensor=2")
MIXED = "data=2,fsdp=2,tensor=2"
CFG = tiny_config(width=256, ffn=512, heads=4, kv_heads=2, head_dim=64, vocab_size=64, layers=4)
QUANT = QuantConfig(double_block=64)
GROUP, NEW = 2, 5


def score(adapters, base, batch, key):
    arrays = batch.prompts_BP, batch.prompt_mask_BP, batch.completions_BGC, batch.completion_mask_BGC
    return completion_logprobs(base, adapters, *arrays, CFG, chunk=32, with_entropy=True, remat="full")


def sampler():
    cfg = SamplingConfig(max_new_tokens=NEW, temperature=1.0, top_k=20)
    return functools.partial(generate, cfg=CFG, sampling=cfg, group=GROUP, eos_ids=(0,), pad_id=1)


def make_batch():
    """Prompts of 8 rows with completions."""
    prompts, mask = pad(ragged(0, [3, 6, 4, 5, 6, 2, 1, 6], CFG.vocab_size), 6, "left")
    completions, own = pad(ragged(1, [1 + n % NEW for n in range(8 * GROUP)], CFG.vocab_size), NEW, "right")
    advantages = jax.random.normal(jax.random.key(5), (8, GROUP))
    rows = (8, GROUP, NEW)
    return GRPOBatch(
        prompts, mask, completions.reshape(rows), own.reshape(rows), advantages, None, -4.0 * jnp.ones(rows)
    )


def some_mixed(base):
    """Two maps with a format for each layer."""
    layers = dict(base["layers"])
    for name in ("q_proj", "down_proj"):
        formats = [QUANT, QuantConfig("nf3"), None, QUANT]
        found = [dequantize(w) for w in unstack(layers[name])]
        layers[name] = mixed_stack([w if f is None else quantize(w, f) for w, f in zip(found, formats)])
    return {**base, "layers": layers}


def far(a, b):
    """The largest difference between two trees."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.max(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)))) for x, y in pairs)


def per_device(tree):
    """The most bytes that one device holds of a tree, and all that there are."""
    most = sum(max(s.data.nbytes for s in x.addressable_shards) for x in jax.tree.leaves(tree))
    return most, sum(x.nbytes for x in jax.tree.leaves(tree))


def same_bits(base, split):
    """Whether every quantized map is dequantized to the same bits."""
    maps = [name for name, w in base["layers"].items() if name.endswith("_proj")]
    return all(np.array_equal(dense(base["layers"][n]), dense(split["layers"][n])) for n in maps)


def dense_bytes(base):
    """Bytes of the linear maps in float32."""
    maps = [w for w in jax.tree.leaves(base, is_leaf=lambda x: isinstance(x, QTensor)) if isinstance(w, QTensor)]
    return sum(4 * math.prod((*w.lead, *w.shape)) for w in maps)


@functools.cache
def update_of(mixed):
    """Base, adapters, optimizer and the update of the tests, and what one device makes of them."""
    base = tiny_base(jax.random.key(0), CFG, QUANT)
    base["embed"] = 0.1 * base["embed"]  # logits of a few nats
    adapters = tiny_adapters(jax.random.key(1), base, rank=8)
    base = some_mixed(base) if mixed else base
    # With the usual eps, Adam's first step is the sign of each gradient, however near to zero.
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-2, eps=1e-3))
    update = make_update(grpo_objective(score, GRPOConfig(beta=0.1)), optimizer)
    state = init_state(jax.tree.map(jnp.array, adapters), optimizer)
    return base, adapters, update, state, jax.device_get(jax.jit(update)(state, base, make_batch(), None))


ADAM8 = OptimConfig(learning_rate=1e-2, eps=1e-3, optimizer="adamw8bit", paging="slice")
OTHERS = {
    "dora, 8-bit Adam by slices": (LoraConfig(rank=8, dora=True), ADAM8),
    "ia3": (Ia3Config(), OptimConfig(learning_rate=1e-2, eps=1e-3)),
}


def other(name):
    """One update of another kind of adapter, or by another optimizer, on a mesh of all axes, against one device."""
    kind, optim = OTHERS[name]
    base = tiny_base(jax.random.key(0), CFG, QUANT)
    base["embed"] = 0.1 * base["embed"]
    adapters, optimizer = random_adapters(base, kind), make_optimizer(optim)
    update, mesh = make_update(grpo_objective(score, GRPOConfig(beta=0.1)), optimizer), make_mesh(MIXED)
    state = init_state(jax.tree.map(jnp.array, adapters), optimizer)
    one, metrics_one = jax.device_get(jax.jit(update)(state, base, make_batch(), None))
    split, state = shard(mesh, base, CFG), shard(mesh, init_state(jax.tree.map(jnp.array, adapters), optimizer), CFG)
    state, metrics = compiled_update(update, mesh, state, CFG)(state, split, shard_batch(mesh, make_batch()), None)
    moved = far(one.adapters, adapters)
    return {"metrics": far(metrics, metrics_one), "adapters": far(state.adapters, one.adapters), "moved": moved}


@functools.cache
def samples_of_one():
    """Samples of one device."""
    base, adapters, *_ = update_of(False)
    batch = make_batch()
    return jax.device_get(jax.jit(sampler())(base, adapters, batch.prompts_BP, batch.prompt_mask_BP, jax.random.key(7)))


def updated(text, folder):
    """One update on a mesh, compared with one device."""
    base, _, update, state, (one, metrics_one) = update_of(text == MIXED)
    mesh = make_mesh(text)
    split, state, rows = shard(mesh, base, CFG), shard(mesh, state, CFG), shard_batch(mesh, make_batch())
    program = compiled_update(update, mesh, state, CFG).lower(state, split, rows, None).compile()
    kinds = lambda tree: [x.sharding.memory_kind for x in jax.tree.leaves(tree)]  # noqa: E731
    before = kinds(state)
    state, metrics = program(state, split, rows, None)
    gradients = lambda state: state.opt_state[-1].inner[0].mu  # noqa: E731  (0.1 of them, after one update)
    found = {
        "base": per_device(split),
        "moments": per_device(state.opt_state),
        "bits": same_bits(base, split),
        "temporaries": program.memory_analysis().temp_size_in_bytes,
        "dense": dense_bytes(base),
        "loss": [float(metrics["loss"]), float(metrics_one["loss"])],
        "metrics": far(metrics, metrics_one),
        "gradients": 10 * far(gradients(state), gradients(one)),
        "adapters": far(state.adapters, one.adapters),
        "kinds": before == kinds(state) and "pinned_host" in before,
        "u8 gathered": "u8[" in "".join(line for line in program.as_text().splitlines() if " all-gather" in line),
    }
    return found | ({"restored": restored(folder, state)} if text == MESHES[1] else {})


def sampled(text):
    """Samples on a mesh, compared with one device."""
    base, adapters, *_ = update_of(False)
    mesh, batch, one = make_mesh(text), make_batch(), samples_of_one()
    rows = shard_batch(mesh, (batch.prompts_BP, batch.prompt_mask_BP))
    arguments = shard(mesh, base, CFG), shard(mesh, adapters, CFG), *rows, jax.random.key(7)
    program = compiled(sampler(), mesh, replicated).lower(*arguments).compile()
    found = program(*arguments)
    widths = (CFG.layers, 2, GROUP, NEW - 1, 1, CFG.head_dim)  # rows of one of four, and one of two heads
    return {
        "cache": f"[{','.join(map(str, widths))}]" in program.as_text(),
        "samples": bool(np.array_equal(found.tokens_BGC, one.tokens_BGC)),
        "sampled logp": far(found.logp_BGC, one.logp_BGC),
        "tokens": int(one.mask_BGC.sum()),
    }


def restored(folder, state):
    """Whether a state of eight devices is the same on four, two of them in another way, and on one."""
    saved = Checkpoints(folder, 1)
    saved.save(3, state, {"some": "thing"})
    same = []
    for text in ("data=2,tensor=2", "fsdp=4", ""):
        mesh = make_mesh(text)
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)
        blank = blank if mesh is None else shard(mesh, blank, CFG)
        step, found, extra = saved.restore(blank)
        alike = all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True))
        where = all(x.sharding == y.sharding for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(blank)))
        same.append((step, extra) == (3, {"some": "thing"}) and alike and where)
    saved.close()
    return same


def main(folder):
    """Everything, as one line of JSON."""
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    assert jax.device_count() == 8
    found = {text: updated(text, pathlib.Path(folder)) for text in MESHES}
    for text in (MESHES[0], MESHES[2]):
        found[text] |= sampled(text)
    found |= {name: other(name) for name in OTHERS}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
