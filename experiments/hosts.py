"""Several processes, one run: how they find each other, agree, share work on the host, and end.

Every process runs the same program on the same settings (``hosts.index`` apart) and sees the same workdir.  Process 0
alone claims the workdir and writes what people read; all take part in checkpoints.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.command import EXIT_BAD_INPUT
from experiments.settings import Experiment, HostSettings
from lqlm import errors
from lqlm.errors import UserError
from lqlm.io.monitor import versions
from lqlm.rewards.combine import Rewards

AUTO = "auto"
WELCOME = b"lqlm"
GRACE = 1.0
"""Seconds in which every process can say its own error, before the first that ends takes the connection away."""


def first() -> bool:
    """Whether this process writes what people read."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


class Parting:
    """Ends this process with one line and status 2, whichever of its threads is the first to know why."""

    def __init__(self) -> None:
        self._known = threading.Lock()

    def say(self, text: str, grace: float = GRACE) -> None:
        """Say it, wait until the others have said theirs, and end; the usual way out would wait for the lost."""
        if self._known.acquire(blocking=False):
            os.write(2, f"\nerror: {text}\n".encode())  # below the progress bar
            time.sleep(grace)
            os._exit(EXIT_BAD_INPUT)
        time.sleep(10 * GRACE)  # another thread ends the process, or all is over

    def in_peace(self) -> None:
        """From now on others may go."""
        self._known.acquire()

    def watch(self, peers: dict[int, socket.socket]) -> None:
        """Know at once of a peer that ends: its connection does."""
        for number, peer in peers.items():
            threading.Thread(target=self._watch, args=(number, peer), daemon=True).start()

    def _watch(self, number: int, peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer.recv(1)
        # Nobody waits for the words of the others where process 0 is gone, and jax aborts as soon as it knows.
        self.say(_lost(f"process {number} is gone"), GRACE if number else 0.0)


@contextlib.contextmanager
def together(settings: Experiment) -> Iterator[None]:
    """Join the other processes, check that they run the same code on the same settings, and leave together.

    A process that ends by an error leaves at once, with one line and status 2, and so do those that find it gone: by
    the connection that each keeps to process 0, by a collective that fails, or after ``hosts.heartbeat`` by jax.
    """
    if not settings.hosts.coordinator:
        yield
        return
    parting, peers = Parting(), join(settings.hosts)
    parting.watch(peers)
    try:
        agree(settings)
        yield
        multihost_utils.sync_global_devices("end")
        parting.in_peace()
    except (UserError, jax.errors.JaxRuntimeError) as error:
        parting.say(_said(error))


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else _lost(" ".join(str(error).split())[:160])


def _lost(cause: str) -> str:
    return (
        f"process {jax.process_index()}: another process of the run was lost or ended ({cause}); see what it said, and "
        "start the same command on every host: it goes on from the last checkpoint"
    )


def join(hosts: HostSettings) -> dict[int, socket.socket]:
    """Connect to the coordinator, which process 0 is.

    Returns:
        Open connections by the index of the process at the other end: of process 0 to all, of the others to it; none
        where jax finds the processes by itself.

    Raises:
        UserError: when it is not reached, or not all processes are there, within ``hosts.timeout`` seconds.
    """
    named: dict[str, Any] = {}
    peers: dict[int, socket.socket] = {}
    if hosts.coordinator != AUTO:
        named = {"coordinator_address": hosts.coordinator, "num_processes": hosts.count, "process_id": hosts.index}
        peers = _wait_for_all(hosts) if hosts.index == 0 else {0: _wait_for_first(hosts)}
    try:
        jax.distributed.initialize(
            **named,
            initialization_timeout=hosts.timeout,
            heartbeat_timeout_seconds=hosts.heartbeat,
            shutdown_timeout_seconds=hosts.heartbeat,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"hosts: {' '.join(str(error).split())[:200]}; check hosts.coordinator") from error
    return peers


def _wait_for_all(hosts: HostSettings) -> dict[int, socket.socket]:
    """Until every other process has knocked; jax's own wait would end in an abort, without a word of ours."""
    port, end = int(hosts.coordinator.rpartition(":")[2]), time.monotonic() + hosts.timeout
    peers: dict[int, socket.socket] = {}
    try:
        with socket.create_server(("", port)) as server:
            while len(peers) < hosts.count - 1:
                server.settimeout(max(end - time.monotonic(), 0.01))
                peer, _ = server.accept()
                peer.settimeout(5.0)
                peers[int.from_bytes(peer.recv(4), "big")] = peer
            for peer in peers.values():
                peer.sendall(WELCOME)
                peer.settimeout(None)
    except TimeoutError as error:
        missing = sorted(set(range(1, hosts.count)) - peers.keys())
        raise UserError(
            f"hosts: processes {missing} did not come to {hosts.coordinator} within {hosts.timeout} s; "
            "start the same command on every host, each with its hosts.index"
        ) from error
    except OSError as error:
        raise UserError(f"hosts.coordinator {hosts.coordinator!r}: {error.strerror}; choose another port") from error
    return peers


def _wait_for_first(hosts: HostSettings) -> socket.socket:
    """Until process 0 says that all are there."""
    host, _, port = hosts.coordinator.rpartition(":")
    end, cause = time.monotonic() + hosts.timeout, "no answer"
    while (left := end - time.monotonic()) > 0:
        try:
            peer = socket.create_connection((host, int(port)), timeout=left)
            peer.sendall(hosts.index.to_bytes(4, "big"))
            peer.settimeout(max(end - time.monotonic(), 0.01))
            if peer.recv(len(WELCOME)) == WELCOME:
                peer.settimeout(None)
                return peer
            peer.close()
            cause = "it left while others were missing"
        except OSError as error:
            cause = error.strerror or str(error) or cause
        time.sleep(0.1)
    raise UserError(
        f"hosts.coordinator {hosts.coordinator!r} was not reached by process {hosts.index} within {hosts.timeout} s "
        f"({cause}); start process 0 there, or set its address"
    )


def agree(settings: Experiment) -> None:
    """Refuse other code or other settings in one of the processes.

    Raises:
        UserError: in every process, naming one that differs and the first setting in which it does.
    """
    mine = json.dumps({"code": code(), **_flat(dataclasses.replace(settings, hosts=HostSettings()))}, sort_keys=True)
    theirs = [json.loads(text) for text in gathered_texts(mine)]
    for number, other in enumerate(theirs):
        for key in sorted(theirs[0].keys() | other.keys(), key=lambda key: (key != "code", key)):
            if theirs[0].get(key) != other.get(key):
                cure = "install the same lqlm" if key == "code" else "give both the same settings"
                raise UserError(
                    f"process 0 has {key}={theirs[0].get(key)!r}, process {number} has {other.get(key)!r}; {cure}"
                )


def code() -> str:
    """Versions of lqlm and jax, and a checksum of the sources of lqlm and of the experiments."""
    digest, here = hashlib.sha256(), pathlib.Path(__file__).resolve().parent
    for folder in (pathlib.Path(errors.__file__).resolve().parent, here):
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder.parent)}\0".encode() + file.read_bytes())
    found = versions()
    return f"lqlm {found['lqlm']}, jax {found['jax']}, sources {digest.hexdigest()[:16]}"


