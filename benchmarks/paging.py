"""Step time and device bytes against the share of the moments that is kept on the host: python -m benchmarks.paging

A QLoRA step of supervised fine-tuning at the shape of SmolLM2-135M (random weights, NF4, LoRA of rank 16 on all linear
maps), for AdamW with moments in 32 and in 8 bits, paged whole, leaf by leaf and layer by layer.  ``step`` is all of it,
``update`` the optimizer alone: minimum and median of the runs, in milliseconds.  ``device`` is what the step holds on
the device by XLA's ``memory_analysis()``, with the moments in transit (see benchmarks.memory); ``host`` what it keeps
in host memory.

The second table compiles the 65B step of benchmarks.memory from shapes alone: what is in transit, and the seconds to
trace and compile.

On the CPU backend host and device are one memory, and no byte moves: the times there bound the bookkeeping (order,
loops, slices) that paging adds, and say nothing about a bus.  On an accelerator the same command times the transfers.
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, get_args

os.environ.setdefault("JAX_PLATFORMS", "")  # any accelerator that is there

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.memory import print_table, qlora
from experiments.plan.memory import GIB, Usage, compile_ahead, in_transit, measure, memory_of
from experiments.plan.shapes import llama
from experiments.plan.steps import Job, Program, sft
from lqlm.adapters.configs import LoraConfig
from lqlm.algorithms.sft import SFTBatch
from lqlm.algorithms.step import init_state
from lqlm.models.config import ModelConfig
from lqlm.optim.chains import OptimConfig, make_optimizer
from lqlm.optim.paged import Mode
from lqlm.trees import commit, tree_bytes
from lqlm.types import PyTree

SMOLLM2 = dataclasses.replace(llama(30, 576, 1536, 9, vocab_size=49152), kv_heads=3, tied=True)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
OPTIMIZERS = ("adamw", "adamw8bit")
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the table."""

    optimizer: str
    paging: str
    offload: float
    step_ms: tuple[float, float]  # minimum and median
    update_ms: tuple[float, float]
    device: int  # bytes
    in_transit: int
    host: int
    seconds: float  # to trace and compile

    def row(self) -> list[str]:
        """Cells in the order of HEADER."""
        times = [f"{x:.1f}" for x in (*self.step_ms, *self.update_ms)]
        sizes = [f"{x / MIB:.1f}" for x in (self.device, self.in_transit, self.host)]
        return [self.optimizer, self.paging, f"{self.offload:.2f}", *times, *sizes, f"{self.seconds:.1f}"]


HEADER = ["optimizer", "paging", "share", "step min", "median", "update min", "median", "device MiB", "transit MiB"]
HEADER += ["host MiB", "compile s"]


def random_tree(tree: PyTree, seed: int = 0) -> PyTree:
    """Random arrays of these shapes: codes of all values, small positive numbers."""
    rng = np.random.default_rng(seed)

    def fill(x: Any) -> Any:
        if x.dtype == jnp.uint8:
            return jnp.asarray(rng.integers(0, 256, x.shape, np.uint8))
        return jnp.asarray(np.abs(0.02 * rng.standard_normal(x.shape, np.float32)), x.dtype)

    return commit(jax.tree.map(fill, tree))


def random_batch(job: Job) -> SFTBatch:
    """Rows of random tokens, all of them targets."""
    shape = (job.batch, job.tokens)
    tokens = np.random.default_rng(1).integers(0, job.cfg.vocab_size, shape, np.int32)
    return commit(SFTBatch(jnp.asarray(tokens), jnp.ones(shape, jnp.int32), jnp.ones(shape, bool)))


