"""How fast batched runs went, from what is on record."""

from __future__ import annotations

from dataclasses import dataclass

from bench.config import Config
from bench.record import glance
from bench.store import Store


@dataclass(frozen=True)
class Pace:
    """The longest fit of a method on a target, the latest of equally long ones.

    Attributes:
        seconds: per iteration.
        curve_seconds: per curve point.
        seeds: that shared the fit.
        device: where it ran.
        iterations, created: of the fit.
    """

    seconds: float
    curve_seconds: float
    seeds: int
    device: str
    iterations: int
    created: str

    def estimate(self, config: Config) -> float:
        """Seconds a batched run may take.  A GPU has room for more seeds, a CPU has not."""
        share = 1.0 if self.device.startswith("cuda") else len(config.seeds) / self.seeds
        curve = self.curve_seconds * config.eval["curve_points"] * len(config.seeds) / self.seeds
        return float(self.seconds * config.train["iterations"] * share + curve)


Paces = dict[tuple[str, str], Pace]
"""By method and target."""


def pace(store: Store) -> Paces:
    """The pace of each method on each target; records that cannot be read are passed over."""
    found: Paces = {}
    for path in store.files():
        fields = glance(path, ("method", "target", "config", "cost", "env", "created"))
        cost, env = fields.get("cost"), fields.get("env")
        if not (isinstance(cost, dict) and isinstance(env, dict) and cost.get("seconds") and cost.get("iterations")):
            continue
        points = ((fields.get("config") or {}).get("eval") or {}).get("curve_points") or 1
        here = Pace(
            cost["seconds"] / cost["iterations"],
            cost.get("curve_seconds", 0.0) / points,
            cost.get("seeds_sharing") or 1,
            str(env.get("device")),
            cost["iterations"],
            str(fields.get("created")),
        )
        key = str(fields.get("method")), str(fields.get("target"))
        if key not in found or (found[key].iterations, found[key].created) < (here.iterations, here.created):
            found[key] = here
    return found


def pace_of(config: Config, paces: Paces) -> Pace | None:
    """The pace of a configuration's method on its target, if there is one."""
    return paces.get((config.method["name"], config.target["name"]))