def _flat(settings: Any) -> dict[str, str]:
    fields = dataclasses.fields(settings)
    return {field.name: repr(getattr(settings, field.name)) for field in fields}


def gathered_texts(text: str) -> list[str]:
    """A text of each process, in their order, in every process."""
    mine = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([mine.size], np.int32)).reshape(-1)
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: mine.size] = mine
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths)]


def told(value: Any) -> Any:
    """What process 0 knows, in every process: a number or bool."""
    if not jax.distributed.is_initialized():
        return value
    return multihost_utils.broadcast_one_to_all(np.asarray(value)).item()


def told_arrays(arrays: Any) -> Any:
    """Arrays of process 0, in every process."""
    return multihost_utils.broadcast_one_to_all(arrays) if jax.distributed.is_initialized() else arrays


def shared_rewards(score: Callable[[Sequence[Any]], Rewards], samples: Sequence[Any]) -> Rewards:
    """Rewards of all samples, in every process; each process scores its share, every n-th sample.

    Failures are those of all shares, so that every process finds the same with `Rewards.checked`.  A sample that runs
    into its time limit delays its own process's share only; the step waits for the slowest share, which is bounded by
    the limit times the samples of a share.
    """
    count = jax.process_count()
    if count == 1 or len(samples) < count:
        return score(samples)
    mine = score(samples[jax.process_index() :: count])
    names = sorted(mine.components)
    rows = np.zeros((len(names) + 1, -(-len(samples) // count)), np.float32)
    for row, values in zip(rows, [mine.total, *(mine.components[name] for name in names)]):
        row[: len(values)] = values
    failed = np.array([mine.failed.get(name, (0, ""))[0] for name in names], np.int32)
    counts = multihost_utils.process_allgather(np.append(failed, mine.errors)).sum(0)
    every = multihost_utils.process_allgather(rows)  # [processes, rows, share]
    values = every.transpose(1, 2, 0).reshape(len(rows), -1)[:, : len(samples)]
    # What fails on all samples fails on those of each process, which all know a cause.
    causes = {name: (int(n), mine.failed[name][1]) for name, n in zip(names, counts) if name in mine.failed}
    return Rewards(values[0], dict(zip(names, values[1:])), int(counts[-1]), mine.first_error, causes)
