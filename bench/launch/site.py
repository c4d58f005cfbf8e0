"""Site profiles: what a cluster wants to be told, ``slurm/sites/<name>.yaml``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from bench.errors import UserError

SITES = Path(__file__).resolve().parents[2] / "slurm" / "sites"


@dataclass
class Site:
    """A cluster, or a part of one.  ``slurm/sites/example.yaml`` describes every key.

    Attributes:
        partition, account, qos, constraint, gres: options of sbatch; left out where null.  GPUs in ``gres`` replace
            ``gpus_per_node``.
        nodes, gpus_per_node, cpus, memory_gb: of one job; cpus per process, memory per node.
        minutes: time limit of a job, unless ``launcher.minutes`` says otherwise.
        max_array: elements of one job array; longer ones are cut.
        signal_seconds: how long before the time limit a job is warned.
        setup: shell lines before the program.
        container: command that runs the Python command behind it in a container.
        python: interpreter on the compute nodes; the one that submits unless given.
        shared: folders that compute nodes see; if given, the results folder must lie in one of them.
        options: any other long options of sbatch.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    nodes: int = 1
    gpus_per_node: int = 0
    cpus: int = 1
    memory_gb: float | None = None
    minutes: int = 240
    max_array: int = 1000
    signal_seconds: int = 120
    setup: list[str] = field(default_factory=list)
    container: str | None = None
    python: str | None = None
    shared: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def gpus(self) -> int:
        """GPUs of a node, however they are asked for (``gpu:a100:2`` are two)."""
        asked = [text.split(":") for text in (self.gres or "").split(",")]
        found = [int(words[-1]) if words[-1].isdigit() else 1 for words in asked if words[0] == "gpu"]
        return sum(found) if found else self.gpus_per_node

    def tasks(self, per_gpu: int) -> int:
        """Processes of a node; one without GPUs counts as one."""
        return per_gpu * max(self.gpus, 1)


def load_site(name: str | None) -> Site:
    """Read a profile.

    Args:
        name: a file of slurm/sites, or the path of a .yaml file.

    Raises:
        UserError: none given, unknown, not YAML, an unknown key or a value out of range.
    """
    known = ", ".join(sorted(path.stem for path in SITES.glob("*.yaml")))
    if name is None:
        raise UserError("launcher=slurm needs a site profile", f"give site=NAME, one of: {known}; or site=FILE.yaml")
    path = Path(name) if name.endswith((".yaml", ".yml")) else SITES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(
            f"unknown site {name!r}", f"choose from: {known}; or copy {SITES / 'example.yaml'} and give its path"
        )
    keys = ", ".join(Site.__dataclass_fields__)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Site), OmegaConf.load(path))
        values: Any = OmegaConf.to_container(merged, resolve=False)  # ``${HOME}`` is the shell's business
        site = Site(**values)
    # OSError: OmegaConf's for YAML that is neither a mapping nor a list
    except (YAMLError, OmegaConfBaseException, TypeError, ValueError, OSError) as error:
        raise UserError(f"cannot read the site {path}: {str(error).splitlines()[0]}", f"keys are: {keys}") from error
    least = {"nodes": 1, "cpus": 1, "minutes": 1, "max_array": 1, "gpus_per_node": 0, "signal_seconds": 0}
    for key, value in vars(site).items():
        if isinstance(value, str) and key in (*least, "memory_gb"):
            raise UserError(f"{path}: {key} is no number", "only setup lines and commands may hold ${...}")
        if value is not None and key in least and value < least[key]:
            raise UserError(f"{path}: {key}={value} is too small", f"give at least {least[key]}")
    if site.memory_gb is not None and site.memory_gb <= 0:
        raise UserError(f"{path}: memory_gb={site.memory_gb} is too small", "give more than 0, or leave it out")
    return site


def check_shared(site: Site, folder: Path) -> None:
    """Whether compute nodes see the results folder, as far as the profile says.

    Raises:
        UserError: it lies elsewhere.
    """
    places = [Path(os.path.expandvars(os.path.expanduser(place))).resolve() for place in site.shared]
    if places and not any(folder.is_relative_to(place) for place in places):
        raise UserError(
            f"the results folder {folder} is on a file system that compute nodes do not see",
            f"give one in {', '.join(site.shared)} with --results (or correct `shared` in the site profile)",
        )
