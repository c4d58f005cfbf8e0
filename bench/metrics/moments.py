"""Errors of the marginal means, the marginal standard deviations and the correlations of q.

The reference set R is the whole stored reference where one is needed, else 2n exact draws.  Values compare n draws
of q with R; floors compare the two disjoint halves of R (n per side for exact draws, half the stored rows per side
otherwise), so the floor is larger than the noise of the value: as sqrt(4 / |R|) to sqrt(1 / n + 1 / |R|).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bench.metrics.base import Fitted, Metric, Value
from bench.metrics.reasons import without_truth
from bench.registry import register
from methods.base import Method
from targets.base import Target


def mean_error(x: Tensor, reference: Tensor) -> Tensor:
    """sqrt(mean_i ((mean_i - mean_ref,i) / sd_ref,i)^2); [n, d], [m, d] -> scalar."""
    return ((x.mean(0) - reference.mean(0)) / reference.std(0)).square().mean().sqrt()


def sd_error(x: Tensor, reference: Tensor) -> Tensor:
    """sqrt(mean_i (log sd_i - log sd_ref,i)^2); [n, d], [m, d] -> scalar."""
    return (x.std(0).log() - reference.std(0).log()).square().mean().sqrt()


def correlation_error(x: Tensor, reference: Tensor) -> Tensor:
    """Root mean square of rho_ij - rho_ref,ij over all pairs i < j; [n, d], [m, d] -> scalar."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return (torch.corrcoef(x.T) - torch.corrcoef(reference.T))[i, j].square().mean().sqrt()


class MomentError(Metric):
    """Base of the three: n draws of q against the reference set.

    Args:
        n: draws of q (and half of the exact draws of p, where p has an exact sampler).
    """

    floor_is_noise: ClassVar[bool] = False

    def __init__(self, *, n: int = 4000) -> None:
        self.n = n

    def applies(self, method: Method, target: Target) -> str | None:
        return without_truth(target)

    @torch.no_grad()
    def __call__(self, q: Fitted) -> Value:
        stored = None if "sample" in q.target.provides else q.target.reference()
        reference = q.truth(2 * self.n if stored is None else len(stored)).double()
        half = len(reference) // 2
        return Value(
            float(self.error(q.draws(self.n).double(), reference)),
            float(self.error(reference[:half], reference[half:])),
        )

    @staticmethod
    def error(x: Tensor, reference: Tensor) -> Tensor:
        raise NotImplementedError


@register("metric", "marginal_mean_error", source="definition of this suite")
class MarginalMeanError(MomentError):
    """Root mean square over coordinates of the error of the mean, in standard deviations of the reference."""

    unit: ClassVar[str] = "sd"

    @staticmethod
    def error(x: Tensor, reference: Tensor) -> Tensor:
        return mean_error(x, reference)


@register("metric", "marginal_sd_error", source="definition of this suite")
class MarginalSDError(MomentError):
    """Root mean square over coordinates of log(sd of q / sd of the reference): 0.1 means about 10 % off."""

    @staticmethod
    def error(x: Tensor, reference: Tensor) -> Tensor:
        return sd_error(x, reference)


@register("metric", "correlation_rmse", source="Yin & Zhou 2018, arXiv:1805.11183 (scatter of all pairs), as an RMSE")
class CorrelationRMSE(MomentError):
    """Root mean square error of the correlations over all pairs of coordinates."""

    def applies(self, method: Method, target: Target) -> str | None:
        if target.dim < 2:
            return "a 1-D target has no correlations"
        return super().applies(method, target)

    @staticmethod
    def error(x: Tensor, reference: Tensor) -> Tensor:
        return correlation_error(x, reference)
