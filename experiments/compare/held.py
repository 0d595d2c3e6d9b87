"""A module as the main one, held to some cores: ``python -m experiments.compare.held 0,1 experiments.grpo ...``.

Programs of small matrices gain little from a second core: beside each other, a core each, two runs end sooner.
"""

import os
import runpy
import sys


def main() -> None:
    """Set the cores, before anything counts them, and become the module."""
    cores, module, *rest = sys.argv[1:]
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
