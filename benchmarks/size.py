"""Speed and bytes of sampling and of an update over the size of things: python -m benchmarks.size [--plot PNG]

From one middle case (width 384, 12 layers, groups of 8, rows of 128 tokens, 4 prompts, a vocabulary of 16,384), one
quantity at a time is varied: width, depth, group, length (half of a row is its prompt).  Weights are random: NF4 with
LoRA of rank 16 in the update of GRPO, a dense copy in sampling, float32, as the experiments do on a CPU.  ``sample``
and ``update`` are tokens per second, sampled ones and those that the update computes (a prompt once); the fastest of
the runs.  Bytes are what the compiled programs hold by XLA's ``memory_analysis()``.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "")  # any accelerator that is there

import jax
import jax.numpy as jnp

from benchmarks.gpu.bench import random_like, waited_seconds
from benchmarks.memory import print_table
from experiments.plan.memory import compile_ahead, memory_of
from experiments.plan.shapes import abstract_base, llama
from experiments.plan.steps import Job, Program, grpo
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.step import init_state
from lqlm.generation.decode import generate
from lqlm.generation.sampling import SamplingConfig
from lqlm.optim.chains import make_optimizer
from lqlm.types import PyTree

MIB = 2**20
HEADER = ["varied", "width", "layers", "group", "tokens", "sample tok/s", "update tok/s", "sample MiB", "update MiB"]


@dataclasses.dataclass(frozen=True)
class Size:
    """One case."""

    width: int = 384
    layers: int = 12
    group: int = 8
    tokens: int = 128
    prompts: int = 4
    vocab: int = 16384

    def job(self) -> Job:
        """The update of this size."""
        cfg = llama(self.layers, self.width, 8 * self.width // 3, self.width // 64, vocab_size=self.vocab)
        sizes: dict[str, Any] = {"batch": self.prompts, "group": self.group, "tokens": self.tokens}
        return Job(cfg, dtype="float32", adapter=LoraConfig(rank=16), remat="none", chunk=1024, **sizes)


SWEEPS: dict[str, tuple[int, ...]] = {
    "width": (192, 384, 576, 768),
    "layers": (6, 12, 18, 24),
    "group": (2, 4, 8, 16),
    "tokens": (64, 128, 256, 512),
}


@dataclasses.dataclass(frozen=True)
class Found:
    """What one case cost."""

    varied: str
    size: Size
    sample: float  # sampled tokens per second
    update: float  # tokens of the update per second
    sample_bytes: int
    update_bytes: int

    def row(self) -> list[str]:
        """A line of the table."""
        shape = [str(getattr(self.size, name)) for name in SWEEPS]
        sizes = [f"{x / MIB:.0f}" for x in (self.sample_bytes, self.update_bytes)]
        return [self.varied, *shape, f"{self.sample:.0f}", f"{self.update:.0f}", *sizes]


def measure(varied: str, size: Size, repeats: int) -> Found:
    """Compile and run both programs of a size."""
    job = size.job()
    new = job.tokens // 2
    seconds, sample_bytes = sampling(job, new, repeats)
    took, update_bytes = updating(job, repeats)
    sampled = size.prompts * size.group * new
    return Found(varied, size, sampled / seconds, (size.prompts * new + sampled) / took, sample_bytes, update_bytes)


def sampling(job: Job, new: int, repeats: int) -> tuple[float, int]:
    """Seconds of a rollout from dense weights, and its bytes."""
    ends: dict[str, Any] = {"group": job.group, "eos_ids": (-1,), "pad_id": 0}  # no token ends it
    run = functools.partial(generate, cfg=job.cfg, sampling=SamplingConfig(max_new_tokens=new), **ends)
    base = random_like(abstract_base(job.cfg, None, job.dtype))
    prompts = jnp.ones((job.batch, job.tokens - new), jnp.int32)
    arguments = (base, None, prompts, prompts > 0, jax.random.key(0))
    program = jax.jit(run).lower(*arguments).compile()
    seconds = min(waited_seconds(lambda: program(*arguments), repeats))
    return seconds, memory_of(program).device


def updating(job: Job, repeats: int) -> tuple[float, int]:
    """Seconds of an update, and its bytes."""
    program = grpo(job)
    compiled, _ = compile_ahead(program)
    base, batch = random_like(program.base), batch_of(program)
    held = [init_state(random_like(program.adapters, 50), make_optimizer(job.optim))]

    def call() -> PyTree:
        held[0], metrics = compiled(held[0], base, batch, None)
        return metrics

    return min(waited_seconds(call, repeats)), memory_of(compiled).device


def batch_of(program: Program) -> PyTree:
    """Rollouts of nothing but token 1, all of them real, with advantages of both signs."""

    def fill(x: Any) -> Any:
        if x.dtype == jnp.float32:
            return jnp.where(jnp.arange(x.size).reshape(x.shape) % 2, 1.0, -1.0)
        return jnp.ones(x.shape, x.dtype)

    return jax.tree.map(fill, program.arguments[2])


def plot(found: Sequence[Found], path: pathlib.Path) -> None:
    """Speed above, bytes below; a column for each quantity."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    names = list(dict.fromkeys(x.varied for x in found))
    for column, axes in zip(names, figure.subplots(2, len(names), squeeze=False).T):
        line = [x for x in found if x.varied == column]
        at = [getattr(x.size, column) for x in line]
        for kind in ("sample", "update"):
            axes[0].plot(at, [getattr(x, kind) for x in line], "o-", label=kind)
            axes[1].plot(at, [getattr(x, f"{kind}_bytes") / MIB for x in line], "o-", label=kind)
        axes[0].set(title=f"{column}: tokens per second", ylim=(0, None), xticks=at)
        axes[1].set(title=f"{column}: MiB", ylim=(0, None), xticks=at)
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None, middle: Size = Size(), sweeps: dict[str, tuple[int, ...]] = SWEEPS) -> None:
    """Print the table, write the picture and the JSON."""
    parser = argparse.ArgumentParser("benchmarks.size", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=pathlib.Path, help="also draw the curves into this PNG file")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures to this file")
    options = parser.parse_args(argv)
    found: list[Found] = []
    known: dict[Size, Found] = {}
    for name, values in sweeps.items():
        for size in (dataclasses.replace(middle, **{name: value}) for value in values):
            known[size] = known.get(size) or measure(name, size, options.repeats)
            found.append(dataclasses.replace(known[size], varied=name))
            print(*found[-1].row(), file=sys.stderr, flush=True)
    device = jax.devices()[0].device_kind
    print(f"GRPO, {middle.prompts} prompts, rank 16, float32, jax {jax.__version__} on {device}:")
    print_table(HEADER, [x.row() for x in found])
    if options.plot:
        plot(found, options.plot)
    if options.json:
        rows = [dataclasses.asdict(x) for x in found]
        options.json.write_text(json.dumps({"jax": jax.__version__, "device": device, "cases": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
