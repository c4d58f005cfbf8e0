"""The steps of DDIM between the times of a grid: the layers of HSIVI and the chain inside one-layer generators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bench.checks import require_share
from bench.errors import UserError
from targets.diffusion.schedule import Schedule


class Start(NamedTuple):
    """Where a step began: x, the x0 predicted there, and the x0 of the step above, if the step used it; [..., d]."""

    x: Tensor
    x0: Tensor
    before: Tensor | None


class Steps:
    """DDIM's Gaussian steps x_k -> x_{k-1}, k = N..1, between times tau_N > ... > tau_0 of a VP diffusion.

    x0 = (x_k - sigma_k eps) / alpha_k,   c_k = eta_k sqrt((1 - abar_k / abar_{k-1}) sigma_{k-1}^2 / sigma_k^2),
    mean = alpha_{k-1} x0 + sqrt(sigma_{k-1}^2 - c_k^2) eps   (Song et al., ICLR 2021, arXiv:2010.02502, eq. 12 and 16).

    Args:
        times: tau_0 < ... < tau_N.
        schedule: alpha_t and sigma_t.
        eta: eta_k from the lowest layer (k = 1) to the highest, or one value for all: 0 is DDIM, 1 DDPM.

    Attributes:
        alpha, sigma, half_log_snr: at tau_0..tau_N.
        sd: c_k at index k (index 0 unused).

    Raises:
        UserError: a number of etas that is neither 1 nor N, or one outside [0, 1].
    """

    def __init__(self, times: Sequence[int], schedule: Schedule, eta: Sequence[float]) -> None:
        self.times, self.count = tuple(times), len(times) - 1
        etas = tuple(eta) * self.count if len(eta) == 1 else tuple(eta)
        if len(etas) != self.count:
            raise UserError(
                f"method.eta has {len(eta)} values for {self.count} layers",
                "give one for all or one per layer, the lowest first",
            )
        require_share(eta=tuple(eta))
        self.alpha = [schedule.alpha(t) for t in times]
        self.sigma = [schedule.sigma(t) for t in times]
        self.half_log_snr = [schedule.half_log_snr(t) for t in times]
        self.sd = [0.0]
        for k in range(1, self.count + 1):
            kept = math.exp(schedule.log_alpha_bar(times[k]) - schedule.log_alpha_bar(times[k - 1]))
            self.sd.append(etas[k - 1] * math.sqrt(1 - kept) * self.sigma[k - 1] / self.sigma[k])

    def mean(self, k: int, x: Tensor, eps: Tensor) -> Tensor:
        """Mean of x_{k-1} given x_k and the noise predicted in it; [..., d] -> [..., d]."""
        x0 = (x - self.sigma[k] * eps) / self.alpha[k]
        kept = math.sqrt(max(self.sigma[k - 1] ** 2 - self.sd[k] ** 2, 0.0))
        return self.alpha[k - 1] * x0 + kept * eps

    def extrapolation(self, k: int, x: Tensor, eps: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """What extrapolating x0 along the step adds to eps, for ``mean``, and the x0 of eps; [..., d] each.

        x0 + h_k / (2 h_{k+1}) (x0 - before), h_k = lambda_{k-1} - lambda_k, with ``before`` the x0 of the step above:
        the ``mean`` of the sum is then that of DPM-Solver++(2M) at eta = 0 and of its SDE version at eta = 1 (Lu et al.
        2022, arXiv:2211.01095).  The first step, which has none, and the last one (k = 1) stay of first order.
        """
        x0 = (x - self.sigma[k] * eps) / self.alpha[k]
        if before is None or k == 1:
            return torch.zeros_like(eps), x0
        lam = self.half_log_snr
        ratio = (lam[k - 1] - lam[k]) / (2 * (lam[k] - lam[k + 1]))
        return -ratio * self.alpha[k] / self.sigma[k] * (x0 - before), x0

    def corrected(self, k: int, x: Tensor, eps: Tensor, above: Start) -> tuple[Tensor, Tensor]:
        """x_k redone now that eps is known there, and the noise that leaves its x0 as it is; [..., d] each.

        With u from 0 at tau_{k+1} to 1 at tau_k in lambda and h = lambda_k - lambda_{k+1}, a step without noise is

            x_k = (sigma_k / sigma_{k+1}) x_{k+1} + alpha_k h int_0^1 e^{-h (1 - u)} x0(u) du,

        here exactly for the quadratic x0(u) through the values ``before``, above and at x_k: the corrector UniC-2 of
        UniPC (Zhao et al., NeurIPS 2023, arXiv:2302.04867), whose predictor is DPM-Solver++(2M).  Without ``before``
        it is UniC-1 with B(h) = e^h - 1.  The network is not evaluated again.
        """
        x0 = (x - self.sigma[k] * eps) / self.alpha[k]
        lam, first = self.half_log_snr, x0 - above.x0
        h = lam[k] - lam[k + 1]
        i0 = -math.expm1(-h)
        i1 = 1 - i0 / h
        if above.before is None:
            integral = i0 * (above.x0 + 0.5 * first)
        else:
            u = (lam[k + 2] - lam[k + 1]) / h
            curvature = ((above.before - above.x0) / u - first) / (u - 1)
            integral = i0 * above.x0 + i1 * (first - curvature) + (1 - 2 * i1 / h) * curvature
        x = self.sigma[k] / self.sigma[k + 1] * above.x + self.alpha[k] * integral
        return x, (x - self.alpha[k] * x0) / self.sigma[k]
