"""A module as the main one, held to some cores: ``python -m experiments.compare.held 0,1 experiments.grpo ...``.

Without cores it has all.  It ends when the process that began it does, however that ends, where Linux can tell.
Programs of small matrices gain little from a second core: beside each other, a core each, two runs end sooner.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the cores, before anything counts them, and become the module."""
    cores, module, *rest = sys.argv[1:]
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