def milliseconds(call: Callable[[], PyTree], repeats: int) -> tuple[float, float]:
    """Minimum and median after one call that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(1e3 * (time.perf_counter() - start))
    return min(times[1:]), statistics.median(times[1:])


def usage_of(job: Job, program: Program, compiled: jax.stages.Compiled, seconds: float) -> Usage:
    """What a compiled step holds."""
    memory = memory_of(compiled)
    return Usage(
        base=tree_bytes(program.base),
        adapters=tree_bytes(program.adapters),
        moments=tree_bytes(program.moments),
        in_transit=in_transit(job, program, memory.host_arguments),
        memory=memory,
        logits=0,
        seconds=seconds,
    )


def time_step(program: Program, compiled: jax.stages.Compiled, base: PyTree, job: Job, repeats: int) -> Any:
    """Times of the full step; its state is donated and handed on."""
    batch = random_batch(job)
    state = [init_state(random_tree(program.adapters), make_optimizer(job.optim))]

    def call() -> PyTree:
        state[0], metrics = compiled(state[0], base, batch, None)
        return state[0], metrics

    return milliseconds(call, repeats)


def time_update(program: Program, job: Job, repeats: int) -> Any:
    """Times of the optimizer and the addition to the adapters."""
    optimizer = make_optimizer(job.optim)

    def step(adapters: PyTree, state: PyTree, grads: PyTree) -> tuple[PyTree, PyTree]:
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            updates, state = optimizer.update(grads, state, adapters, finite=jnp.bool_(True))
            return optax.apply_updates(adapters, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1))
    adapters, grads = (random_tree(program.adapters, seed) for seed in (0, 1))
    held = [(adapters, commit(optimizer.init(adapters)))]

    def call() -> PyTree:
        held[0] = jitted(*held[0], grads)
        return held[0]

    return milliseconds(call, repeats)


def run_case(base: PyTree, job: Job, repeats: int) -> Case:
    """Compile and time one line."""
    program = sft(job)
    compiled, seconds = compile_ahead(program)
    usage = usage_of(job, program, compiled, seconds)
    return Case(
        optimizer=job.optim.optimizer,
        paging=job.optim.paging,
        offload=0.0 if job.optim.paging == "none" else job.optim.offload,
        step_ms=time_step(program, compiled, base, job, repeats),
        update_ms=time_update(program, job, repeats),
        device=usage.device,
        in_transit=usage.in_transit,
        host=usage.memory.host_arguments,
        seconds=seconds,
    )


def optims(optimizers: Sequence[str], modes: Sequence[str], shares: Sequence[float]) -> list[OptimConfig]:
    """Not paged, then each mode at each share."""
    pagings = [("none", 1.0), *itertools.product(modes, shares)]
    return [
        OptimConfig(learning_rate=2e-4, optimizer=optimizer, paging=paging, offload=share)  # type: ignore[arg-type]
        for optimizer, (paging, share) in itertools.product(optimizers, pagings)
    ]


def largest(shape: str, optimizers: Sequence[str]) -> list[dict[str, Any]]:
    """The 65B step of benchmarks.memory, compiled for each way of paging."""
    found = []
    for optim in optims(optimizers, ("leaf", "slice"), (1.0,)):
        usage = measure(qlora(shape, optim=optim))
        facts = {"shape": shape, "optimizer": optim.optimizer, "paging": optim.paging, "seconds": usage.seconds}
        sizes = {"device": usage.device, "temporaries": usage.memory.temporaries, "in_transit": usage.in_transit}
        found.append(facts | sizes | {"host": usage.memory.host_arguments, "moments": usage.moments})
    return found


def print_largest(found: Sequence[dict[str, Any]]) -> None:
    """The second table."""
    header = ["shape", "optimizer", "paging", "device GiB", "temporaries", "in transit", "host", "compile s"]
    rows = [
        [x["shape"], x["optimizer"], x["paging"]]
        + [f"{x[name] / GIB:.3f}" for name in ("device", "temporaries", "in_transit", "host")]
        + [f"{x['seconds']:.0f}"]
        for x in found
    ]
    print_table(header, rows)


def plot(cases: Sequence[Case], path: pathlib.Path) -> None:
    """Two panels: median step time and device bytes, against the share on the host."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, title in zip(figure.subplots(1, 2), ("step, median ms", "device, MiB"), strict=True):
        for name in sorted({(c.optimizer, c.paging) for c in cases}):
            line = [c for c in cases if (c.optimizer, c.paging) == name]
            y = [c.step_ms[1] if title.startswith("step") else c.device / MIB for c in line]
            axes.plot(
                [c.offload for c in line], y, "--" if name[0] == "adamw8bit" else "-", marker="o", label=", ".join(name)
            )
        axes.set(xlabel="share of the moments' bytes on the host", title=title, ylim=(0, None))
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "benchmarks.paging", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--modes", nargs="+", choices=get_args(Mode), default=list(get_args(Mode)))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--tokens", type=int, default=128, help="of the one row")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-65b", action="store_true", help="leave out the second table")
    parser.add_argument("--plot", type=pathlib.Path, help="also draw the curves into this PNG file")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, cfg: ModelConfig = SMOLLM2, shape: str = "65B") -> None:
    """Print the tables, write the picture and the JSON."""
    options = parse(argv)
    job = Job(cfg, adapter=LoraConfig(rank=16, dtype="bfloat16"), tokens=options.tokens)
    base = random_tree(sft(job).base)
    chosen = optims(options.optimizers, options.modes, options.shares)
    cases = []
    for optim in chosen:
        cases.append(run_case(base, dataclasses.replace(job, optim=optim), options.repeats))
        print(*cases[-1].row(), file=sys.stderr, flush=True)
    device = jax.devices()[0].device_kind
    print(f"QLoRA step, {options.tokens} tokens, rank 16, ms and MiB, jax {jax.__version__} on {device}:")
    print_table(HEADER, [case.row() for case in cases])
    big = [] if options.no_65b else largest(shape, options.optimizers)
    if big:
        print("\nCompiled from shapes alone, 512 tokens, rank 64, bfloat16 adapters:")
        print_largest(big)
    if options.plot:
        plot(cases, options.plot)
    if options.json:
        found = {"jax": jax.__version__, "device": device, "cases": [dataclasses.asdict(c) for c in cases], "65B": big}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
