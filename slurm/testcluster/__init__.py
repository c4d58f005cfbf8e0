"""A real, private SLURM on one machine: no systemd, loopback only, free ports, fake GPUs, gone afterwards."""

from slurm.testcluster.cluster import Cluster, missing_programs

__all__ = ["Cluster", "missing_programs"]
