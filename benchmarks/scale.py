"""A step on many devices, on paper: bytes per device, collectives per step, expected speed: python -m benchmarks.scale

One update of a QLoRA model (NF4 with double quantization, LoRA of rank 64) is compiled ahead of time from shapes alone
for a mesh of virtual CPU devices, by the rules and the functions that a run uses.  No array is made.

``device`` is what XLA's ``memory_analysis()`` says that each device must hold; moments that are paged to the host are
counted apart.  Collectives are those of the compiled program, each with the bytes of its result on one device and the
number of times that its loops run it.  Those of one number are counted apart: the CPU backend makes them to keep the
order of computations, which an accelerator's compiler is told without them.

Expected seconds of a step, for a device of F FLOP/s, H bytes/s of memory and I bytes/s of interconnect:

    compute  = FLOPs / (devices F u),   FLOPs = 2 P tokens for the forward pass, 2 P for that which is computed again,
                                        2 P for the gradient of the activations (the base has none), u = --utilization
    memory   = bytes that every device must read: 3 x its gathered weights' codes, and their dequantized form written
               and read, 3 x (1/2 + 2 + 2) bytes x P / tensor, over H
    network  = bytes of the collectives x (n - 1) / n, twice for an all-reduce, over I; over --slow where n spans hosts
    step     = max(compute + memory, network) where transfers hide behind the products, their sum where nothing does

These are limits and no measurement; nothing here has run on such a machine.
"""

