"""Sweeps: many configurations from a few lines, run in parallel, repeated until nothing is missing."""

from bench.sweep.plan import Cell, Plan, make_plan
from bench.sweep.run import Outcome, run_sweep

__all__ = ["Cell", "Outcome", "Plan", "make_plan", "run_sweep"]
