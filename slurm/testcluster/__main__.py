"""``python -m slurm.testcluster up | env | run COMMAND... | down``.

    python -m slurm.testcluster run srun -N2 hostname       # a cluster for the length of one command
    python -m slurm.testcluster up; eval "$(python -m slurm.testcluster env)"; sinfo; python -m slurm.testcluster down

``--home DIR`` is the folder (default /tmp/slurm-test-<user id>); ``--accounting`` adds slurmdbd and MariaDB.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from slurm.testcluster import processes
from slurm.testcluster.cluster import Cluster, ClusterError, raise_on_sigterm
from slurm.testcluster.settings import Settings


def main() -> int:
    """Carry out one command; its exit code for ``run``, 1 if the cluster does not start."""
    parser = argparse.ArgumentParser(prog="python -m slurm.testcluster", description="A private SLURM for tests.")
    parser.add_argument("--home", type=Path, default=Path(f"/tmp/slurm-test-{os.getuid()}"))
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB")
    commands = parser.add_subparsers(dest="what", required=True)
    for name, text in {
        "up": "start it",
        "env": "print the exports a shell needs",
        "down": "stop and remove it",
    }.items():
        commands.add_parser(name, help=text)
    commands.add_parser("run", help="start it, run a command on it, stop it").add_argument("command", nargs="...")
    commands.add_parser("guard").add_argument("folder", type=Path)
    args = parser.parse_args()
    settings = Settings(accounting=args.accounting)
    try:
        if args.what == "up":
            _up(Cluster(args.home, settings))
        elif args.what == "down":
            Cluster(args.home).down()
        elif args.what == "env":
            print(f"export SLURM_CONF={shlex.quote(str(args.home / 'etc/slurm.conf'))} PATH=$PATH:/usr/sbin:/sbin")
        elif args.what == "guard":
            return _guard(args.folder)
        else:
            raise_on_sigterm()
            with Cluster(settings=settings) as cluster:
                return subprocess.run(args.command or ["sinfo"], env=cluster.environment()).returncode
    except ClusterError as error:
        print(f"slurm.testcluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _up(cluster: Cluster) -> None:
    try:
        cluster.up()
    except BaseException:
        if "exists" not in str(sys.exception()):
            cluster.down()
        raise
    print(cluster.call("sinfo", "-N", "-o", "%N %P %T %G"), end="")


def _guard(home: Path) -> int:
    """Wait until whoever holds our standard input is gone, then tear the cluster down."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    Cluster(home).down()
    # Clients that the dead process had started would ask for the controller for minutes.
    processes.kill(processes.carrying(SLURM_CONF=str(home / "etc/slurm.conf")))
    if home.parent.name.startswith("slurm-"):  # the temporary folder around it
        with suppress(OSError):
            home.parent.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
