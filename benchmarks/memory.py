"""Where the bytes of a QLoRA step go, compiled ahead of time from shapes alone: python -m benchmarks.memory

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

``python -m experiments.quantize --plan`` does the same for any model, adapter and GPU.
"""

import argparse
import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from experiments.plan.memory import GIB, Usage, compile_ahead, measure, memory_of
from experiments.plan.shapes import SHAPES
from experiments.plan.steps import STEPS, Job, decode
from lqlm.adapters.configs import LoraConfig
from lqlm.optim.chains import OptimConfig
from lqlm.quant.qtensor import QTensor
from lqlm.types import PyTree

HEADER = ["shape", "step", "adapters", "base", "LoRA", "arguments", "temporaries", "device", "host args", "host temps"]
HEADER += ["in transit", "s"]
LIMITS = {"7B": 8e9, "33B": 24e9, "65B": 38 * GIB}
"""Bytes that a step of rank 64 and 512 tokens is to stay within, with adapters in bfloat16."""


def qlora(shape: str, adapter_dtype: str = "bfloat16", **settings: Any) -> Job:
    """The job of one line of the table."""
    return Job(SHAPES[shape], adapter=LoraConfig(rank=64, dtype=adapter_dtype), **settings)


def row(shape: str, step: str, dtype: str, usage: Usage) -> list[str]:
    """Cells in the order of HEADER."""
    memory = usage.memory
    sizes = [usage.base, usage.adapters, memory.arguments, memory.temporaries, usage.device]
    sizes += [memory.host_arguments, memory.host_temporaries, usage.in_transit]
    return [shape, step, dtype, *(f"{x / GIB:.2f}" for x in sizes), f"{usage.seconds:.0f}"]


def dense_bytes(base: PyTree) -> int:
    """Bytes that the quantized maps of a base would take in the dtype that they are dequantized into."""
    found = [x for x in jax.tree.leaves(base, is_leaf=is_quantized) if is_quantized(x)]
    return sum(int(np.prod(q.lead)) * q.shape[0] * q.shape[1] * q.dtype.itemsize for q in found)


def is_quantized(x: Any) -> bool:
    """Whether a node of a tree is a quantized weight."""
    return isinstance(x, QTensor)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    for line in [header, *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))


def decode_report(shape: str, group: int) -> dict[str, Any]:
    """Compile sampling of 64 tokens after a prompt of 512 from the 4-bit base."""
    program = decode(qlora(shape, group=group), new_tokens=64)
    compiled, seconds = compile_ahead(program)
    memory = memory_of(compiled)
    dense = dense_bytes(program.base)
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
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["7B", "13B", "33B", "65B"])
    parser.add_argument("--step", choices=STEPS, default="sft", help="grpo: a prompt of 256 tokens, completions of 256")
    parser.add_argument("--group", type=int, default=4, help="completions of a prompt, for grpo and decoding")
    parser.add_argument("--adapters", nargs="+", choices=["bfloat16", "float32"], default=["bfloat16", "float32"])
    parser.add_argument("--optimizer", choices=["adamw", "adamw8bit"], default="adamw")
    parser.add_argument("--paging", choices=["none", "whole", "leaf", "slice"], default="leaf")
    parser.add_argument("--no-decode", action="store_true", help="leave out the table of 4-bit decoding at 7B")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures, in bytes, to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, write the JSON."""
    options = parse(argv)
    optim = OptimConfig(learning_rate=2e-4, optimizer=options.optimizer, paging=options.paging)
    rows, training = [], []
    for dtype in options.adapters:
        for shape in options.shapes:
            usage = measure(qlora(shape, dtype, group=options.group, optim=optim), options.step)
            rows.append(row(shape, options.step, dtype, usage))
            facts = {"shape": shape, "step": options.step, "adapter_dtype": dtype}
            training.append(facts | dataclasses.asdict(usage) | {"device": usage.device, "parts": usage.parts})
    print(f"QLoRA training step, GiB, jax {jax.__version__} on {jax.default_backend()}:")
    print_table(HEADER, rows)
    decoding = None if options.no_decode else decode_report("7B", options.group)
    if options.json:
        found = {"jax": jax.__version__, "training": training, "decoding": decoding}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
