"""A time limit for a plain function."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Any


class Timeout(BaseException):
    """A reward ran too long.  No `Exception`, so that `except Exception` in a user's function does not swallow it."""


def within(seconds: float | None, call: Callable[[], Any]) -> Any:
    """The value of ``call()``, or `Timeout` when it takes longer than `seconds` (None: no limit).

    It works through SIGALRM, which Python handles between its own instructions, in sleeps, waits and regular
    expressions.  So there is no limit in C code that never returns, outside of the main thread, and on Windows.
    """
    if seconds is None or not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return call()
    armed, late, start = True, False, time.monotonic()

    def on_alarm(signum: int, frame: Any) -> None:
        nonlocal late
        if armed:
            late = True
            raise Timeout

    # pytest-timeout and the like own an alarm too: theirs is put aside and given back
    outer_delay, outer_interval = signal.setitimer(signal.ITIMER_REAL, 0)
    outer_handler = signal.signal(signal.SIGALRM, on_alarm)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, seconds)  # again and again, for a function that catches all
            value = call()
        finally:
            armed = False  # from here on an alarm cannot disturb the restoring
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, outer_handler or signal.SIG_DFL)
        if outer_delay:
            left = max(outer_delay - (time.monotonic() - start), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, left, outer_interval)
    if late:  # it caught the Timeout and went on
        raise Timeout
    return value
