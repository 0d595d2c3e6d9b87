"""Runs the sections in processes of their own: a kernel that breaks the card's context ends one of them, not all."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gpu.bench import read_events
from lqlm.io.disk import write_atomic

GRACE = 60.0
"""Seconds that a case may take beyond its section's time before its process is ended; they are part of the minutes."""
ENVIRONMENT = {
    "": {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"},
    "peak": {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.96"},
    "peer": {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    "cpu": {"JAX_PLATFORMS": "cpu"},
    "rehearsal": {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",  # compile fast
    },
}
Found = dict[str, Any]


def drive(
    sections: Sequence[tuple[str, str, float]], out: pathlib.Path, minutes: float, rehearse: bool, facts: Found
) -> Found:
    """Run all sections that time allows.

    Args:
        sections: (name, kind, seconds) in order.
        out: the JSON file, written anew after each row.
        minutes: for all.
        rehearse: everything on the CPU, in one process.
        facts: put beside the results.

    Returns:
        What the file holds: ``sections`` by name, each with ``rows`` and with ``seconds``, ``error`` or ``skipped``.
    """
    start, pending = time.time(), list(sections)
    allowed = 60 * minutes * (10 if rehearse else 1)  # a rehearsal compiles all programs on a processor
    grace = min(GRACE, allowed / 8)
    end = start + allowed - grace
    with tempfile.TemporaryDirectory() as folder:
        events = pathlib.Path(folder) / "events.jsonl"
        events.touch()
        while pending and time.time() < end:
            together = _together(pending, rehearse)
            problem = _run(
                together,
                events,
                end,
                grace,
                minutes / 8,
                rehearse,
                lambda: _write(out, facts, collect(events), [], start),
            )
            found = collect(events)
            begun = [name for name, _, _ in together if name in found]
            for name in begun if begun else [together[0][0]]:
                entry = found.setdefault(name, {"rows": []})
                if "seconds" not in entry:
                    entry["error"] = problem
                    _append(events, name, {"end": {"seconds": None, "error": problem}})
            done = begun or [together[0][0]]
            pending = [section for section in pending if section[0] not in done]
        return _write(out, facts, collect(events), pending, start)


def _together(pending: Sequence[tuple[str, str, float]], rehearse: bool) -> list[tuple[str, str, float]]:
    """The sections of the next process."""
    if rehearse:
        return list(pending)
    first = pending[0]
    chosen: list[tuple[str, str, float]] = []
    for section in pending:
        if section[1] != first[1] or (chosen and first[1]):
            break
        chosen.append(section)
    return chosen


def _run(
    together: Sequence[tuple[str, str, float]],
    events: pathlib.Path,
    end: float,
    grace: float,
    scale: float,
    rehearse: bool,
    save: Callable[[], Any],
) -> str:
    """One process; returns what it said last, for the section that it did not finish."""
    names, kind = [name for name, _, _ in together], together[0][1]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(events.parent), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    environment = {**cache, **os.environ, **ENVIRONMENT["rehearsal" if rehearse else kind]}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            _command(names, events, end, scale, rehearse), env=environment, stdout=said, stderr=said
        )
        limits = {name: scale * (10 if rehearse else 1) * seconds + grace for name, _, seconds in together}
        ended = _wait(process, events, end + grace, limits, save)
        said.seek(0)
        return f"{ended}: {said.read()[-1500:]}"


def _command(names: Sequence[str], events: pathlib.Path, end: float, scale: float, rehearse: bool) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--worker", ",".join(names), "--events", str(events)]
    return [*command, "--end", str(end), "--scale", str(scale), *(["--rehearse"] if rehearse else [])]


def _wait(
    process: subprocess.Popen, events: pathlib.Path, end: float, limits: dict[str, float], save: Callable[[], Any]
) -> str:
    """Until it is over, or a section has taken too long; what is new is saved."""
    since, running, seen = time.time(), "", 0
    while process.poll() is None:
        time.sleep(0.1)
        if events.stat().st_size > seen:
            seen = events.stat().st_size
            save()
        begun = [name for name, entry in collect(events).items() if name in limits and "seconds" not in entry]
        now = begun[0] if begun else running
        if now != running:
            since, running = time.time(), now
        if time.time() > end or time.time() - since > limits.get(running, GRACE):
            process.kill()
            process.wait()
            return "took too long and was ended"
    return f"exit status {process.returncode}"


def collect(events: pathlib.Path) -> Found:
    """The events, by section."""
    found: Found = {}
    for event in read_events(events):
        entry = found.setdefault(event["section"], {"rows": []})
        if "row" in event:
            entry["rows"].append(event["row"])
        if "end" in event:
            entry |= {key: value for key, value in event["end"].items() if key == "seconds" or value is not None}
    return found


def _append(events: pathlib.Path, section: str, event: Found) -> None:
    with events.open("a") as file:
        file.write("\n" + json.dumps({"section": section, **event}) + "\n")


def _write(out: pathlib.Path, facts: Found, found: Found, pending: Sequence[Any], start: float) -> Found:
    skipped = {name: {"rows": [], "skipped": "no time left"} for name, _, _ in pending}
    record = {**facts, "seconds": time.time() - start, "sections": {**found, **skipped}}
    write_atomic(out, json.dumps(record, indent=1) + "\n")
    return record
