"""Builds and loads small C++ libraries with the system's compiler, on first use.

An operation that plain torch does badly (``methods.parts.stein``, ``targets.relu_net``) has a C++ source, and beside it
a Python file with the ``Library`` that names it (``methods.native``).  The library lands in the cache folder
(``bench.places``) under a name that hashes source, flags, compiler and processor, so a change of any of them builds
anew, and nothing is ever built twice.  Environment:

    SIVIBENCH_FUSED   0 never use them; 1 demand them (``UserError`` if one cannot be built); unset: where possible
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.places import cache_folder

HERE = Path(__file__).parent
# The parts of -ffast-math that matter here, one by one: given as one flag, gcc before 13 links start-up code into the
# library that turns denormals off for the whole process; and NaN should keep its meaning.
FAST_MATH = "-fno-math-errno -fno-trapping-math -fno-signed-zeros -fassociative-math -freciprocal-math"
FLAGS = ["-std=c++17", "-O3", "-march=native", *FAST_MATH.split(), "-fopenmp-simd", "-shared", "-fPIC"]

log = logging.getLogger("sivibench")

_switched_off = False


@contextmanager
def switched_off() -> Iterator[None]:
    """Inside, no library is to be had, as with SIVIBENCH_FUSED=0."""
    global _switched_off
    before, _switched_off = _switched_off, True
    try:
        yield
    finally:
        _switched_off = before


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


class Library:
    """One C++ source with a plain C interface, compiled and loaded when it is first asked for.

    Args:
        name: of the file in the cache.
        what: the operation in words, for messages.
        source: the C++ file; it may include the headers beside it that are named, and those of this folder.
        headers: of the source's own folder, by name.
        functions: argument types of each exported function; all return an int.
    """

    def __init__(
        self, name: str, what: str, source: Path, headers: Sequence[str], functions: Mapping[str, Sequence[Any]]
    ) -> None:
        self.name, self.what, self.source, self.functions = name, what, source, functions
        self.texts = [source, *(source.with_name(header) for header in headers), *sorted(HERE.glob("*.hpp"))]
        self.forget()

    def forget(self) -> None:
        """Drop what is loaded or known to have failed, so that the next call starts afresh (for tests)."""
        self._loaded: ctypes.CDLL | BuildFailed | None = None
        self._reported = False

    def build(self) -> Path:
        """The compiled library, built if it is not in the cache; safe when several processes build at once.

        Raises:
            BuildFailed: no compiler, no writable cache, or the compiler reports an error.
        """
        command = compiler()
        try:
            version = subprocess.run([*command, "--version"], check=False, capture_output=True, text=True).stdout
            sources = "".join(path.read_text() for path in self.texts)
            parts = (sources, " ".join(FLAGS), " ".join(command), version, platform.machine(), _processor())
            library = cache_folder() / f"{self.name}_{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:24]}.so"
            if library.exists():
                return library
            library.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=library.parent, prefix="build_") as folder:
                made = Path(folder) / f"{self.name}.so"
                run = [*command, *FLAGS, f"-I{HERE}", str(self.source), "-o", str(made)]
                result = subprocess.run(run, check=False, capture_output=True, text=True, timeout=300)
                if result.returncode:
                    raise BuildFailed(f"{shlex.join(run)} failed:\n{result.stderr[-2000:]}")
                os.replace(made, library)  # atomic: whoever comes second replaces a file by an equal one
        except (OSError, subprocess.SubprocessError) as error:
            raise BuildFailed(f"{self.what} could not be built: {error}") from error
        return library

    def _load(self) -> ctypes.CDLL | BuildFailed:
        try:
            library = ctypes.CDLL(str(self.build()))
        except (BuildFailed, OSError) as error:
            return error if isinstance(error, BuildFailed) else BuildFailed(str(error))
        for name, types in self.functions.items():
            function = getattr(library, name)
            function.argtypes, function.restype = list(types), ctypes.c_int
        return library

    def get(self) -> ctypes.CDLL | None:
        """The loaded library, or None where it is switched off or cannot be built (logged once).

        Raises:
            UserError: ``SIVIBENCH_FUSED=1`` and it cannot be built.
        """
        wish = os.environ.get("SIVIBENCH_FUSED", "")
        if wish == "0" or _switched_off:
            return None
        if self._loaded is None:
            self._loaded = self._load()
        if isinstance(self._loaded, ctypes.CDLL):
            return self._loaded
        if wish == "1":
            raise UserError(
                f"SIVIBENCH_FUSED=1, but {self._loaded}",
                "install a C++ compiler (or set CXX), or unset SIVIBENCH_FUSED",
            )
        if not self._reported:
            message = "%s is not available, using plain torch (same results, slower): %s"
            log.warning(message, self.what, self._loaded)
            self._reported = True
        return None
