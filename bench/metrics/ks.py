"""Two-sample Kolmogorov-Smirnov statistics of marginals: invariant under monotone maps and robust to heavy tails."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.reasons import without_truth
from bench.registry import register
from methods.base import Method
from targets.base import Target

SOURCE = "two-sample Kolmogorov-Smirnov test; protocol of Yin & Zhou 2018 (SIVI), arXiv:1805.11183"


def ks_distances(x: Tensor, y: Tensor) -> Tensor:
    """Largest difference of the empirical distribution functions per coordinate; [n, d], [m, d] -> [d]."""
    both = torch.cat([x, y]).T.contiguous()
    below_x, below_y = (
        torch.searchsorted(part.T.contiguous().sort(1).values, both, right=True).double() / len(part) for part in (x, y)
    )
    worst = (below_x - below_y).abs().amax(1)
    return torch.where(x.isnan().any(0), math.nan, worst)


class _KS(Metric):
    """n draws of q against n of p.

    Args:
        n: draws per side; 2000 in the SIVI paper.
    """

    floor_is_noise: ClassVar[bool] = False

    def __init__(self, *, n: int = 2000) -> None:
        self.n = n

    def applies(self, method: Method, target: Target) -> str | None:
        return without_truth(target)

    def _compare(self, q: Fitted) -> tuple[Tensor, Tensor]:
        """KS distances of q's draws and of other truth draws from the same truth draws, two [d]."""
        key = ("ks", self.n)
        if key not in q.cache:
            truth, other = q.truth_pair(self.n)
            q.cache[key] = ks_distances(q.draws(self.n), truth), ks_distances(other, truth)
        return q.cache[key]


@register("metric", "ks_max", source=SOURCE)
class KSMax(_KS):
    """Largest two-sample KS distance over the coordinates; in [0, 1], with the same for truth as floor."""

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        found, floor = self._compare(q)
        return Value(float(found.max()), float(floor.max()))


class _Marginal(_KS):
    """The KS distance of the coordinate that a target calls ``coordinate``."""

    coordinate: ClassVar[str]

    def applies(self, method: Method, target: Target) -> str | None:
        if self.coordinate not in target.coordinate_names:
            return f"the target has no coordinate called {self.coordinate}"
        return super().applies(method, target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        i = q.target.coordinate_names.index(self.coordinate)
        found, floor = self._compare(q)
        return Value(self.statistic(float(found[i])), self.statistic(float(floor[i])))

    def statistic(self, distance: float) -> float:
        return distance


class _PValue(_Marginal):
    """Its p-value: uniform on [0, 1] for draws of p, so a value is evidence only where it is small
    and none is ranked."""

    direction: ClassVar[Literal["lower", "higher"]] = "higher"

    def statistic(self, distance: float) -> float:
        """P(D > distance) for two samples of n draws of the same law, asymptotically."""
        from scipy.stats import kstwobign

        return math.nan if math.isnan(distance) else float(kstwobign.sf(distance * math.sqrt(self.n / 2)))


@register("metric", "ks_distance_r", source=SOURCE)
class KSDistanceR(_Marginal):
    """Two-sample KS distance of the marginal of r (negative binomial), 2000 against 2000 draws."""

    coordinate = "r"
    published_as: ClassVar[tuple[tuple[str, str], ...]] = (("ks_distance", "ks-2000"),)
    published_setting: ClassVar[str] = "marginal of r"


@register("metric", "ks_distance_p", source=SOURCE)
class KSDistanceP(_Marginal):
    """Two-sample KS distance of the marginal of p (negative binomial), 2000 against 2000 draws."""

    coordinate = "p"
    published_as: ClassVar[tuple[tuple[str, str], ...]] = (("ks_distance", "ks-2000"),)
    published_setting: ClassVar[str] = "marginal of p"


@register("metric", "ks_pvalue_r", source=SOURCE, ranked=False)
class KSPValueR(_PValue):
    """p-value of the two-sample KS test of the marginal of r (negative binomial), 2000 against 2000 draws."""

    coordinate = "r"
    published_as: ClassVar[tuple[tuple[str, str], ...]] = (("ks_pvalue", "ks-2000"),)
    published_setting: ClassVar[str] = "marginal of r"


@register("metric", "ks_pvalue_p", source=SOURCE, ranked=False)
class KSPValueP(_PValue):
    """p-value of the two-sample KS test of the marginal of p (negative binomial), 2000 against 2000 draws."""

    coordinate = "p"
    published_as: ClassVar[tuple[tuple[str, str], ...]] = (("ks_pvalue", "ks-2000"),)
    published_setting: ClassVar[str] = "marginal of p"
