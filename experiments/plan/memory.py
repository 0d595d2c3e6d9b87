"""What a compiled step holds, from XLA's ``memory_analysis()``, and where its bytes go.

Steps are compiled ahead of time for the CPU backend from shapes alone: no array is made, a 65B step takes seconds, and
the figures are the same on every machine.  What that backend cannot show, because its host and device are one memory,
are moments in transit between the two; they are bounded here, see :func:`in_transit`.
"""

import dataclasses
import math
import time
from typing import Any

import jax

from experiments.plan.steps import STEPS, Job, Program
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
    """Bytes of one device's parts that lie on its host."""
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return sum(
        math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x, sharding in pairs
        if sharding.memory_kind == "pinned_host"
    )


def compile_ahead(program: Program) -> tuple[jax.stages.Compiled, float]:
    """The compiled program and the seconds that it took."""
    start = time.perf_counter()
    return program.function.lower(*program.arguments).compile(), time.perf_counter() - start


@dataclasses.dataclass(frozen=True)
class Usage:
    """What one training step holds, in bytes."""

    base: int
    adapters: int
    moments: int  # on the device and on the host
    in_transit: int
    memory: Memory
    logits: int  # of one chunk, float32
    seconds: float  # to trace and compile

    @property
    def device(self) -> int:
        """The program's device bytes, and the excess of moments in transit.

        Moments pass when the activations are gone, so that they add to the total only as far as gradients and what is
        in transit exceed the temporaries.
        """
        return self.memory.device + max(0, self.adapters + self.in_transit - self.memory.temporaries)

    @property
    def parts(self) -> dict[str, int]:
        """Where the bytes on the device go; they add up to ``device``."""
        moments = self.moments - self.memory.host_arguments
        rest = self.memory.temporaries - self.adapters
        found = {
            "base": self.base,
            "adapters": self.adapters,
            "gradients": min(self.adapters, self.memory.temporaries),
            "moments": moments,
            "logits of a chunk": max(0, min(self.logits, rest)),
            "activations, work": max(0, rest - self.logits),
            "batch": self.memory.arguments + self.memory.outputs - self.base - self.adapters - moments,
            "moments in transit": self.device - self.memory.device,
        }
        return {name: size for name, size in found.items() if size or name == "moments"}


def in_transit(job: Job, program: Program, hosted: int) -> int:
    """Bytes of hosted moments that may be on the device at once: those of one leaf (or layer) coming in and going out.

    Args:
        job: its ``optim.paging`` says how much is moved at once.
        program: of the job.
        hosted: bytes of moments on the host.
    """
    leaves = jax.tree.leaves(program.adapters)
    largest = max(leaves, key=lambda x: x.size)
    share = {"whole": 1.0, "leaf": largest.size / sum(x.size for x in leaves)}
    share["slice"] = share["leaf"] / (largest.shape[0] if largest.ndim >= 3 else 1)
    return round(2 * hosted * share[job.optim.paging]) if hosted else 0


def measure(job: Job, step: str = "sft") -> Usage:
    """Compile one training step and read its memory."""
    program = STEPS[step](job)
    compiled, seconds = compile_ahead(program)
    memory = memory_of(compiled)
    return Usage(
        base=tree_bytes(program.base),
        adapters=tree_bytes(program.adapters),
        moments=tree_bytes(program.moments),
        in_transit=in_transit(job, program, memory.host_arguments),
        memory=memory,
        logits=4 * min(job.chunk, job.batch * job.tokens) * job.cfg.vocab_size,
        seconds=seconds,
    )
