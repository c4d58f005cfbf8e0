"""One optimisation step of the image experiments of ``conf/paper`` at their true sizes: seconds, memory, arithmetic.

    python -m bench.speed.full_size hsivi_cifar10 --batch 2 --output results/speed/full_size_cpu.json

Neither images nor a published teacher is needed: the network of the right architecture has random weights.  Each player
moves once, so that any number of steps of the critic and of processes can be worked out from the figures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.config import compose
from bench.config.schema import arguments
from bench.device import clock, hardware, peak_bytes, resolve_device
from bench.environment import environment
from bench.errors import UserError
from bench.files import write_atomic
from bench.fit.compiled import build
from bench.fit.members import initialise
from bench.fit.program import Program
from bench.fit.tape import Tape
from bench.registry import get
from bench.reproduce.tables import load_table
from targets.base import Target
from targets.diffusion.eps import EpsTeacher, FrozenTeacher
from targets.diffusion.networks import make_network
from targets.diffusion.schedule import Schedule, schedule_of

Architecture = tuple[tuple[int, int, int], str, Mapping[str, Any], str]
"""Shape of the images, network, its arguments, schedule."""

ARCHITECTURES: dict[str, Architecture] = {
    "hsivi_cifar10": ((3, 32, 32), "image_unet", {"eps": 1e-5}, "linear"),
    "hsivi_celeba64": (
        (3, 64, 64),
        "image_unet",
        {"multipliers": (1, 2, 2, 2, 4), "attention": (2,), "eps": 1e-5},
        "linear",
    ),
    "hsivi_imagenet64": (
        (3, 64, 64),
        "image_unet",
        {"family": "improved", "multipliers": (1, 2, 3, 4), "blocks": 3, "attention": (2, 3), "heads": 4},
        "cosine",
    ),
}
"""Teachers of the tables of ``conf/paper``, whose notes have the sources."""


class Unseen(Target):
    """Images that are not here, with a teacher of random weights.

    Args:
        architecture: of the teacher.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.shape, name, given, schedule = architecture
        self.dim = self.shape[0] * self.shape[1] * self.shape[2]
        self.network = (name, given)
        self.schedule = {"name": schedule}

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({"teacher", "images"})

    def teacher(self, schedule: Schedule | None = None) -> EpsTeacher:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net: nn.Module = make_network(self.network[0], self.shape, self.network[1])
        return FrozenTeacher(net, schedule or schedule_of(self.schedule), self.dim)


def step(table: str, overrides: Sequence[str], device: torch.device) -> dict[str, Any]:
    """Measure the first trained cell of a table, with ``overrides`` on top.

    Returns:
        Parameters of the network; per player seconds and floating-point operations of one step; peak memory in bytes.

    Raises:
        UserError: a table that is not in ``ARCHITECTURES``.
    """
    if table not in ARCHITECTURES:
        raise UserError(f"no architecture is known of {table!r}", f"choose from: {', '.join(ARCHITECTURES)}")
    spec = load_table(table).cells[1]  # 10 layers: no other student is needed
    config = compose([*spec.overrides, "train.processes=1", "method.critic_steps=1", *overrides])
    entry = get("method", config.method["name"])
    target = Unseen(ARCHITECTURES[table]).to(device)
    members = [m.to(device) for m in initialise(lambda: entry.obj(target, **arguments(entry, config.method)), [0])]
    program = Program(members[0], config.train["iterations"])
    state = program.initial_state(members)
    tape = Tape([0], program.draws_per_iteration, program.device, program.dtype)
    tape.load(0)
    players = {}
    for player in program.players:
        started = time.perf_counter()
        advance = build(program, state, tape.tensors(), compile=False, moving=frozenset({player.name}))
        setup = time.perf_counter() - started
        with FlopCounterMode(display=False) as counter:
            advance()
        started = clock(device)
        advance()
        players[player.name] = {
            "seconds": round(clock(device) - started, 3),
            "flops": counter.get_total_flops(),
            "setup_seconds": round(setup, 1),
        }
    return {
        "table": table,
        "overrides": list(overrides),
        "batch": config.method["batch"],
        "nfe": config.method["nfe"],
        "precision": config.method["precision"],
        "recompute": config.method["recompute"],
        "parameters": sum(p.numel() for p in target.teacher().parameters()),
        "players": players,
        "peak_bytes": peak_bytes(device),
    }


def main(given: Sequence[str] | None = None) -> None:
    """Measure one table and add the row to a file."""
    parser = argparse.ArgumentParser(prog="python -m bench.speed.full_size", description=__doc__)
    parser.add_argument("table", choices=list(ARCHITECTURES))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("overrides", nargs="*", help="for example method.recompute=true method.precision=bfloat16")
    args = parser.parse_intermixed_args(given)
    torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    row = step(args.table, [f"method.batch={args.batch}", *args.overrides], device)
    row["env"] = environment(device, threads=args.threads, compile=False)
    row["hardware"] = hardware(device, args.threads)
    print(json.dumps({key: value for key, value in row.items() if key != "env"}, indent=1))
    if args.output:
        rows = json.loads(args.output.read_text()) if args.output.is_file() else []
        write_atomic(args.output, (json.dumps([*rows, row], indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
