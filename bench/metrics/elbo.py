"""Intervals of the ELBO, of KL(q || p) and of q's entropy from two-sided bounds on log q (``log_q_bounds``).

A one-sided estimate of an implicit q's ELBO is off by nats (about 7 for SIVI's bound with 50 draws in 50
dimensions), so both ends are metrics.  All are means over the same n draws; ``elbo_error`` is the Monte Carlo error.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import Tensor

from bench.errors import UserError
from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.log_q_bounds import LogQ, Protocol, log_q_bounds
from bench.metrics.reasons import implicit
from bench.registry import register
from methods.base import Method
from targets.base import Target

SOURCE = "Sobolev & Vetrov 2019, arXiv:1905.03290 (two-sided bounds)"


class BoundMetric(Metric):
    """Base of the metrics of this file, which differ in what they read off one set of bounds.

    Args:
        n: draws of x from q.
        inner: K, proposals per x.
        share: of the mixing distribution in the proposal; 1 gives SIVI's bounds and fits no reverse model.
        steps, batch, lr: of the reverse model's fit.
        width, components: of the reverse model.
    """

    unit: ClassVar[str] = "nats"
    needs_log_z: ClassVar[bool] = False
    floor_is_noise: ClassVar[bool] = False  # it is what q = p gives: log Z, an entropy, 0

    def __init__(
        self,
        *,
        n: int = 1000,
        inner: int = 500,
        share: float = 0.1,
        steps: int = 600,
        batch: int = 256,
        lr: float = 3e-3,
        width: int = 64,
        components: int = 8,
    ) -> None:
        self.n, self.inner, self.share, self.steps = n, inner, share, steps
        self.batch, self.lr, self.width, self.components = batch, lr, width, components

    def applies(self, method: Method, target: Target) -> str | None:
        if "log_prob" not in target.provides:
            return "the target has no log density"
        if self.needs_log_z and target.log_z is None:
            return "the target's normaliser is not known"
        return implicit(method)

    def __call__(self, q: Fitted) -> Value:
        if not 0 < self.share <= 1:
            raise UserError(f"share={self.share} must lie in (0, 1]", "change the protocol argument")
        bounds = log_q_bounds(q, Protocol(**vars(self)))
        return Value(float(self.read(bounds, q.target)), self.floor(q.target))

    def floor(self, target: Target) -> float | None:
        """What q = p gives, where that is known."""
        return None

    def read(self, bounds: LogQ, target: Target) -> Tensor:
        """The number."""
        raise NotImplementedError


class _Elbo(BoundMetric):
    direction: ClassVar[Literal["lower", "higher"]] = "higher"

    def floor(self, target: Target) -> float | None:
        return target.log_z


@register("metric", "elbo_lower", source=SOURCE)
class ElboLower(_Elbo):
    """Lower end of the ELBO: E log p - U_K (unnormalised p; log Z is the most it can be)."""

    def read(self, bounds: LogQ, target: Target) -> Tensor:
        return (bounds.log_p - bounds.upper).mean()


@register("metric", "elbo_upper", source=SOURCE, ranked=False)
class ElboUpper(_Elbo):
    """Upper end of the ELBO: E log p - L_K; equal to the lower end where log q is exact."""

    def read(self, bounds: LogQ, target: Target) -> Tensor:
        return (bounds.log_p - bounds.lower).mean()


@register("metric", "elbo_error", source=SOURCE, ranked=False)
class ElboError(BoundMetric):
    """Monte Carlo standard error of the middle of the ELBO's interval (the ends move together with the draws of x)."""

    def read(self, bounds: LogQ, target: Target) -> Tensor:
        middle = bounds.log_p - 0.5 * (bounds.lower + bounds.upper)
        return middle.std() / math.sqrt(len(middle))


@register("metric", "log_q_gap", source=SOURCE, ranked=False)
class LogQGap(BoundMetric):
    """U_K - L_K, the width of the interval of E log q: an error of the bounds, not of the fit; 0 if exact."""

    def floor(self, target: Target) -> float | None:
        return 0.0

    def read(self, bounds: LogQ, target: Target) -> Tensor:
        return (bounds.upper - bounds.lower).mean()


class _Kl(BoundMetric):
    needs_log_z: ClassVar[bool] = True

    def floor(self, target: Target) -> float | None:
        return 0.0


@register("metric", "kl_reverse_lower", source=SOURCE, ranked=False)
class KlReverseLower(_Kl):
    """Lower end of KL(q || p) = log Z - ELBO, where log Z is known."""

    def read(self, bounds: LogQ, target: Target) -> Tensor:
        assert target.log_z is not None
        return (bounds.lower - bounds.log_p).mean() + target.log_z


@register("metric", "kl_reverse_upper", source=SOURCE)
class KlReverseUpper(_Kl):
    """Upper end of KL(q || p) = log Z - ELBO, where log Z is known."""

    def read(self, bounds: LogQ, target: Target) -> Tensor:
        assert target.log_z is not None
        return (bounds.upper - bounds.log_p).mean() + target.log_z


class _Entropy(BoundMetric):
    direction: ClassVar[Literal["lower", "higher"]] = "higher"

    def floor(self, target: Target) -> float | None:
        return target.entropy


@register("metric", "entropy_lower", source=SOURCE, ranked=False)
class EntropyLower(_Entropy):
    """Lower end of q's entropy, -U_K; larger is wider, which is better only up to the entropy of p."""

    def read(self, bounds: LogQ, target: Target) -> Tensor:
        return -bounds.upper.mean()


@register("metric", "entropy_upper", source=SOURCE, ranked=False)
class EntropyUpper(_Entropy):
    """Upper end of q's entropy, -L_K."""

    def read(self, bounds: LogQ, target: Target) -> Tensor:
        return -bounds.lower.mean()
