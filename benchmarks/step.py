"""One step of GRPO on this machine, by phase, side by side with TRL where it is installed.

    python -m benchmarks.step [--prompt 64] [--new 64] [--group 8] [--prompts 1] [--steps 5] [--json PATH]

SmolLM2-135M in NF4 with double quantization, LoRA of rank 16 on all linear maps, no reference policy, every completion
of full length.  In the environment of the peers (``make parity``) TRL and lqlm take turns step by step in one process,
once for each way that TRL can compute: float32 and bfloat16, with checkpointing (its default) and without.  lqlm
samples from a dense copy with the adapters merged in, made in every step, and computes the prompt of a group once.

``limit`` is what the machine allows: the matrix products of the update at the rate of a large product of the same
dtype, measured here in the same run, and for decoding the bytes of the weights at the rate at which memory is read.
"""

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import trl_step
from benchmarks.memory import print_table
from benchmarks.trl_step import Seconds, Shape, Variant
from lqlm.adapters.configs import LINEARS, LoraConfig
from lqlm.adapters.init import init_adapters
from lqlm.adapters.merge import merge
from lqlm.algorithms.advantages import group_advantages
from lqlm.algorithms.grpo import GRPOBatch, GRPOConfig, grpo_objective
from lqlm.algorithms.step import init_state, make_update
from lqlm.generation.decode import Completions, generate
from lqlm.generation.sampling import SamplingConfig
from lqlm.io.load import DEFAULT_MODEL, LoadedModel, load_model
from lqlm.models.decoding import for_decoding
from lqlm.models.products import with_products
from lqlm.models.remat import Remat
from lqlm.models.score import completion_logprobs
from lqlm.optim.chains import OptimConfig, make_optimizer
from lqlm.quant.qtensor import QuantConfig

PHASES = ("generate", "update", "step")
MIXED = "mixed"
VARIANTS = tuple(Variant(dtype, again) for dtype in ("float32", "bfloat16") for again in (True, False))


class OwnStep:
    """lqlm's step, called again and again; it keeps the seconds of each phase."""

    def __init__(self, model: LoadedModel, shape: Shape, remat: Remat) -> None:
        cfg, self.shape = model.config, shape
        self.laps: list[Seconds] = []
        self.base, adapters = init_adapters(jax.random.key(0), model.base, LoraConfig(rank=16, alpha=32.0))
        optimizer = make_optimizer(OptimConfig(learning_rate=1e-5))
        self.state = init_state(adapters, optimizer)

        def score(adapters: Any, base: Any, batch: GRPOBatch, key: Any) -> Any:
            rows = (batch.prompts_BP, batch.prompt_mask_BP, batch.completions_BGC, batch.completion_mask_BGC)
            return completion_logprobs(base, adapters, *rows, cfg, with_entropy=True, remat=remat)

        self.update = jax.jit(make_update(grpo_objective(score, GRPOConfig(beta=0.0)), optimizer), donate_argnums=0)
        self.copy = jax.jit(lambda base, adapters: for_decoding(merge(base, adapters), shape.prompts * shape.group))
        sampling = SamplingConfig(max_new_tokens=shape.new)

        def sample(base: Any, prompts: Any, mask: Any, key: Any) -> Completions:
            never = (-1,)  # no token ends a completion
            return generate(base, None, prompts, mask, key, cfg, sampling, group=shape.group, eos_ids=never, pad_id=0)

        self.sample = jax.jit(sample)
        token = model.tokenizer.encode(" the")[-1]
        self.prompts = jnp.full((shape.prompts, shape.prompt), token, jnp.int32)

    def __call__(self) -> None:
        """One step: merge, sample, advantages of made-up rewards, update."""
        start, number = time.perf_counter(), len(self.laps)
        read = {name: self.base[name] for name in ("layers", "head") if name in self.base}
        dense = {**self.base, **self.copy(read, self.state.adapters)}
        mask = jnp.ones(self.prompts.shape, bool)
        key = jax.random.key(number)
        done = jax.block_until_ready(self.sample(dense, self.prompts, mask, key))
        generated = time.perf_counter()
        rewards = jnp.tile(jnp.arange(self.shape.group, dtype=jnp.float32) % 3, (self.shape.prompts, 1))
        batch = GRPOBatch(self.prompts, mask, done.tokens_BGC, done.mask_BGC, group_advantages(rewards))
        self.state, _ = jax.block_until_ready(self.update(self.state, self.base, batch, None))
        end = time.perf_counter()
        self.laps.append({"generate": generated - start, "update": end - generated, "step": end - start})


def linear_parameters(model: LoadedModel) -> int:
    """Numbers in the matrices of the layers."""
    return model.config.layers * sum(math.prod(model.base["layers"][name].shape[-2:]) for name in LINEARS)


