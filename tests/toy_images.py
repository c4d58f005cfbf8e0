"""A correlated Gaussian as if it were images with a network teacher, for methods that train copies of one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from targets.diffusion.eps import FrozenTeacher
from targets.diffusion.schedule import Schedule, linear_schedule
from toy_gaussian import COVARIANCE, Gaussian


class GaussianEps(nn.Module):
    """eps(x, t) of N(m, C) on the linear schedule, with m and the square root of C as parameters."""

    def __init__(self, mean: Tensor, root: Tensor) -> None:
        super().__init__()
        self.mean, self.root = nn.Parameter(mean), nn.Parameter(root)
        self.schedule = linear_schedule()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (level.unsqueeze(-1) for level in (self.schedule.alpha(t), self.schedule.sigma(t)))
        unit = torch.eye(2, device=x.device)
        total = alpha.unsqueeze(-1).square() * (self.root @ self.root.T) + sigma.unsqueeze(-1).square() * unit
        return sigma * torch.linalg.solve(total, (x - alpha * self.mean).unsqueeze(-1)).squeeze(-1)


class ToyImages(Gaussian):
    """``Gaussian`` as images of 1 x 1 x 2 pixels."""

    shape = (1, 1, 2)

    @property
    def provides(self) -> frozenset[str]:
        return super().provides | {"images"}

    def teacher(self, schedule: Schedule | None = None) -> FrozenTeacher:
        return FrozenTeacher(GaussianEps(torch.ones(2), torch.linalg.cholesky(COVARIANCE)), linear_schedule(), 2)
