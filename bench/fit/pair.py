"""Whether a method can be built for its target, seen before anybody is told that it will be fitted."""

from __future__ import annotations

from bench.config import Config, build_method, build_target
from bench.errors import UserError
from bench.fit.members import initialise
from bench.registry import get


def require_fit(config: Config, seed: int) -> None:
    """Build target and method once, to see that they fit.

    Raises:
        UserError: the two do not fit, data or a teacher are not here, or the target names a metric that there is not.
    """
    try:
        target = build_target(config)
        for name in (*target.metrics, *filter(None, [target.curve_metric])):
            get("metric", name)
        initialise(lambda: build_method(config, target), [seed])
    except UserError:
        raise
    except Exception:  # a result of the benchmark, whatever it is: the fit meets it again and it is recorded
        return
