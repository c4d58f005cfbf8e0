"""``python -m bench.launch.start -u -m MODULE ARGUMENTS``: run a module with the warning signal held back.

SLURM may warn a job that has only just started and is still importing; by default that would kill it.  The signal
waits until ``bench.launch.worker`` has its handlers in place and lets it through.
"""

from __future__ import annotations

import runpy
import signal
import sys


def main() -> None:
    """Hand over to the module."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    sys.argv = sys.argv[sys.argv.index("-m") + 1 :]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
