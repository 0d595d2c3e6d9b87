"""A reward module that kills its own process, as ``kill -9`` would, at the moment that LQLM_TEST_KILL names.

* ``reward:N``: in the N-th call of the reward;
* ``line:N``: when half of the metrics of step N is written;
* ``rename:NAME``: before a file or folder is renamed to NAME, which is how everything atomic is put in its place.
"""

import os
import pathlib
import signal

import lqlm.io.metrics
from tests.experiments import rewards

WHAT, _, WHEN = os.environ.get("LQLM_TEST_KILL", "").partition(":")
calls = 0


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def digits(completion: str) -> float:
    global calls
    calls += 1
    if WHAT == "reward" and calls == int(WHEN):
        die()
    return rewards.digits(completion)


def _killing(rename):
    def killing(source, target, **kwargs):
        if str(target).endswith(WHEN):
            die()
        return rename(source, target, **kwargs)

    return killing


def _append(writer, name, rows):
    if name == "metrics.jsonl" and rows[0]["step"] == int(WHEN):
        with pathlib.Path(writer.directory, name).open("a") as file:
            file.write(lqlm.io.metrics._line(rows[0])[:200])
        die()
    _real_append(writer, name, rows)


if WHAT == "rename":
    os.rename, os.replace = _killing(os.rename), _killing(os.replace)
if WHAT == "line":
    _real_append = lqlm.io.metrics.MetricsWriter._append
    lqlm.io.metrics.MetricsWriter._append = _append
