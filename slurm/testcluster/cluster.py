"""The life of the test cluster: up in seconds, broken on purpose, always torn down."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from slurm.testcluster import processes
from slurm.testcluster.settings import Settings, gres_conf, slurm_conf, slurmdbd_conf

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "srun")
"""Debian: ``apt-get install --no-install-recommends slurmctld slurmd slurm-client munge``."""

_SBIN = "/usr/sbin:/sbin"  # where Debian puts the daemons, and where a plain user does not look


class ClusterError(RuntimeError):
    """The cluster did not come up; the message ends with the log of the daemon at fault."""


def missing_programs(*more: str) -> list[str]:
    """Programs the cluster needs and this machine lacks."""
    path = f"{os.environ.get('PATH', '')}:{_SBIN}"
    return [name for name in (*PROGRAMS, *more) if shutil.which(name, path=path) is None]


class Cluster:
    """A private SLURM.  As a context manager it is torn down on leaving, and also if this process is killed.

    Args:
        home: folder of everything; it must not exist.  A short temporary one unless given: the path of munge's
            socket must fit in 107 bytes.
        settings: see ``Settings``; ports are filled in.
    """

    def __init__(self, home: Path | None = None, settings: Settings | None = None) -> None:
        self.home = Path(home) if home else Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp")) / "c"
        self._owned = self.home.parent if home is None else None
        self.settings = settings or Settings()
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def nodes(self) -> list[str]:
        return [f"n{i}" for i in range(1, self.settings.nodes + 1)]

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """Variables for whatever submits; jobs inherit them."""
        found = dict(os.environ if base is None else base)
        return found | {"SLURM_CONF": str(self.home / "etc/slurm.conf"), "PATH": f"{found.get('PATH', '')}:{_SBIN}"}

    def __enter__(self) -> Cluster:
        root = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-m", "slurm.testcluster", "guard", str(self.home)]
        # In a session of its own, so that Ctrl-C reaches us and not the guard.
        self._guard = subprocess.Popen(
            command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            self.up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
        if self._owned is not None:
            shutil.rmtree(self._owned, ignore_errors=True)

    def up(self) -> None:
        """Start all daemons and wait until every node is idle.

        Raises:
            ClusterError: programs are missing, the folder exists, or a daemon does not start.
        """
        lacking = missing_programs(*(("slurmdbd", "mariadbd", "sacctmgr") if self.settings.accounting else ()))
        if lacking:
            raise ClusterError(f"not installed: {', '.join(lacking)}")
        if self.home.exists():
            raise ClusterError(f"{self.home} exists; `down` first")
        for name in ("etc", "state", "run", "log", "sql", *(f"spool/{node}" for node in self.nodes)):
            (self.home / name).mkdir(parents=True)
        names = ["ctld", *self.nodes, *(("dbd", "sql") if self.settings.accounting else ())]
        self.settings = replace(self.settings, ports=_free_ports(names))
        self._write()
        key = self.home / "etc/munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        run = self.home / "run"
        # --force: munged refuses a socket below a folder that others cannot enter, as temporary folders are.
        self._daemon(
            "munged", "--force", f"--key-file={key}", f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid",
            f"--log-file={self.home}/log/munged.log", f"--seed-file={run}/munged.seed", "--num-threads=4",
        )  # fmt: skip
        if self.settings.accounting:
            self._start_accounting()
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        self._wait(lambda: self._output("sinfo", "-h", "-N", "-p", "debug", "-o", "%T") == "idle\n" * len(self.nodes))

    def down(self) -> None:
        """Cancel all jobs, stop all daemons, remove the folder; does nothing if there is none."""
        if not self.home.exists():
            return
        conf = str(self.home / "etc/slurm.conf")
        # Daemons first: a controller would start the next job while we kill the previous one.
        daemons = [int(text) for path in (self.home / "run").glob("*.pid") if (text := _read(path)).isdigit()]
        processes.end(daemons)
        processes.kill(pid for pid in processes.carrying(SLURM_CONF=conf) if _is_of_a_job(pid))
        # A slurmstepd hides its environment and waits for a controller for ever, in slurmd's working directory.
        processes.kill(processes.working_in(self.home / "log"))
        shutil.rmtree(self.home, ignore_errors=True)

    def start_controller(self) -> None:
        """Start slurmctld (again): it finds its jobs in the saved state."""
        self._daemon("slurmctld")

    def stop_controller(self) -> None:
        """Stop slurmctld as an administrator does."""
        processes.end([int(_read(self.home / "run/slurmctld.pid"))])

    def start_node(self, node: str) -> None:
        """Start the slurmd of a node (again)."""
        self._daemon("slurmd", "-N", node)

    def lose_node(self, node: str) -> None:
        """Kill a node's slurmd and all that ran there, without a signal to anybody, and have it declared DOWN."""
        steps = self._output("squeue", "-h", "-w", node, "-o", "%A").split()
        processes.kill([int(_read(self.home / f"run/slurmd.{node}.pid"))])
        for job in steps:
            processes.kill(processes.called(f"slurmstepd: [{job}."))
        conf = str(self.home / "etc/slurm.conf")
        processes.kill(processes.carrying(SLURM_CONF=conf, SLURMD_NODENAME=node))
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def reconfigure(self, **changes: bool | int) -> None:
        """Change settings of the running cluster, e.g. ``user_signal=True``."""
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        self._write()
        self.stop_controller()  # SlurmctldParameters is read at start only
        self.start_controller()
        self._wait(lambda: "UP" in self._output("scontrol", "ping"))

    def call(self, *command: str, check: bool = True) -> str:
        """Output of a command in the cluster's environment.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=60, check=check)
        return done.stdout

    def _output(self, *command: str) -> str:
        return self.call(*command, check=False)

    def _write(self) -> None:
        (self.home / "etc/slurm.conf").write_text(slurm_conf(self.home, self.settings))
        (self.home / "etc/gres.conf").write_text(gres_conf(self.settings))

    def _start_accounting(self) -> None:
        """MariaDB on an empty folder needs no installation step; slurmdbd makes its tables itself."""
        run = self.home / "run"
        with open(self.home / "log/mariadbd.log", "wb") as log:
            sql = subprocess.Popen(
                ["mariadbd", "--no-defaults", *(["--user=root"] if os.getuid() == 0 else []),
                 f"--datadir={self.home}/sql", f"--socket={run}/sql.sock", f"--pid-file={run}/mariadbd.pid",
                 "--bind-address=127.0.0.1", f"--port={self.settings.ports['sql']}", "--skip-grant-tables",
                 "--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0", "--performance-schema=OFF",
                 "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"],
                env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._wait(lambda: (run / "sql.sock").exists() and sql.poll() is None)
        path = self.home / "etc/slurmdbd.conf"
        path.touch(0o600)
        path.write_text(slurmdbd_conf(self.home, self.settings))
        self._daemon("slurmdbd")
        self._wait(lambda: _answers(self.settings.ports["dbd"]))
        self.call("sacctmgr", "-i", "-Q", "add", "cluster", "lab")

    def _daemon(self, *command: str) -> None:
        done = subprocess.run(
            command, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}\n{self._logs()}")

    def _wait(self, ready: object, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not ready():  # type: ignore[operator]
            if time.monotonic() > deadline:
                raise ClusterError(f"the cluster is not ready after {seconds:.0f} s\n{self._logs()}")
            time.sleep(0.05)

    def _logs(self) -> str:
        found = sorted((self.home / "log").glob("*.log"))
        return "\n".join(f"{path.name}: {line}" for path in found for line in _read(path).splitlines()[-5:])


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(errors="replace").strip()
    return ""


def _is_of_a_job(pid: int) -> bool:
    return b"SLURM_JOB_ID=" in Path(f"/proc/{pid}/environ").read_bytes() if processes.alive(pid) else False


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _free_ports(names: list[str]) -> dict[str, int]:
    sockets = {name: socket.socket() for name in names}
    for found in sockets.values():
        found.bind(("127.0.0.1", 0))
    ports = {name: found.getsockname()[1] for name, found in sockets.items()}
    for found in sockets.values():
        found.close()
    return ports


def raise_on_sigterm() -> None:
    """Turn SIGTERM into SystemExit, so that context managers are left in order."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
