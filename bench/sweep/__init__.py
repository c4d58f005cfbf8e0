"""Sweeps: many configurations from a few lines, run in parallel, repeated until nothing is missing."""

from bench.sweep.run import Outcome, run_sweep

__all__ = ["Outcome", "run_sweep"]
