"""Bytes of a QLoRA step, compiled ahead of time from shapes alone: python -m benchmarks.memory

For the Llama shapes 7B to 65B: NF4 with double quantization, LoRA of rank 64 on all linear maps, one row of 512 tokens,
each layer recomputed in the backward pass, gradients clipped by their global norm, AdamW with its moments paged to the
host.  No array is made, so that the 65B step takes a few megabytes and some seconds.  Figures are those of XLA's
``memory_analysis()``; on the CPU backend they are the same on every machine.

Adapters are in bfloat16 (as TRL casts them for QLoRA; their moments are float32 on the host) or in float32.  ``device``
is all that the device must hold: arguments + temporaries + outputs that reuse no argument.  The arguments are base,
adapters and batch; gradients and activations are temporaries; the moments are arguments on the host, listed apart.

``in transit`` bounds what the CPU backend cannot show, because its host and device are one memory: the two moments of
the largest leaf, coming in and going out.  They pass when the activations are gone, so that they add to the total only
as far as ``gradients + in transit`` exceeds the temporaries: that excess, if any, is counted into ``device``.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from benchmarks.steps import SHAPES, STEPS, Job, decode, train_optimizer
from lqlm.adapters.lora import Lora
from lqlm.optim.paged import PagedState
from lqlm.quant.qtensor import QTensor
from lqlm.trees import tree_bytes
from lqlm.types import PyTree

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Memory:
    """What one compiled program holds, in bytes."""

    arguments: int  # on the device
    temporaries: int
    outputs: int  # on the device, that reuse no argument
    host_arguments: int
    host_outputs: int
    host_temporaries: int

    @property
    def device(self) -> int:
        """Arguments, temporaries and new outputs."""
        return self.arguments + self.temporaries + self.outputs


def memory_of(compiled: jax.stages.Compiled) -> Memory:
    """Read ``memory_analysis()``.

    The CPU backend reports host and device as one.  The program's own shardings say which arguments and outputs lie on
    the host; they are taken out of the device's bytes there.
    """
    stats: Any = compiled.memory_analysis()
    host_in = _on_host(compiled.in_avals, compiled.input_shardings)
    host_out = _on_host(compiled.out_info, compiled.output_shardings)
    apart = stats.host_argument_size_in_bytes > 0 or stats.host_output_size_in_bytes > 0
    aliased = stats.alias_size_in_bytes - (0 if apart else min(host_in, host_out, stats.alias_size_in_bytes))
    return Memory(
        arguments=stats.argument_size_in_bytes - (0 if apart else host_in),
        temporaries=stats.temp_size_in_bytes,
        outputs=max(0, stats.output_size_in_bytes - (0 if apart else host_out) - aliased),
        host_arguments=stats.host_argument_size_in_bytes if apart else host_in,
        host_outputs=stats.host_output_size_in_bytes if apart else host_out,
        host_temporaries=stats.host_temp_size_in_bytes,
    )


def _on_host(shapes: PyTree, shardings: PyTree) -> int:
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return tree_bytes([x for x, sharding in pairs if sharding.memory_kind == "pinned_host"])


@dataclasses.dataclass(frozen=True)
class Report:
    """One line of the table, in bytes."""

    shape: str
    step: str
    adapter_dtype: str
    base: int
    adapters: int
    optimizer: int  # on the host
    in_transit: int
    memory: Memory
    seconds: float  # to trace and compile

    @property
    def device(self) -> int:
        """The program's device bytes, and the excess of moments in transit, see the head of this file."""
        return self.memory.device + max(0, self.adapters + self.in_transit - self.memory.temporaries)

    def row(self) -> list[str]:
        """Cells in the order of HEADER."""
        sizes = [self.base, self.adapters, self.memory.arguments, self.memory.temporaries, self.device]
        apart = [self.memory.host_arguments, self.memory.host_temporaries, self.in_transit]
        return [
            self.shape,
            self.step,
            self.adapter_dtype,
            *(f"{x / GIB:.2f}" for x in [*sizes, *apart]),
            f"{self.seconds:.0f}",
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"device": self.device}


