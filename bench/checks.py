"""Checks of hyper-parameters, for the first lines of a method's or target's ``__init__``.

    require_positive(batch=batch, hidden=hidden, clip=clip)
    require_positive("target", s=s)

Each refuses with a ``UserError`` that names the override (``method.batch=0``).  None is an option that was not given
and passes; of a sequence every element is checked; NaN passes none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from bench.errors import UserError

Owner = Literal["method", "target"]
Value = float | Sequence[float] | None


def require_positive(owner: Owner = "method", /, **values: Value) -> None:
    """Refuse what is not above 0.

    Raises:
        UserError: naming the first.
    """
    _require(owner, values, lambda v: v > 0, "must be positive")


def require_not_negative(owner: Owner = "method", /, **values: Value) -> None:
    """Refuse what is below 0.

    Raises:
        UserError: naming the first.
    """
    _require(owner, values, lambda v: v >= 0, "must not be negative")


def require_at_least(minimum: float, owner: Owner = "method", /, **values: Value) -> None:
    """Refuse what is below ``minimum``, which is allowed itself.

    Raises:
        UserError: naming the first.
    """
    _require(owner, values, lambda v: v >= minimum, f"must be at least {minimum}")


def require_fraction(owner: Owner = "method", /, **values: Value) -> None:
    """Refuse what is outside [0, 1): decays of averages, with 1 the average would keep its first value.

    Raises:
        UserError: naming the first.
    """
    _require(owner, values, lambda v: 0 <= v < 1, "must be at least 0 and below 1")


def require_share(owner: Owner = "method", /, **values: Value) -> None:
    """Refuse what is outside [0, 1]: parts of a whole, of which 1 is all.

    Raises:
        UserError: naming the first.
    """
    _require(owner, values, lambda v: 0 <= v <= 1, "must lie between 0 and 1")


def require_choice(choices: object, owner: Owner = "method", /, **values: str) -> None:
    """Refuse what is none of the words of a ``Literal``: outside a configuration nothing else looks at it.

    Raises:
        UserError: naming the first.
    """
    words = get_args(choices)
    for name, value in values.items():
        if value not in words:
            raise UserError(f"{owner}.{name}={value} is unknown", f"choose {', '.join(words[:-1])} or {words[-1]}")


def _require(owner: Owner, values: Mapping[str, Value], holds: Callable[[float], bool], wish: str) -> None:
    for name, value in values.items():
        elements = value if isinstance(value, Sequence) else () if value is None else (value,)
        if not all(holds(v) for v in elements):
            raise UserError(f"{owner}.{name}={value} {wish}", "change the override or leave it out")
