"""Records -> groups: one group per (problem, method, configuration), labelled by what sets it apart."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.errors import UserError
from bench.report import catalog
from bench.store import Record


@dataclass(frozen=True)
class Problem:
    """A target in one configuration; two configurations of one target are two problems, never ranked together."""

    name: str
    label: str
    config: dict[str, Any] = field(compare=False)

    @property
    def anchor(self) -> str:
        return "target-" + "".join(c if c.isalnum() else "-" for c in self.label)


@dataclass(frozen=True)
class Group:
    """All seeds of one configuration of one method on one problem."""

    problem: Problem
    method: str
    config_id: str
    label: str
    records: tuple[Record, ...] = field(compare=False)

    @property
    def done(self) -> tuple[Record, ...]:
        return tuple(r for r in self.records if r["status"] == "done")

    @property
    def failures(self) -> dict[str, int]:
        """Number of seeds per status other than done."""
        return dict(sorted(Counter(r["status"] for r in self.records if r["status"] != "done").items()))


def ordered(records: Iterable[Record]) -> list[Record]:
    """The records in an order that depends on their content alone; exact duplicates are dropped.

    Raises:
        UserError: two different records claim the same run.
    """
    seen: dict[str, tuple[str, Record]] = {}
    for record in records:
        text = json.dumps(record, sort_keys=True)
        known = seen.setdefault(record["run_id"], (text, record))
        if known[0] != text:
            raise UserError(
                f"two different records claim run {record['run_id']} ({record['method']} on {record['target']})",
                "report on one results folder at a time, or delete the one you do not trust",
            )
    return sorted((r for _, r in seen.values()), key=lambda r: (r["target"], r["method"], r["config_id"], r["seed"]))


def nfe_of(records: Iterable[Record]) -> int | None:
    """Network evaluations per draw, as counted; as configured where no seed finished; None: not a few-step sampler."""
    configured = None
    for record in records:
        counted = (record.get("metrics") or {}).get("nfe")
        if counted is not None and counted["value"] is not None:
            return round(counted["value"])
        configured = record["config"]["method"].get("nfe", configured)
    return configured


def group(records: Iterable[Record]) -> list[Group]:
    """Groups sorted by problem, then label."""
    by_problem: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in ordered(records):
        target = {"name": record["target"], **record["config"].get("target", {})}
        by_problem[json.dumps(target, sort_keys=True)][record["config_id"]].append(record)
    examples = [{key: rows[0] for key, rows in members.items()} for members in by_problem.values()]
    keys = _telling_keys(examples)
    groups = []
    for problem, members, example in zip(_problems(list(by_problem)), by_problem.values(), examples, strict=True):
        labels = _row_labels(example, keys)
        for key, rows in members.items():
            groups.append(Group(problem, rows[0]["method"], key, labels[key], tuple(rows)))
    return sorted(groups, key=lambda g: (g.problem.label, g.label, g.config_id))


def differing(configs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each nested dict, the flattened entries that are not the same in all of them."""
    flat = [flatten(config) for config in configs]
    keys = sorted({key for entries in flat for key in entries})
    absent = object()
    varying = [key for key in keys if any(f.get(key, absent) != flat[0].get(key, absent) for f in flat)]
    return [{key: f[key] for key in varying if key in f} for f in flat]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def setting(difference: dict[str, Any]) -> str:
    """``iterations=2000, batch=100``: keys are shortened to their last part where that stays unambiguous."""
    short = Counter(key.rsplit(".", 1)[-1] for key in difference)
    parts = []
    for key, value in difference.items():
        last = key.rsplit(".", 1)[-1]
        parts.append(f"{last if short[last] == 1 else key}={_shown(value)}")
    return ", ".join(parts)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"  # -1.3862943611198906 tells no more than -1.38629
    return value if isinstance(value, str) and value else json.dumps(value)


def _problems(keys: list[str]) -> list[Problem]:
    configs = [json.loads(key) for key in keys]
    found = []
    for config in configs:
        same = [c for c in configs if c["name"] == config["name"]]
        label = config["name"]
        if len(same) > 1:
            difference = setting(differing(same)[same.index(config)])
            label += f" ({difference})" if difference else ""
        elif extra := catalog.changed("target", config):
            # parameters of a target that is not registered any more may all be defaults
            label += f" ({setting(extra)})" if catalog.is_registered("target", config["name"]) else ""
        found.append(Problem(config["name"], label, config))
    return found


def _own(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record["config"].items() if key != "target"}


def _telling_keys(problems: list[dict[str, Record]]) -> dict[str, set[str]]:
    """Method -> the settings that tell its configurations apart on any one problem.

    They label the method's rows on every problem, so that the same configuration is called the same everywhere;
    settings that differ only between problems (tuned per target) are not named (but for the length of the fit, where
    methods on one problem differ in it), nor is what was measured on the way unless nothing else differs.
    """
    keys: dict[str, set[str]] = defaultdict(set)
    for examples in problems:
        if len({record["config"].get("train", {}).get("iterations") for record in examples.values()}) > 1:
            for record in examples.values():  # a board of several budgets says whose is which
                keys[record["method"]].add("train.iterations")
        for method in {record["method"] for record in examples.values()}:
            configs = [_own(record) for record in examples.values() if record["method"] == method]
            fits = [{key: value for key, value in config.items() if key != "eval"} for config in configs]
            alike = len({json.dumps(fit, sort_keys=True) for fit in fits}) < len(configs)
            for difference in differing(configs if alike else fits):
                keys[method] |= set(difference)
    return keys


def _row_labels(examples: dict[str, Record], keys: dict[str, set[str]]) -> dict[str, str]:
    """config_id -> label, unique within one problem."""
    labels = {}
    for config_id, record in examples.items():
        method = record["method"]
        shown = setting({key: value for key, value in sorted(flatten(_own(record)).items()) if key in keys[method]})
        labels[config_id] = f"{method} ({shown})" if shown else method
    clashes = Counter(labels.values())
    return {i: label if clashes[label] == 1 else f"{label} [{i}]" for i, label in labels.items()}
