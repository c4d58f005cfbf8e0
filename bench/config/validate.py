"""What types alone cannot say: ranges, choices, seeds, device names, metric names."""

from __future__ import annotations

from typing import Any

from bench import registry
from bench.config.schema import AT_LEAST, CHOICES, allowed_values
from bench.device_names import check_device_name
from bench.errors import UserError


def validate(values: dict[str, Any]) -> None:
    """Check composed values.

    Raises:
        UserError: naming the key, the value given and what is allowed.
    """
    for key, least in AT_LEAST.items():
        value = _at(values, key)
        if value is not None and not value >= least:  # so that NaN is refused, too
            raise UserError(f"{key}={value} is too small", f"give at least {least}")
    for key, choices in CHOICES.items():
        _one_of(key, _at(values, key), choices)
    check_device_name(values["device"])
    for kind in ("method", "target"):
        entry = registry.get(kind, values[kind]["name"])  # type: ignore[arg-type]
        for key, parameter in entry.parameters.items():
            literals = allowed_values(parameter.annotation)
            if literals is not None and values[kind][key] is not None:
                _one_of(f"{kind}.{key}", values[kind][key], literals)
    metrics = values["eval"]["metrics"] or ()
    for name in metrics:
        if metrics.count(name) > 1:
            raise UserError(f"eval.metrics names {name} twice", "name each metric once")
        registry.get("metric", name)


def parse_seeds(value: Any) -> list[int]:
    """``n`` -> [0, ..., n-1]; a list stands for itself.

    Raises:
        UserError: not a whole number or a list of them, none at all, negative, or given twice.
    """
    hint = "give a count (seeds=10 means 0..9) or a list (seeds=[3,7])"
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise UserError(f"seeds={value} asks for no seed", hint)
        return list(range(value))
    whole = isinstance(value, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in value)
    if not whole or not value:
        raise UserError(f"seeds={value} is neither a whole number nor a list of them", hint)
    if min(value) < 0:
        raise UserError(f"seeds={value} has the negative seed {min(value)}", "seeds count from 0")
    twice = sorted({seed for seed in value if value.count(seed) > 1})
    if twice:
        raise UserError(f"seeds={value} names {twice[0]} twice", "name each seed once")
    return list(value)


def _one_of(key: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise UserError(f"{key}={value} is not a choice", f"choose from: {', '.join(map(str, choices))}")


def _at(values: dict[str, Any], key: str) -> Any:
    node: Any = values
    for part in key.split("."):
        node = node[part]
    return node
