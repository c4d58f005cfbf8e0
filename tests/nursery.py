"""``python -m bench`` without waiting for torch to load: forks processes that have everything imported.

Reads one JSON request per line and answers each with one line: ``{"arguments", "environment", "out", "err"}`` starts
a command and answers its pid, ``{"wait": pid}`` answers its return code as ``subprocess`` would give it.  Nothing of
the project is discovered or configured before the fork, so what a child does is what a new interpreter would do.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import traceback
from typing import Any


def main() -> None:
    # a shell that runs the tests in the background has SIGINT ignored in them and all they start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _preload()
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _become(request)
        print(answer, flush=True)


def _preload() -> None:
    import pkgutil

    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    for name in ("bench.cli", "bench.fit.group", "bench.run", "bench.config", "bench.sweep"):
        __import__(name)
    for name in ("methods", "targets", "bench.metrics"):
        package = __import__(name, fromlist=["__path__"])
        for module in pkgutil.iter_modules(package.__path__):
            __import__(f"{name}.{module.name}")
    make_fx(torch.sin)(torch.zeros(1))  # the first trace imports half of torch


def _become(request: dict[str, Any]) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for handle, path in ((1, request["out"]), (2, request["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), handle)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["bench", *request["arguments"]]
    code: Any = 0
    try:
        runpy.run_module("bench", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