HEADER = ["shape", "step", "adapters", "base", "LoRA", "arguments", "temporaries", "device", "host args", "host temps"]
HEADER += ["in transit", "s"]


def compile_ahead(function: Callable, arguments: tuple[PyTree, ...]) -> tuple[jax.stages.Compiled, float]:
    """The compiled program and the seconds that it took."""
    start = time.perf_counter()
    return function.lower(*arguments).compile(), time.perf_counter() - start  # type: ignore[attr-defined]


def measure(shape: str, job: Job, step: str) -> Report:
    """Compile one training step and read its memory."""
    function, arguments = STEPS[step](job, train_optimizer())
    compiled, seconds = compile_ahead(function, arguments)
    moments = nodes(arguments, PagedState)
    adapters = [x for x in nodes(arguments, Lora, PagedState) if isinstance(x, Lora)]
    largest = max(tree_bytes(leaf) for leaf in jax.tree.leaves(moments))
    base = next(x for x in arguments if isinstance(x, dict) and "embed" in x)
    return Report(
        shape=shape,
        step=step,
        adapter_dtype=job.adapter_dtype,
        base=tree_bytes(base),
        adapters=tree_bytes(adapters),
        optimizer=tree_bytes(moments),
        in_transit=4 * largest,
        memory=memory_of(compiled),
        seconds=seconds,
    )


def nodes(tree: PyTree, *kinds: type) -> list[PyTree]:
    """The nodes of these kinds, outermost first: what is inside one is not looked into."""
    return [x for x in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kinds)) if isinstance(x, kinds)]


def dense_bytes(base: PyTree) -> int:
    """Bytes that the quantized maps of a base would take in the dtype that they are dequantized into."""
    return sum(int(np.prod(q.lead)) * q.shape[0] * q.shape[1] * q.dtype.itemsize for q in nodes(base, QTensor))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    for row in [header, *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))


def decode_report(shape: str, group: int) -> dict[str, Any]:
    """Compile sampling of 64 tokens after a prompt of 512 from the 4-bit base."""
    function, arguments = decode(Job(SHAPES[shape], group=group), new_tokens=64)
    compiled, seconds = compile_ahead(function, arguments)
    memory = memory_of(compiled)
    dense = dense_bytes(arguments[0])
    print(f"\n4-bit decoding, {shape}, {group} samples, prompt 512 + 64 tokens, GiB (compiled in {seconds:.0f} s):")
    print_table(
        ["arguments", "temporaries", "device", "weights if dense"],
        [[f"{x / GIB:.2f}" for x in (memory.arguments, memory.temporaries, memory.device, dense)]],
    )
    return {"shape": shape, "group": group, "memory": dataclasses.asdict(memory), "dense": dense, "seconds": seconds}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "benchmarks.memory", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--step", choices=STEPS, default="sft", help="grpo: a prompt of 256 tokens, completions of 256")
    parser.add_argument("--group", type=int, default=4, help="completions of a prompt, for grpo and decoding")
    parser.add_argument("--adapters", nargs="+", choices=["bfloat16", "float32"], default=["bfloat16", "float32"])
    parser.add_argument("--no-decode", action="store_true", help="leave out the table of 4-bit decoding at 7B")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures, in bytes, to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, write the JSON."""
    options = parse(argv)
    reports = [
        measure(shape, Job(SHAPES[shape], adapter_dtype=dtype, group=options.group), options.step)
        for dtype in options.adapters
        for shape in options.shapes
    ]
    print(f"QLoRA training step, GiB, jax {jax.__version__} on {jax.default_backend()}:")
    print_table(HEADER, [report.row() for report in reports])
    decoding = None if options.no_decode else decode_report("7B", options.group)
    if options.json:
        found = {"jax": jax.__version__, "training": [r.as_dict() for r in reports], "decoding": decoding}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
