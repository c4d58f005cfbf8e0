"""The command line on the test cluster, and what tests wait for there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.launch.journal import journal_path, read_journal
from bench.launch.manifest import Manifest, manifests
from bench.store import Store
from processes import Done, bench
from slurm.testcluster import Cluster

PATIENCE = 400.0
"""Seconds after which a wait is given up; nothing is measured by it."""

SITE = {"partition": "debug", "gpus_per_node": 1, "cpus": 1, "memory_gb": 1, "minutes": 5, "signal_seconds": 20}


class Lab:
    """One results folder, one sweep file and one world on a running cluster.

    Args:
        cluster: where jobs run.
        folder: an empty folder.
        site: changes of the site profile.
    """

    def __init__(self, cluster: Cluster, folder: Path, **site: object) -> None:
        self.cluster, self.results, self.world = cluster, folder / "results", folder / "world"
        self.sweep, self.site = folder / "lab.yaml", folder / "site.yaml"
        self.world.mkdir()
        self.site.write_text(json.dumps(SITE | site))

    def write(self, *lines: str) -> None:
        """The sweep's lines."""
        self.sweep.write_text("overrides:\n" + "".join(f"  - {line}\n" for line in lines))

    def bench(self, *arguments: object, **environment: object) -> Done:
        """``sivibench`` on the cluster."""
        plugin = {"SIVIBENCH_PLUGINS": Path(__file__).with_name("slurm_world.py"), "TEST_WORLD": self.world}
        inherited = self.cluster.environment()
        cluster = {key: inherited[key] for key in ("SLURM_CONF", "PATH")}
        return bench(*arguments, results=self.results, **(cluster | plugin | environment))

    def submit(self, *arguments: object, **environment: object) -> str:
        """Submit the sweep; what it says."""
        where = ["launcher=slurm", f"site={self.site}"]
        done = self.bench("sweep", self.sweep, *where, *arguments, **environment)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def change_site(self, **keys: object) -> None:
        """Change the site profile."""
        self.site.write_text(json.dumps(json.loads(self.site.read_text()) | keys))

    def status(self) -> dict[str, dict[str, Any]]:
        """Runs that ``status`` has something to say about, by ``<method>-<target>-<seed>``."""
        done = self.bench("status", self.sweep, "--json")
        assert done.returncode == 0, done.stderr
        runs = [run for row in json.loads(done.stdout) for run in row["runs"]]
        return {f"{run['method']}-{run['target']}-{run['seed']}": run for run in runs}

    def last(self) -> Manifest:
        """The latest submission."""
        return manifests(Store(self.results), "lab")[-1]

    def records(self) -> dict[str, str]:
        """run id -> status."""
        return {record["run_id"]: record["status"] for record in Store(self.results).records()}

    def queue(self, *options: str) -> list[str]:
        """``<job> <node>`` of what is in the queue."""
        return self.cluster.call("squeue", "-h", "-r", *options, "-o", "%i %N").splitlines()

    def settle(self) -> None:
        """Wait until the queue is empty."""
        self.wait(lambda: not self.queue())

    def wait(self, ready: Callable[[], object]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert time.monotonic() < deadline, self.cluster.call("squeue", "-r") + self.logs()
            time.sleep(0.2)

    def warn(self, job: str) -> None:
        """Send the job the warning signal, again if a busy node has lost it, until the job has asked to be requeued."""
        sent = 0.0

        def requeued() -> bool:
            nonlocal sent
            if time.monotonic() > sent + 20:
                # fails for a job that heard the first one and is leaving its node; one that never does fails `wait`
                self.cluster.call("scancel", "--signal", "USR2", job, check=False)
                sent = time.monotonic()
            return any(event["event"] == "requeue asked" for event in self.events())

        self.wait(requeued)

    def events(self) -> list[dict[str, Any]]:
        """The journals of the latest submission."""
        folder = Path(self.last().folder)
        return [event for job in self.last().jobs for event in read_journal(journal_path(folder, job))]

    def logs(self) -> str:
        """All logs of the sweep's jobs."""
        found = sorted(self.results.glob("artifacts/sweeps/lab/*/log/*.out"))
        return "\n".join(f"{path.name}\n{path.read_text()}" for path in found)
