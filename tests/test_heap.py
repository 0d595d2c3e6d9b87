"""What is freed stays: the second use of a large block touches no new page."""

import os
import platform
import subprocess
import sys

import pytest

GLIBC = platform.libc_ver()[0] == "glibc"
USE = """
import resource, sys
import numpy as np
from lqlm.heap import keep_freed_memory
made = keep_freed_memory() if sys.argv[1] == "keep" else None
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(made, faults())
"""


def use(mode, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", USE, mode], env=clean | environment, capture_output=True, text=True, check=True
    )
    made, faults = done.stdout.split()
    return made, int(faults)


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_what_is_freed_is_used_again():
    assert use("keep")[0] == "True"
    # The kernel may serve either by huge pages, of which 64 MiB are 32.
    assert use("keep")[1] < 8 <= use("leave")[1]


@pytest.mark.skipif(not GLIBC, reason="the C library is not glibc")
def test_the_choice_of_the_user_stands():
    made, faults = use("keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert made == "False" and faults >= 8
