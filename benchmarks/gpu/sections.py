"""The sections in order of weight, and the process that runs some of them."""

import dataclasses
import functools
import pathlib
import time
import traceback
from collections.abc import Callable, Sequence

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.checks import checks
from benchmarks.gpu.kernels import bitsandbytes, facts, kernels, quantization, scans, tiles
from benchmarks.gpu.models import decode, paging, peak, plan, update


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the benchmark.

    Attributes:
        name: in the JSON.
        run: measures and reports.
        seconds: after which it begins no further case, of 8 minutes in all.
        kind: sections of kind "" share a process; those of another kind have one of their own.  ``peak``: as much of
            the card as there is.  ``peer``: another library needs a part.  ``cpu``: without the card.
    """

    name: str
    run: Callable[[Bench], None]
    seconds: float
    kind: str = ""


SECTIONS = (
    Section("facts", facts, 20),
    Section("checks", checks, 50),
    Section("kernels", kernels, 80),
    Section("decode", decode, 70),
    Section("update", update, 70),
    Section("peak 65B", functools.partial(peak, "65B"), 30, "peak"),
    Section("peak 7B", functools.partial(peak, "7B"), 20, "peak"),
    Section("paging", paging, 40),
    Section("scans", scans, 20),
    Section("tiles", tiles, 30),
    Section("quantization", quantization, 10),
    Section("bitsandbytes", bitsandbytes, 20, "peer"),
    Section("plan", plan, 20, "cpu"),
    Section("peak 33B", functools.partial(peak, "33B"), 25, "peak"),
    Section("peak 13B", functools.partial(peak, "13B"), 20, "peak"),
)


def work(names: Sequence[str], path: pathlib.Path, end: float, scale: float, rehearse: bool) -> None:
    """Run sections one after the other, appending events to ``path``.

    Args:
        names: of sections.
        path: of JSON lines: ``start``, then each ``row``, then ``end``.
        end: seconds of ``time.time()`` at which all must be over.
        scale: of the sections' seconds.
        rehearse: see :class:`Bench`.
    """
    for section in (s for s in SECTIONS if s.name in names):
        now = time.time()
        bench = Bench(section.name, path, end if rehearse else min(end, now + scale * section.seconds), rehearse)
        bench.write("start", now)
        try:
            section.run(bench)
            error = None
        except Exception:
            error = traceback.format_exc()[-2000:]
        bench.write("end", {"seconds": time.time() - now, "error": error})
