"""Training a teacher: an ordinary recorded run whose averaged weights are published for methods that distil."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from bench.config import Config, build_method, build_target, compose
from bench.config.overrides import CONF
from bench.errors import UserError
from bench.fit.compiled import has_compiler
from bench.fit.layout import layouts, load
from bench.fit.parameters import load_parameters
from bench.run import execute
from bench.store import Record, Store
from methods.base import Method
from targets.diffusion.files import publish, read_card, teachers_folder

FOLDER = CONF / "teacher"
Tell = Callable[[str], None]


def names() -> list[str]:
    """The teachers of ``conf/teacher``."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def configuration(name: str, overrides: Sequence[str] = ()) -> Config:
    """The run that trains the teacher ``name``.

    Raises:
        UserError: no such teacher, or overrides that do not fit.
    """
    if name not in names():
        raise UserError(f"unknown teacher {name!r}", f"choose from: {', '.join(names())}")
    lines: Any = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["overrides"]
    return compose([*lines, *overrides])


def train(config: Config, tell: Tell) -> list[Path]:
    """Publish a teacher for every seed of a configuration, fitting what is not on record.

    Raises:
        UserError: the method trains no teacher, or one of its runs is elsewhere or has diverged.
        RunFailed: a fit raised.
    """
    paths = []
    for record in execute(config, progress=tell):
        if record["status"] != "done":
            raise UserError(f"{record['run_id']} is {record['status']}", "nothing is published; see `sivibench status`")
        path = teachers_folder() / f"{record['run_id']}.safetensors"
        if path.is_file() and path.with_suffix(".json").is_file():
            about = read_card(path, "sivibench teacher").about
            _compare(record, about.get("parameters_sha256", ""), tell)
        else:
            path = _publish(config, record, tell)
        paths.append(path)
        tell(f"{record['run_id']}  {path}")
    return paths


def _publish(config: Config, record: Record, tell: Tell) -> Path:
    values, fitted = _parameters(config, record, tell)
    target = build_target(config)
    method: Method = build_method(config, target)
    load(layouts(method, list(method.players())), values, method)
    found = method.published()
    if found is None:
        raise UserError(f"method {config.method['name']!r} trains no teacher", "see the methods of conf/teacher")
    net, card = found
    metrics = {k: v["value"] for k, v in fitted["metrics"].items()}
    about = {"parameters_sha256": fitted["parameters_sha256"], "metrics": metrics}
    return publish(net, replace(card, run=record["run_id"], about=about))


def _parameters(config: Config, record: Record, tell: Tell) -> tuple[dict[str, Any], Record]:
    """Parameters of a finished run and its record; where they were not kept, those of a second fit in the cache.

    The second fit is compiled if the first one was, and has as many threads: rounding differs between the ways.
    """
    run_id, seed = record["run_id"], record["seed"]
    values = load_parameters(Store(config.results).parameters, run_id, record["parameters_sha256"])
    if values is not None:
        return values, record
    tell(f"{run_id} is on record, but its parameters are not in {config.results}: fitted again in the cache")
    env, folder = record["env"], teachers_folder() / "runs"
    compile = bool(env["compile"]) and has_compiler()
    again = replace(config, seeds=[seed], results=str(folder), compile=compile, threads=env["threads"])
    (second,) = execute(again, progress=tell)
    if second["status"] != "done":
        raise UserError(
            f"the second fit of {run_id} is {second['status']}",
            f"nothing is published; wait for it if another process runs it, else delete {folder} and repeat",
        )
    values = load_parameters(Store(again.results).parameters, run_id, second["parameters_sha256"])
    if values is None:
        raise UserError(f"the parameters of {run_id} are not in {again.results}", "delete that folder and repeat")
    _compare(record, second["parameters_sha256"], tell)
    return values, second


def _compare(record: Record, digest: str, tell: Tell) -> None:
    """Say whether the fit with parameters of this digest is the recorded one."""
    if digest == record["parameters_sha256"]:
        tell(f"{record['run_id']}: the same bits as the run on record")
        return
    tell(f"{record['run_id']}: other bits than the run on record, which was fitted on {record['env']['device_name']}")
    tell("  every record names the sha256 of its teacher: runs with the two are not of the same teacher")