import argparse
import collections
import dataclasses
import json
import math
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from benchmarks.memory import print_table
from experiments.mesh import compiled_update, make_mesh
from experiments.plan.memory import GIB, Memory, memory_of
from experiments.plan.shapes import SHAPES, llama
from experiments.plan.steps import STEPS, Job, Program
from lqlm.adapters.configs import LoraConfig
from lqlm.models.config import ModelConfig
from lqlm.sharding import batch_shardings, shardings
from lqlm.trees import tree_bytes
from lqlm.types import PyTree

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
LLAMA70B = dataclasses.replace(llama(80, 8192, 28672, 64, 128256), kv_heads=8, rope_theta=500000.0, max_positions=8192)
SIZES = {**SHAPES, "70B": LLAMA70B}
WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "f64": 8}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program: what it makes on each device, how often, and among how many."""

    kind: str
    bytes: int
    times: int
    group: int


def collectives(text: str) -> list[Collective]:
    """Those of a compiled program, with the trips of the loops around them multiplied out."""
    bodies = _computations(text)
    trips: dict[str, int] = collections.defaultdict(int)
    _count(next(name for name in bodies if name.startswith("ENTRY ")), 1, bodies, trips)
    return [found for name, lines in bodies.items() for line in lines for found in _found(line, trips[name])]


def _computations(text: str) -> dict[str, list[str]]:
    bodies: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        opened = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if opened:
            name = (opened[1] or "") + opened[2]
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    return bodies


def _count(name: str, times: int, bodies: dict[str, list[str]], trips: dict[str, int]) -> None:
    trips[name] += times
    for line in bodies.get(name, ()):
        trip = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
        inner = int(trip[1]) if trip and " while(" in line else 1
        for called in re.findall(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)", line):
            if " all-reduce" not in line and " reduce" not in line:
                _count(called, times * inner, bodies, trips)
        for branches in re.findall(r"branch_computations=\{([^}]*)\}", line):
            for called in branches.split(","):
                _count(called.strip().lstrip("%"), times, bodies, trips)


def _found(line: str, times: int) -> list[Collective]:
    match = re.search(rf" = (.*?) ({'|'.join(KINDS)})(?:-start)?\(", line)
    if not match or not times:
        return []
    size = sum(WIDTHS[t] * math.prod(map(int, dims.split(","))) if dims else WIDTHS[t] for t, dims in _arrays(match[1]))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    group = int(iota[2]) if iota else len(listed[1].split(",")) if listed else 2
    return [Collective(match[2], size, times, group)]


def _arrays(text: str) -> list[tuple[str, str]]:
    return re.findall(rf"\b({'|'.join(WIDTHS)})\[([\d,]*)\]", text)


def compile_on(job: Job, step: str, mesh: Mesh) -> tuple[Any, dict[str, int], float]:
    """The program of one update, bytes of base, adapters and moments in all, and the seconds that it took."""
    one: Program = STEPS[step](job)
    state, base, batch, key = one.arguments
    parts = {"base": one.base, "adapters": one.adapters, "moments": one.moments}
    start = time.perf_counter()
    arguments = [_placed(x, shardings(mesh, x, job.cfg)) for x in (state, base)]
    arguments.append(_placed(batch, batch_shardings(mesh, batch)))
    update: Any = compiled_update(one.function.__wrapped__, mesh, arguments[0], job.cfg)
    program = update.lower(*arguments, key).compile()
    return program, {name: tree_bytes(x) for name, x in parts.items()}, time.perf_counter() - start


def _placed(tree: PyTree, where: PyTree) -> PyTree:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, where)


def parameters(cfg: ModelConfig) -> int:
    """Weights that a token is multiplied with: the linear maps and the head."""
    attention = 2 * cfg.width * cfg.head_dim * (cfg.heads + cfg.kv_heads)
    return cfg.layers * (attention + 3 * cfg.width * cfg.ffn) + cfg.vocab_size * cfg.width


def seconds(options: argparse.Namespace, cfg: ModelConfig, mesh: Mesh, found: list[Collective], tokens: int) -> dict:
    """The parts of a step by the formula above."""
    count, tensor = math.prod(mesh.shape.values()), dict(mesh.shape)["tensor"]
    weights = parameters(cfg)

    def network(c: Collective) -> float:
        speed = options.interconnect if c.group <= options.per_host else options.slow
        return c.times * c.bytes * (c.group - 1) / c.group * (2 if c.kind == "all-reduce" else 1) / (speed * 1e9)

    compute = 3 * 2 * weights * tokens / (count * options.flops * 1e12 * options.utilization)
    memory = 3 * (0.5 + 2 + 2) * weights / tensor / (options.hbm * 1e9)
    traffic = sum(map(network, found))
    return {
        "compute": compute,
        "memory": memory,
        "network": traffic,
        "hidden": max(compute + memory, traffic),
        "serial": compute + memory + traffic,
        "tokens_per_second": tokens / max(compute + memory, traffic),
        "tokens_per_second_serial": tokens / (compute + memory + traffic),
    }


def by_kind(found: list[Collective]) -> dict[str, dict[str, int]]:
    """Count and bytes of a step for each kind; those of a few numbers apart."""
    table: dict[str, dict[str, int]] = {}
    for c in found:
        row = table.setdefault(c.kind if c.bytes > 64 else "single numbers", {"programmed": 0, "run": 0, "bytes": 0})
        row["programmed"] += 1
        row["run"] += c.times
        row["bytes"] += c.times * c.bytes
    return table


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "benchmarks.scale", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SIZES, default="70B")
    parser.add_argument("--step", choices=STEPS, default="sft")
    parser.add_argument("--mesh", default="data=4,fsdp=8,tensor=8", help="as in a run's config")
    parser.add_argument("--devices", type=int, default=256, help="virtual devices")
    parser.add_argument("--batch", type=int, default=256, help="rows (sft) or prompts (grpo) of a step")
    parser.add_argument("--micro-batches", type=int, default=1, help="parts of the batch, one after the other")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a row; of prompt and completion together")
    parser.add_argument("--group", type=int, default=8, help="completions of a prompt (grpo)")
    parser.add_argument("--flops", type=float, default=989, help="TFLOP/s of a device (H100: bf16, dense)")
    parser.add_argument("--hbm", type=float, default=3350, help="GB/s of its memory")
    parser.add_argument("--interconnect", type=float, default=450, help="GB/s each way within a host")
    parser.add_argument("--slow", type=float, default=50, help="GB/s each way of a device between hosts")
    parser.add_argument(
        "--per-host", type=int, default=8, help="devices of a host, to which groups up to that size fit"
    )
    parser.add_argument("--utilization", type=float, default=0.5, help="of the peak in products")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures, in bytes, to this file")
    return parser.parse_args(argv)


def report(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one plan."""
    mesh, cfg = make_mesh(options.mesh), SIZES[options.shape]
    assert mesh is not None
    adapter = LoraConfig(rank=64, dtype="bfloat16")
    sizes = {"batch": options.batch, "tokens": options.length, "group": options.group}
    job = Job(cfg, adapter=adapter, micro_batches=options.micro_batches, chunk=1024, **sizes)
    program, parts, took = compile_on(job, options.step, mesh)
    memory: Memory = memory_of(program)
    found = collectives(program.as_text())
    per_row = options.length if options.step == "sft" else options.length // 2 * (1 + options.group)
    return {
        "shape": options.shape,
        "step": options.step,
        "mesh": dict(mesh.shape),
        "tokens": options.batch * per_row,
        "micro_batches": options.micro_batches,
        "jax": jax.__version__,
        "compile_seconds": took,
        "whole": parts,
        "memory": dataclasses.asdict(memory) | {"device": memory.device},
        "collectives": by_kind(found),
        "seconds": seconds(options, cfg, mesh, found, options.batch * per_row),
        "assumed": {
            k: getattr(options, k) for k in ("flops", "hbm", "interconnect", "slow", "per_host", "utilization")
        },
    }


def show(found: dict[str, Any]) -> None:
    """The plan for a person."""
    mesh = ", ".join(f"{axis} {n}" for axis, n in found["mesh"].items())
    print(
        f"{found['shape']}, {found['step']}, {found['tokens']} tokens a step on {mesh}; jax {found['jax']}, compiled in"
    )
    print(f"{found['compile_seconds']:.0f} s.  GiB of one device (and of the whole model):")
    memory, whole = found["memory"], found["whole"]
    names = ["arguments", "temporaries", "outputs", "device", "host_arguments"]
    print_table(
        [*names, *(f"whole {k}" for k in whole)],
        [[f"{memory[n] / GIB:.2f}" for n in names] + [f"{x / GIB:.2f}" for x in whole.values()]],
    )
    print("\ncollectives of a step, on each device:")
    rows = [
        [k, *(str(r[c]) for c in ("programmed", "run")), f"{r['bytes'] / GIB:.2f}"]
        for k, r in found["collectives"].items()
    ]
    print_table(["kind", "in the program", "run", "GiB"], rows)
    s = found["seconds"]
    print("\nexpected seconds, see --help for the formula and the device:")
    print_table(list(s), [[f"{x:.3g}" if x < 1000 else f"{x:.0f}" for x in s.values()]])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, write the JSON."""
    options = parse(argv)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)  # before anything is computed
    found = report(options)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
