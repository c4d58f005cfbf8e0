"""From a configuration and a group of seeds to finished records: build, fit, evaluate."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch

from bench.config import Config, build_method, build_target
from bench.device import forget_peak, peak_bytes, resolve_device
from bench.digest import digest
from bench.environment import environment, plugins
from bench.fit.attempts import attempts
from bench.fit.checkpoint import covering
from bench.fit.loop import Fit, fit, save
from bench.fit.members import initialise
from bench.fit.parallel import processes_of
from bench.fit.parameters import save_parameters
from bench.fit.program import member_values
from bench.fit.progress import Progress
from bench.metrics.base import Fitted
from bench.metrics.evaluate import evaluate
from bench.metrics.images.sets import image_shape
from bench.mirror.follow import current
from bench.pictures import PICTURED, grid
from bench.record import new_record
from bench.registry import get
from bench.store import Record, Store
from methods.base import Method
from targets.base import Target

log = logging.getLogger("sivibench")

_MADE_WITH = ("source", "plugins", "operations", "torch", "packages", "device_name", "threads", "compile")
"""What of ``env`` may change a number that a configuration computes, be it by rounding."""


def fit_group(config: Config, seeds: Sequence[int], store: Store) -> Iterator[Record]:
    """Fit ``seeds`` together and evaluate one after another; continues from a checkpoint if there is one.

    Yields:
        A record with status ``done`` or ``diverged`` for each seed asked for; none in processes that only help.

    Raises:
        UserError: unreadable checkpoint, full disk, missing data.
    """
    device = resolve_device(config.device)
    env = environment(device=device, threads=config.threads, compile=config.compile)  # now: files may change later
    dtype = getattr(torch, config.train["dtype"])
    iterations = config.train["iterations"]
    checkpoint = covering(store.artifacts / "checkpoints", config.config_id, seeds)
    group = checkpoint.seeds  # the whole saved group goes on, so that its arithmetic does not change
    forget_peak(device)
    target = build_target(config).to(device, dtype)
    members = [m.to(device, dtype) for m in initialise(lambda: build_method(config, target), group)]
    env["operations"] = members[0].operations() | target.operations()
    if others := plugins(type(members[0]), type(target)):
        env["plugins"] = others
    evaluation = _Evaluation(config, target, members[0], group)
    for name in _idle(members[0], iterations):
        log.warning(
            "warning: %s of %s never moves: it begins after the %d iterations of this run; "
            "raise train.iterations or shorten what comes before (`sivibench list --verbose`)",
            name, members[0].registered_name, iterations,
        )  # fmt: skip
    processes = processes_of(config)
    show = {"auto": None, "always": True, "never": False}[config.progress]
    label = f"{config.method['name']} x {config.target['name']} x {len(group)} seeds"
    run = fit(
        members,
        group,
        iterations,
        compile=config.compile,
        checkpoint=checkpoint,
        checkpoint_seconds=config.checkpoint_seconds,
        curve_steps=evaluation.steps,  # all processes pause there, so that all ask each other equally often
        curve_hook=evaluation.curve_point if processes.first else None,
        attempts=attempts(config, group, store),
        made_with=_plain({key: env[key] for key in _MADE_WITH if key in env}),
        progress=Progress(iterations, show=show if processes.first else False, label=label),
        watch=_mirror,
        processes=processes,
    )
    if not processes.first:
        return
    save(run, checkpoint)  # evaluation may be interrupted too
    if len(run.made_with) > 1:
        env["made_with"] = run.made_with
        changed = [key for key in _MADE_WITH if any(m.get(key) != run.made_with[0].get(key) for m in run.made_with)]
        log.warning("%s: %s changed between interruptions; the record has all", label, ", ".join(changed))
    for row, seed in enumerate(group):
        if seed in seeds:
            save_parameters(store.parameters, config.run_id(seed), member_values(run.state, row))
            yield evaluation.record(run, row, env)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As a record has them when it is read: torch's version is a class of its own, which no checkpoint may hold."""
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


