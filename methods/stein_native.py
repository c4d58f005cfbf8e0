"""Builds and loads the fused C++ pair pass (``stein_pairs.cpp``) with the system's compiler, on first use.

The library lands in a user cache folder under a name that hashes source, flags, compiler and processor, so a change of
any of them builds anew, and nothing is ever built twice.  Environment:

    SIVIBENCH_FUSED   0 never use it; 1 demand it (``UserError`` if it cannot be built); unset: use it where possible
    SIVIBENCH_CACHE   cache folder (default: $XDG_CACHE_HOME/sivibench or ~/.cache/sivibench)
    CXX               compiler (default: c++, then g++)
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from bench.errors import UserError
from methods.kernels import BANDWIDTHS, KERNELS

SOURCE = Path(__file__).with_name("stein_pairs.cpp")
HEADER = SOURCE.with_name("stein_select.hpp")
# The parts of -ffast-math that matter here, one by one: given as one flag, gcc before 13 links start-up code into the
# library that turns denormals off for the whole process; and NaN should keep its meaning.
FAST_MATH = "-fno-math-errno -fno-trapping-math -fno-signed-zeros -fassociative-math -freciprocal-math"
FLAGS = ["-std=c++17", "-O3", "-march=native", *FAST_MATH.split(), "-fopenmp-simd", "-shared", "-fPIC"]

log = logging.getLogger("sivibench")


class BuildFailed(Exception):
    """The library cannot be had; the message says why."""


def compiler() -> list[str]:
    """The compiler's command.

    Raises:
        BuildFailed: none is installed, or $CXX names none.
    """
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++"]
    for candidate in candidates:
        command = shlex.split(candidate)
        if command and shutil.which(command[0]):
            return command
    raise BuildFailed(f"no C++ compiler found (tried {', '.join(candidates)})")


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model", "cpu family", "flags", "Features", "CPU ")))


def cache_folder() -> Path:
    """Where compiled code is kept."""
    if os.environ.get("SIVIBENCH_CACHE"):
        return Path(os.environ["SIVIBENCH_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sivibench"


def build() -> Path:
    """The compiled library, built if it is not in the cache; safe when several processes build at once.

    Raises:
        BuildFailed: no compiler, no writable cache, or the compiler reports an error.
    """
    command = compiler()
    try:
        version = subprocess.run([*command, "--version"], check=False, capture_output=True, text=True).stdout
        sources = SOURCE.read_text() + HEADER.read_text()
        parts = (sources, " ".join(FLAGS), " ".join(command), version, platform.machine(), _processor())
        library = cache_folder() / f"stein_{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:24]}.so"
        if library.exists():
            return library
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent, prefix="build_") as folder:
            made = Path(folder) / "stein.so"
            run = [*command, *FLAGS, str(SOURCE), "-o", str(made)]
            result = subprocess.run(run, check=False, capture_output=True, text=True, timeout=300)
            if result.returncode:
                raise BuildFailed(f"{shlex.join(run)} failed:\n{result.stderr[-2000:]}")
            os.replace(made, library)  # atomic: whoever comes second replaces a file by an equal one
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildFailed(f"the fused Stein pass could not be built: {error}") from error
    return library


@cache
def _load() -> ctypes.CDLL | BuildFailed:
    try:
        library = ctypes.CDLL(str(build()))
    except (BuildFailed, OSError) as error:
        return error if isinstance(error, BuildFailed) else BuildFailed(str(error))
    library.sivibench_stein_pairs.argtypes = [ctypes.c_int64] * 4 + [ctypes.c_int] * 3 + [ctypes.c_void_p] * 9
    library.sivibench_stein_pairs.restype = ctypes.c_int
    return library


@cache
def _report_once(reason: str) -> None:
    log.warning("fused Stein pass not available, using plain torch (same results, slower): %s", reason)


def library() -> ctypes.CDLL | None:
    """The loaded library, or None where it is switched off or cannot be built (logged once).

    Raises:
        UserError: ``SIVIBENCH_FUSED=1`` and it cannot be built.
    """
    wish = os.environ.get("SIVIBENCH_FUSED", "")
    if wish == "0":
        return None
    loaded = _load()
    if isinstance(loaded, ctypes.CDLL):
        return loaded
    if wish == "1":
        raise UserError(
            f"SIVIBENCH_FUSED=1, but {loaded}", "install a C++ compiler (or set CXX), or unset SIVIBENCH_FUSED"
        )
    _report_once(str(loaded))
    return None


def fused_pairs(
    x: Tensor, y: Tensor, f: Tensor, g: Tensor, kernel: str, bandwidth: str, ustat: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss [S] and gradients in x, y, f, g; CPU float32 arguments [S, N, d] and [S, M, d]."""
    native = library()
    assert native is not None, "callers ask stein_backend() first"
    x, y, f, g = (t.contiguous() for t in (x, y, f, g))
    S, N, d = x.shape
    out = x.new_empty(S), torch.empty_like(x), torch.empty_like(y), torch.empty_like(f), torch.empty_like(g)
    sizes = (S, N, y.shape[1], d, KERNELS.index(kernel), BANDWIDTHS.index(bandwidth), int(ustat))
    if native.sivibench_stein_pairs(*sizes, *(t.data_ptr() for t in (x, y, f, g, *out))):
        raise ValueError(f"unknown kernel {kernel!r}")
    return out
