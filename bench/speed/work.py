"""Arithmetic of the full image experiments of ``conf/paper``, counted on networks without values; nothing is timed.

    python -m bench.speed.work --output results/speed/full_size_work.json

With F operations of one evaluation of the network for one image, a backward pass through activations and through
parameters costs F each.  One row of a step of N layers costs

    critic:   N - 1 evaluations of the rollout, the transition, and forward and backward of the critic: (N + 3) F;
    student:  N - 1 of the rollout, forward and backward of the student, forward and backward to x of critic and
              teacher: (N + 6) F, and 3 F more where activations are computed again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.config import compose
from bench.environment import git_state
from bench.files import write_atomic
from bench.reproduce.tables import load_table
from bench.speed.full_size import ARCHITECTURES
from targets.diffusion.networks import make_network


def evaluation(table: str) -> tuple[int, int]:
    """Parameters of a table's network, and operations of one evaluation for one image."""
    shape, name, given, _ = ARCHITECTURES[table]
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = make_network(name, shape, given)
        net(torch.empty(1, prod(shape)), torch.empty(1))
    return sum(p.numel() for p in net.parameters()), counter.get_total_flops()


def row_of_step(nfe: int, recompute: bool) -> tuple[int, int]:
    """Evaluations' worth of one row of a step of the critic and of the student."""
    return nfe + 3, nfe + 6 + 3 * recompute


def experiments(table: str) -> list[dict[str, Any]]:
    """Operations of each trained cell of a table, at its full budget."""
    parameters, flops = evaluation(table)
    found = []
    for spec in load_table(table).cells:
        config = compose([*spec.overrides])
        method = config.method
        if "critic_steps" not in method:
            continue
        critic, student = row_of_step(method["nfe"], method["recompute"])
        rows = method["batch"] * config.train["processes"]
        total = config.train["iterations"] * rows * flops * (method["critic_steps"] * critic + student)
        about = {"table": table, "nfe": method["nfe"], "parameters": parameters, "flops_per_evaluation": flops}
        found.append({**about, "flops": total})
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Count all tables and write them."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed.work", description=__doc__)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(given)
    sha, dirty = git_state()
    rows = [row for table in ARCHITECTURES for row in experiments(table)]
    for row in rows:
        print(f"{row['table']:<18} NFE {row['nfe']:>2}  {row['flops'] / 1e18:6.2f} EFLOP", flush=True)
    if args.output:
        content = {"git": sha, "dirty": dirty, "torch": torch.__version__, "rows": rows}
        write_atomic(args.output, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