class _Evaluation:
    """Curve points during the fit and the records after it, all through one method object that is loaded per seed."""

    def __init__(self, config: Config, target: Target, template: Method, seeds: Sequence[int]) -> None:
        self.config, self.target, self.seeds = config, target, list(seeds)
        self.method = initialise(lambda: build_method(config, target), seeds[:1])[0]
        tensor = next(chain(template.parameters(), template.buffers()))  # a sampler may have no parameters
        self.method.to(tensor.device, tensor.dtype)
        self.device = tensor.device
        iterations, points = config.train["iterations"], config.eval["curve_points"]
        followed = bool(target.curve_metric)
        self.steps = sorted({max(1, round(iterations * (i + 1) / points)) for i in range(points)}) if followed else []

    def _fitted(self, run: Fit, row: int) -> Fitted:
        run.member(row, self.method)
        return Fitted(self.method, self.target, self.seeds[row], self.device)

    def curve_point(self, step: int, run: Fit) -> dict[str, Any]:
        """The followed metric of every seed alive."""
        name = self.target.curve_metric
        cheaper = {name: get("metric", name).obj.curve}
        values: list[float | None] = []
        protocols: dict[str, Any] = {}
        for row in range(len(self.seeds)):
            if run.diverged_at(row) is not None:
                values.append(None)
                continue
            metrics, found, _ = evaluate([name], self._fitted(run, row), cheaper)
            values.append(metrics[name]["value"] if name in metrics else None)
            protocols |= found
        return {"metric": name, "values": values, "protocols": protocols}

    def record(self, run: Fit, row: int, env: dict[str, Any]) -> Record:
        """The record of one seed."""
        died = run.diverged_at(row)
        fields: dict[str, Any] = {
            "curve": _curves(run, row),
            "protocols": {},
            "diverged_at": died,
            "idle": _idle(self.method, run.program.iterations),
            "parameters_sha256": digest(member_values(run.state, row)),
            "cost": self._cost(run),
        }
        for point in run.curve:
            fields["protocols"] |= point["protocols"]
        if died is None:
            fitted = self._fitted(run, row)
            names = self.config.eval["metrics"]
            names = self.target.metrics if names is None else names
            metrics, protocols, skipped = evaluate(names, fitted)
            fields |= {"metrics": metrics, "skipped_metrics": skipped}
            fields["protocols"] |= protocols
            if fitted.drawn:
                fields["cost"]["draw_seconds_per_1000"] = float(f"{1000 * fitted.draw_seconds / fitted.drawn:.4g}")
            if self.target.dim == 2 and (count := self.config.eval["samples"]) > 0:
                draws = fitted.draws(count, "samples")
                fields["samples"] = [[round(v, 3) for v in pair] for pair in draws.tolist()]
            if "images" in self.target.provides:
                shape = image_shape(self.target)
                fields["images"] = grid(fitted.draws(PICTURED, "samples"), shape)
        return new_record(self.config, self.seeds[row], "done" if died is None else "diverged", env=env, **fields)

    def _cost(self, run: Fit) -> dict[str, Any]:
        return {
            "seconds": round(run.seconds, 3),
            "cpu_seconds": None if math.isnan(run.cpu_seconds) else round(run.cpu_seconds, 3),
            "setup_seconds": round(run.setup_seconds, 3),
            "curve_seconds": round(run.curve_seconds, 3),
            "seeds_sharing": len(run.seeds),
            "iterations": run.step,
            "iterations_per_second": round(run.step / run.seconds, 3) if run.seconds else None,
            "target_evaluations": run.program.target_evaluations(run.step),
            "peak_bytes": peak_bytes(self.device),
        }


def _idle(method: Method, iterations: int) -> list[str]:
    """Players that begin after the run's end.

    A run of one iteration is a look at how a method starts; in a longer one every player is meant to move.
    """
    return [player.name for player in method.players() if iterations > 1 and player.start >= iterations]


def _mirror(run: Fit) -> None:
    """Tell the mirror of this fit, if there is one, how far it is."""
    if (mirror := current()) is not None:
        mirror.report(((seed, _curves(run, row)) for row, seed in enumerate(run.seeds)), run.program.iterations)


def _curves(run: Fit, row: int) -> dict[str, Any]:
    losses = {
        player: {"step": run.loss_steps, "value": [float(f"{point[row]:.6g}") for point in points]}
        for player, points in run.losses.items()
    }
    metrics: dict[str, Any] = {}
    for step, point in zip(run.curve_steps, run.curve, strict=True):
        if point["values"][row] is None:
            continue
        curve = metrics.setdefault(
            point["metric"], {"step": [], "value": [], "protocol": next(iter(point["protocols"]))}
        )
        curve["step"].append(step)
        curve["value"].append(float(f"{point['values'][row]:.6g}"))
    return {"loss": losses, "metrics": metrics}
