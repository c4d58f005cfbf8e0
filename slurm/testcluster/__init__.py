"""A real, private SLURM on one machine: no systemd, loopback only, free ports, fake GPUs, gone afterwards."""

from slurm.testcluster.cluster import Cluster, missing_programs
from slurm.testcluster.settings import Settings

__all__ = ["Cluster", "Settings", "missing_programs"]
