"""Memory of the host that stays with the process.

XLA's CPU backend asks the C library for every temporary and every result, and gives each back after use.  By default
glibc maps a large block (from 128 KiB, at most from 32 MiB) afresh from the kernel and unmaps it when it is freed: the
first touch of each of its pages is a fault, and a result of 32 MB costs 8,000 of them every time.
"""

import ctypes
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of ``mallopt(3)``."""
MOST = 2**31 - 1
OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user has chosen already."""


def keep_freed_memory() -> bool:
    """Let the process keep what it frees, up to 2 GiB at the end of its heap, so that pages are touched once.

    Equal results in less time; the peak of the process may grow by what lies between blocks in use.  It is a setting of
    the whole process, which the commands make as they start; a library should leave it to its user.  Nothing happens
    where the C library is not glibc, or where ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or
    ``GLIBC_TUNABLES`` says what the user wants (``MALLOC_TRIM_THRESHOLD_=131072`` is the default of glibc).

    Returns:
        whether the setting was made.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in OWN):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One after the other: either turns off glibc's own adaptation of both.
    return all([mallopt(MMAP_THRESHOLD, MOST), mallopt(TRIM_THRESHOLD, MOST)])