def limits(model: LoadedModel, shape: Shape, flops: float, bandwidth: float, size: int) -> Seconds:
    """Seconds that no program of these products and bytes can beat on this machine.

    The update multiplies forward and with respect to its inputs, 4 operations for each number and token of the layers,
    and 6 for the head, whose logits are computed again, over the completions only.  Decoding reads every number once a
    token, in ``size`` bytes.
    """
    cfg, linears = model.config, linear_parameters(model)
    head, own = cfg.vocab_size * cfg.width, shape.prompts * shape.group * shape.new
    update = 4 * linears * (shape.prompts * shape.prompt + own) + 6 * head * own
    prefill = 2 * linears * shape.prompts * shape.prompt
    decode = size * (linears + head) * shape.new / bandwidth
    return {"generate": prefill / flops + decode, "update": update / flops}


def product_rate(dtype: str, size: int = 2048, repeats: int = 5) -> float:
    """Floating-point operations per second of a large product with sums in float32."""
    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    return 2 * size**3 / _fastest(lambda: product(x, x), repeats)


def read_rate(size: int = 2**28, repeats: int = 5) -> float:
    """Bytes per second of a sum over an array that no cache holds."""
    x = jnp.ones((size // 4,), jnp.float32)
    total = jax.jit(jnp.sum)
    return size / _fastest(lambda: total(x), repeats)


def _fastest(run: Callable[[], Any], repeats: int) -> float:
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return min(times)


def compare(options: argparse.Namespace) -> dict[str, list[Seconds]]:
    """Laps of every side; TRL's variants one after the other, each in turns with lqlm's."""
    shape = Shape(options.prompts, options.group, options.prompt, options.new)
    own = {dtype: OwnStep(_model(dtype), shape, options.remat) for dtype in options.own}

    def turn() -> None:
        for step in own.values():
            step()

    turn()  # compiles
    for step in own.values():
        step.laps.clear()
    found: dict[str, list[Seconds]] = {}
    if importlib.util.find_spec("trl") and not options.alone:
        for variant in VARIANTS:
            if variant.name in options.peer or not options.peer:
                found[variant.name] = trl_step.run(_model(variant.dtype), shape, variant, options.steps, turn)[1:]
    else:
        for _ in range(options.steps):
            turn()
    return {f"lqlm {dtype}": step.laps for dtype, step in own.items()} | found


def _model(dtype: str) -> LoadedModel:
    """The default model; "mixed" is float32 with products in bfloat16."""
    model = load_model(DEFAULT_MODEL, QuantConfig(), "float32" if dtype == MIXED else dtype)
    return model if dtype != MIXED else dataclasses.replace(model, base=with_products(model.base, "bfloat16"))


def rows(found: dict[str, list[Seconds]]) -> list[list[str]]:
    """Minimum and median of every phase, in seconds."""
    table = []
    for name, laps in found.items():
        cells = [f"{min(lap[p] for lap in laps):.2f} / {np.median([lap[p] for lap in laps]):.2f}" for p in PHASES]
        table.append([name, *cells])
    return table


def ratios(found: dict[str, list[Seconds]]) -> list[list[str]]:
    """How much faster each row of lqlm is than each of TRL, by the minimum of every phase."""
    best = {name: {p: min(lap[p] for lap in laps) for p in PHASES} for name, laps in found.items()}
    pairs = [(a, b) for a in best for b in best if a.startswith("lqlm") and not b.startswith("lqlm")]
    return [[f"{a} : {b}", *(f"{best[b][p] / best[a][p]:.2f}" for p in PHASES)] for a, b in pairs]


def main(argv: Sequence[str] | None = None) -> None:
    """Time, print, and write the JSON."""
    parser = argparse.ArgumentParser("benchmarks.step", description=__doc__)
    for name, default in dataclasses.asdict(Shape()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=5, help="of each side; TRL's first is not counted")
    parser.add_argument(
        "--own", nargs="+", default=["float32", MIXED], help="dtypes of lqlm; mixed: products only in bfloat16"
    )
    parser.add_argument("--peer", nargs="*", default=[], choices=[v.name for v in VARIANTS], help="none: all")
    parser.add_argument("--remat", default="none", help="of lqlm's update")
    parser.add_argument("--alone", action="store_true", help="without TRL")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args(argv)
    found = compare(options)
    print_table(["seconds, minimum / median", *PHASES], rows(found))
    print_table(["ratio of the minima", *PHASES], ratios(found))
    shape = Shape(options.prompts, options.group, options.prompt, options.new)
    flops, bandwidth = {d: product_rate("bfloat16" if d == MIXED else d) for d in options.own}, read_rate()
    bounds = {d: limits(_model(d), shape, flops[d], bandwidth, 4 if d == "float32" else 2) for d in options.own}
    print_table(["limit", "generate", "update"], [[d, *(f"{s:.2f}" for s in b.values())] for d, b in bounds.items()])
    if options.json:
        facts = {"flops": flops, "bandwidth": bandwidth, "limits": bounds}
        options.json.write_text(json.dumps({"laps": found, **facts}, indent=2) + "\n")


if __name__ == "__main__":
    main()
