"""EDM's denoisers D(x, sigma) of a variance-exploding process, as noise predictors of a variance-preserving one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.errors import UserError
from targets.diffusion.networks.image_unet import ImageUNet
from targets.diffusion.schedule import schedule_of

Precondition = Literal["vp", "edm"]


class Preconditioned(nn.Module):
    """eps(x, t) = (x_ve - D(x_ve, s)) / s with x_ve = x / alpha_t and s = sigma_t / alpha_t.

    D(y, s) = c_skip y + c_out F(c_in y; c_noise) (Karras et al. 2022, arXiv:2206.00364, equation 7 and table 1):

    - ``vp``: c_skip 1, c_out -s, c_in 1 / sqrt(1 + s^2), c_noise = (M - 1) times the time at which Song et al.'s VP
      process has s: then eps = F at x itself;
    - ``edm``: c_skip = d^2 / (s^2 + d^2), c_out = s d / sqrt(s^2 + d^2), c_in = 1 / sqrt(s^2 + d^2),
      c_noise = log(s) / 4.

    Args:
        shape: C, H, W.
        schedule: alpha_t and sigma_t, as ``targets.diffusion.schedule.schedule_of`` takes it.
        precondition: ``vp`` or ``edm``.
        sigma_data: d of ``edm``.
        beta_d, beta_min, steps: of ``vp``: beta(t) = beta_min + beta_d t on [0, 1], and M.
        network: arguments of the ``ImageUNet`` F.

    Raises:
        UserError: an unknown preconditioning.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        schedule: Mapping[str, Any],
        precondition: Precondition,
        sigma_data: float = 0.5,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        steps: int = 1000,
        network: Mapping[str, Any],
    ) -> None:
        super().__init__()
        if precondition not in ("vp", "edm"):
            raise UserError(f"unknown preconditioning {precondition!r}", "choose from: vp, edm")
        self.schedule, self.precondition = schedule_of(schedule), precondition
        self.sigma_data, self.beta_d, self.beta_min, self.steps = sigma_data, beta_d, beta_min, steps
        self.net = ImageUNet(shape, **network)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x [..., d] and t [...], 0 .. T - 1 -> [..., d]."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        s = sigma / alpha
        if self.precondition == "vp":
            out: Tensor = self.net(x, self._time(s))
            return out
        d, ratio, y = self.sigma_data, s.unsqueeze(-1), x / alpha.unsqueeze(-1)
        total = (ratio.square() + d**2).sqrt()
        raw = self.net((y / total).to(x.dtype), s.log() / 4)
        # (y - c_skip y - c_out F) / s, without the difference of nearly equal numbers at small s
        return (ratio * y / total - d * raw) / total

    def _time(self, s: Tensor) -> Tensor:
        log_square = torch.log1p(s.square())
        root = (self.beta_min**2 + 2 * self.beta_d * log_square).sqrt()
        return (self.steps - 1) * 2 * log_square / (root + self.beta_min)  # (root - beta_min) / beta_d
