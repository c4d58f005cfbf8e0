"""Whether a method can be built for its target, seen before anybody is told that it will be fitted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from bench.config import Config, build_method, build_target, handing_over
from bench.errors import UserError
from bench.fit.members import initialise


@contextmanager
def built(config: Config, seed: int, device: torch.device) -> Iterator[None]:
    """Build the pair as the fit does; within the block the fit takes over the target, the part that may be slow.

    Raises:
        UserError: the two do not fit, or data or a teacher are not here.
    """
    ready: AbstractContextManager[None] = nullcontext()
    try:
        # On the fit's device and in its dtype, because a method may leave something derived from it in the target.
        target = build_target(config).to(device, getattr(torch, config.train["dtype"]))
        initialise(lambda: build_method(config, target), [seed])
        ready = handing_over(config, target)
    except UserError:
        raise
    except Exception:  # a result of the benchmark, whatever it is: the fit meets it again and it is recorded
        pass
    with ready:
        yield
