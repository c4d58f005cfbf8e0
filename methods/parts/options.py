"""Hyper-parameters that a subclass adds to those of its parent, and those that others make idle."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import TypeVar

from bench.errors import UserError

Init = TypeVar("Init", bound=Callable[..., None])


def with_options_of(parent: type[object]) -> Callable[[Init], Init]:
    """Decorator of an ``__init__(self, target, *, own options, **options)`` that hands ``options`` to ``parent``.

    The signature that the registry and the configuration read then lists the parent's keyword-only options, with
    their defaults and annotations, before the subclass's own (which win where names agree).
    """

    def add(init: Init) -> Init:
        inherited, own = inspect.signature(parent.__init__), inspect.signature(init)  # type: ignore[misc]
        listed = {k: p for k, p in inherited.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        listed |= {k: p for k, p in own.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        first = [p for p in own.parameters.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        hints = typing.get_type_hints(parent.__init__)  # type: ignore[misc]
        init.__annotations__ = {k: v for k, v in hints.items() if k in listed} | init.__annotations__
        init.__signature__ = own.replace(parameters=[*first, *listed.values()])  # type: ignore[attr-defined]
        return init

    return add


def refuse_unused(method: object, given: str, **values: object) -> None:
    """Refuse options that another one makes idle and that are not at their defaults: the run would be one without them.

    Args:
        given: what makes them idle, as an override: ``optimiser=adam``.
        values: the options.

    Raises:
        UserError: naming the first.
    """
    options = inspect.signature(type(method)).parameters  # a subclass may have fewer, and means what it sets itself
    for name, value in values.items():
        if name in options and value != options[name].default:
            idle = options[name].default
            raise UserError(
                f"method.{name} with {given} has no effect", f"leave one of them out, or give {name}={idle}"
            )
