"""Objects that a traced program calls back into, by number: an operation's arguments are tensors and numbers only.

A number is the smallest one free, so that equal programs traced in different processes have equal text and find each
other in the compiler's cache.  The object is held weakly: the traced graph keeps it alive (``bench.fit.compiled``).
"""

from __future__ import annotations

from itertools import count
from weakref import WeakValueDictionary

from torch import nn

_LIVE: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()


def number(module: nn.Module) -> int:
    """The number under which ``module`` is found; always the same one while it lives."""
    for key, known in list(_LIVE.items()):
        if known is module:
            return key
    free = next(i for i in count() if i not in _LIVE)
    _LIVE[free] = module
    return free


def module(number: int) -> nn.Module:
    """The module of that number.

    Raises:
        KeyError: it is no longer alive.
    """
    return _LIVE[number]
