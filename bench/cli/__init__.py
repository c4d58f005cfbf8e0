"""The command line; nothing else parses arguments.

Exit codes: 0 all is well; 1 a run failed or a record is unreadable; 2 the command cannot be carried out as given;
130 interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from bench.errors import RunFailed, UserError
from bench.fit.interrupt import Interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``arguments`` are those of the process unless given."""
    # Read by libraries when they load; one thread per process is fastest for programs of this size, and `threads=`
    # still raises it for torch.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from bench.cli.parser import parse

    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        signal.signal(signal.SIGTERM, _terminate)
    args = parse(given)
    try:
        code: int = args.command(args)
        sys.stdout.flush()
        return code
    except RunFailed as error:
        print(f"sivibench: {error}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"sivibench: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"sivibench: {stop}; finished runs and a checkpoint are kept, repeat the command to continue",
              file=sys.stderr)  # fmt: skip
        return 128 + stop.number
    except KeyboardInterrupt:
        print("sivibench: interrupted; finished runs are kept, repeat the command to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; without this, Python complains once more while closing stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        from bench.files import explain_os_error

        problem = explain_os_error(error.filename or "a file", error)
        if problem is None:
            raise
        print(f"sivibench: {problem}", file=sys.stderr)
        return 2


def _terminate(signum: int, frame: FrameType | None) -> None:
    # As an exception it releases claims and stops children on its way out.
    raise SystemExit(128 + signum)
