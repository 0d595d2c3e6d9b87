"""Every measurement on a GPU in one command: python -m benchmarks.gpu [--out gpu.json] [--minutes 8]

First what must be right (the kernel against its definition, paged against unpaged, the sampler against the trainer),
then the fused 4-bit product beside a bf16 product, dequantize-then-matmul and bitsandbytes (where it is installed) at
the shapes of 7B and 65B; tokens per second of decoding and of updates; what paging costs; the peak bytes of 7B to 65B
beside their plan.  Shares are of what this very card was measured to reach.  Models have random weights, made in 4 bits
on the card.

The JSON file is written as it goes: a section that fails is recorded with its error, one for which no time is left as
skipped, and the others go on.  Without a GPU the command says so.  ``--rehearse`` runs every line on the CPU, tiny.
"""

import argparse
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "")  # any accelerator that is there

from benchmarks.gpu.driver import Found, drive
from benchmarks.gpu.sections import SECTIONS, work

ASK = "import jax; print(jax.default_backend())"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "benchmarks.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="+", choices=[s.name for s in SECTIONS], help="these sections only")
    parser.add_argument("--rehearse", action="store_true", help="every section on the CPU, with tiny shapes")
    for name in ("worker", "events", "end", "scale"):  # how the command starts its own processes
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def backend() -> str:
    """The platform that jax finds; asked in another process, because this one must not hold the card."""
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True)
    return asked.stdout.strip()


def main(argv: Sequence[str] | None = None) -> None:
    """Run, write the JSON, print a summary."""
    options = parse(argv)
    if options.worker:
        names, events = options.worker.split(","), pathlib.Path(options.events)
        work(names, events, float(options.end), float(options.scale), options.rehearse)
        return
    if not options.rehearse and backend() != "gpu":
        print("benchmarks.gpu: jax finds no GPU here; nothing was measured.")
        return
    chosen = [(s.name, s.kind, s.seconds) for s in SECTIONS if not options.only or s.name in options.only]
    facts = {"python": platform.python_version(), "minutes": options.minutes, "rehearsal": options.rehearse}
    record = drive(chosen, options.out, options.minutes, options.rehearse, facts)
    print("\n".join(summary(record)))
    print(f"{record['seconds']:.0f} s; figures in {options.out}")


def summary(record: Found) -> Iterator[str]:
    """A line for each section, then what went wrong, then where the fused product stops being the faster one."""
    for name, entry in record["sections"].items():
        rows, wrong = entry["rows"], [row for row in entry["rows"] if "error" in row or row.get("ok") is False]
        took = f"{entry['seconds']:.0f} s" if entry.get("seconds") is not None else entry.get("skipped", "failed")
        yield f"{name}: {len(rows)} rows, {took}"
        for row in wrong:
            facts = {key: value for key, value in row.items() if key != "took_s"}
            yield f"  {'FAILED' if row.get('ok', True) else 'WRONG'}: {facts}"
        if entry.get("error"):
            yield f"  FAILED: {entry['error'].strip().splitlines()[-1]}"
    for shape, rows in crossings(record["sections"].get("kernels", {"rows": []})["rows"]).items():
        yield f"fused is faster than dequantizing up to {rows} rows at {shape}"


def crossings(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """For each shape the largest measured number of rows at which the fused product won (0: at none)."""
    times = {(str(r["shape"]), r["rows"], r["way"]): r["seconds"] for r in rows if "seconds" in r and "way" in r}
    found: dict[str, int] = {}
    for (shape, m, way), seconds in times.items():
        if way == "fused" and (shape, m, "dequantize") in times:
            won = seconds < times[shape, m, "dequantize"]
            found[shape] = max(found.get(shape, 0), m if won else 0)
    return found


if __name__ == "__main__":
    main()
