"""Batched runs become jobs of a SLURM cluster, through submitit; the caller does not wait for them."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.environment import git_state, source_digest
from bench.errors import UserError
from bench.launch.group import Group, Job, pack
from bench.launch.manifest import Manifest, new_folder
from bench.launch.queue import ask, check_slurm
from bench.launch.site import Site, check_shared
from bench.launch.snapshot import snapshot
from bench.launch.worker import Work
from bench.plan.expand import Sweep
from bench.store import Store


def submit(
    groups: Sequence[Group],
    *,
    sweep: Sweep,
    overrides: Sequence[str],
    store: Store,
    site: Site,
    options: dict[str, Any],
    tell: Callable[[str], None],
) -> Manifest:
    """Submit batched runs as job arrays and write the manifest.

    Args:
        groups: the runs, the longest first.
        sweep, overrides: where they come from.
        store: results folder.
        site: the cluster.
        options: from ``bench.launch.options.compose_options``.
        tell: hears the job ids.

    Raises:
        UserError: no SLURM, it refuses, or the results folder is not writable or not visible to compute nodes.
    """
    check_slurm(site.partition)
    check_shared(site, store.root.resolve())
    minutes = _minutes(options, site)
    manifest = _manifest(sweep, overrides, new_folder(store, sweep.name), options)
    setup = list(site.setup)
    if options["snapshot"]:
        setup += snapshot(store, manifest.git, manifest.dirty)
    # Jobs may start elsewhere than here: a snapshot's, or those of a site whose set-up lines change the folder.
    placed = [replace(g, config=replace(g.config, results=str(Path(g.config.results).resolve()))) for g in groups]
    jobs = [
        Job(part, manifest.folder, minutes, site.signal_seconds, options["timeouts"], manifest.git, manifest.source)
        for part in pack(placed, options["pack"])
    ]
    before: str | None = None
    for start in range(0, len(jobs), site.max_array):
        part = jobs[start : start + site.max_array]
        ids = _submit_array(part, manifest, site, setup, minutes, before)
        manifest.jobs |= {
            job_id: [group.as_dict() for group in job.groups] for job_id, job in zip(ids, part, strict=True)
        }
        manifest.save()  # after each array: what is submitted must be known even if the next one is refused
        before = ids[0].partition("_")[0]
        runs = sum(len(group.config.seeds) for job in part for group in job.groups)
        at_once = f", {options['parallel']} at once" if options["parallel"] else ""
        tell(f"submitted {runs} runs as {len(part)} jobs: {_span(ids)}{at_once}")
    _warn_of_stuck(manifest, site, tell)
    return manifest


def _minutes(options: dict[str, Any], site: Site) -> int:
    minutes: int = options["minutes"] or site.minutes
    if 60 * minutes <= site.signal_seconds:
        raise UserError(
            f"a time limit of {minutes} minutes leaves no time before the warning {site.signal_seconds} s ahead of it",
            "raise launcher.minutes, or lower signal_seconds in the site profile",
        )
    return minutes


def _manifest(sweep: Sweep, overrides: Sequence[str], folder: Path, options: dict[str, Any]) -> Manifest:
    sha, dirty = git_state()
    return Manifest(
        sweep=sweep.name,
        lines=list(sweep.overrides),
        overrides=list(overrides),
        exclude=dict(sweep.exclude),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        git=sha,
        dirty=dirty,
        source=source_digest(),
        site=options["site"],
        launcher=options,
        folder=str(folder),
        title=sweep.title,
        results=sweep.results,
        replace=sweep.replace,
    )


def _warn_of_stuck(manifest: Manifest, site: Site, tell: Callable[[str], None]) -> None:
    """Many clusters take jobs that no node or limit of theirs allows, and let them wait for good."""
    stuck = {state.reason for state in ask(manifest.jobs).jobs.values() if state.stuck}
    if stuck:
        tell(
            f"warning: SLURM took the jobs but will not start them ({', '.join(sorted(stuck))}); "
            f"`sivibench cancel {manifest.sweep}`, then correct the site profile: {_asked(site)}"
        )


_SRUN = ["--kill-on-bad-exit=0", "--wait=0"]
"""Processes that share a job are independent: one that fails or ends early must not end the others."""


def _submit_array(
    jobs: list[Job], manifest: Manifest, site: Site, setup: list[str], minutes: int, before: str | None
) -> list[str]:
    import submitit

    options = manifest.launcher
    python = f"{site.python or shlex.quote(sys.executable)} -u -m bench.launch.start"
    more: dict[str, Any] = {"requeue": True, **site.options}
    if before and options["parallel"]:  # each array has a limit of its own: only one of them may run
        more["dependency"] = f"afterany:{before}"
    parameters: dict[str, Any] = {
        "name": f"sivibench-{manifest.sweep}",
        "timeout_min": minutes,
        "nodes": site.nodes,
        "tasks_per_node": site.tasks(options["tasks_per_gpu"]),
        "cpus_per_task": site.cpus,
        "slurm_signal_delay_s": site.signal_seconds,
        "slurm_setup": setup,
        "slurm_stderr_to_stdout": True,
        "slurm_array_parallelism": options["parallel"] or len(jobs),
        "slurm_additional_parameters": more,
        "slurm_srun_args": _SRUN + [f"--cpus-per-task={site.cpus}"],  # srun does not take it from sbatch
    }
    optional = {
        "gpus_per_node": None if "gpu" in (site.gres or "") else site.gpus_per_node or None,
        "mem_gb": site.memory_gb,
        "slurm_partition": site.partition,
        "slurm_account": site.account,
        "slurm_qos": site.qos,
        "slurm_constraint": site.constraint,
        "slurm_gres": site.gres,
    }
    executor = submitit.AutoExecutor(
        folder=Path(manifest.folder) / "log",
        cluster="slurm",
        slurm_python=f"{site.container} {python}" if site.container else python,
    )
    executor.update_parameters(**parameters, **{key: value for key, value in optional.items() if value is not None})
    try:
        submitted = executor.map_array(Work(), jobs)
    except (
        submitit.core.utils.FailedJobError,
        submitit.core.utils.FailedSubmissionError,
        subprocess.SubprocessError,
    ) as e:
        raise UserError(f"sbatch refused the jobs: {_refusal(str(e))}", _remedy(str(e), site)) from e
    return [job.job_id for job in submitted]


def _refusal(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "error:" in line]
    return lines[-1].rpartition("error:")[2].strip() if lines else text.strip().splitlines()[-1]


def _remedy(text: str, site: Site) -> str:
    if "node configuration" in text:
        return (
            f"no node of {site.partition or 'the default partition'} has what the site profile asks for: {_asked(site)}"
        )
    return "correct the site profile (partition, account, qos, limits); nothing of this array was submitted"


def _asked(site: Site) -> str:
    return (
        f"gpus_per_node={site.gpus_per_node}, gres={site.gres}, nodes={site.nodes}, cpus={site.cpus}, "
        f"memory_gb={site.memory_gb}"
    )


def _span(ids: Sequence[str]) -> str:
    return ids[0] if len(ids) == 1 else f"{ids[0].partition('_')[0]}_[0-{len(ids) - 1}]"
