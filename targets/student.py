"""The uncorrelated Student-t toy of MIED and KSIVI: heavy tails under a linear map."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor

from bench.registry import register
from targets.base import Target

NU = 2.0
LOG_CONSTANT = math.lgamma((NU + 1) / 2) - math.lgamma(NU / 2) - 0.5 * math.log(NU * math.pi)


def mixing_matrix() -> np.ndarray:
    """A = M / det M with M = (B B')^{-1} and B ~ U(-1, 1)^{2 x 2} from numpy's RandomState(50)."""
    b = np.random.RandomState(50).uniform(-1.0, 1.0, (2, 2))
    m = np.linalg.inv(b @ b.T)
    return m / np.linalg.det(m)


@register("target", "student_uc", source="code of KSIVI (Cheng et al. 2024, arXiv:2405.18997), after MIED")
class StudentUC(Target):
    """x = A t with t1, t2 independent Student-t of 2 degrees of freedom; A = [[.282, -.118], [-.118, .296]].

    As in the code, ``log_prob`` is the density of t at A^{-1} x: it leaves out -log|det A| = +2.6657 nats, so that
    ``log_z`` = log|det A| = -2.6657 and published negative ELBOs of this target carry an offset of 2.6657.  (A comment
    there claims det A = 1; it is .0696.)

    Variances are infinite, so Wasserstein distances of order 2 are not listed; the window holds 99.8 % of the mass.
    """

    dim = 2
    metrics = (
        "js_grid",
        "js_hist",
        "kl_forward_grid",
        "kl_reverse_grid",
        "truncated_w_5",
        "truncated_w_8",
        "truncated_w_10",
        "sliced_w1",
        "mmd",
        "ksd",
    )
    curve_metric = "js_grid"
    window = ((-10.0, 10.0), (-10.0, 10.0))
    window_mass = 0.997

    matrix: Tensor
    inverse: Tensor

    def __init__(self) -> None:
        super().__init__()
        a = mixing_matrix()
        self.log_z = math.log(abs(np.linalg.det(a)))
        for name, value in (("matrix", a), ("inverse", np.linalg.inv(a))):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.get_default_dtype()))

    def log_prob(self, x: Tensor) -> Tensor:
        """sum_i log t_2([A^{-1} x]_i), without the Jacobian; [..., 2] -> [...] (nats)."""
        t = x @ self.inverse.T
        return 2 * LOG_CONSTANT - 0.5 * (NU + 1) * torch.log1p(t.square() / NU).sum(-1)

    def score(self, x: Tensor) -> Tensor:
        """-A^{-T} (nu + 1) t / (nu + t^2); [..., 2] -> [..., 2]."""
        t = x @ self.inverse.T
        return -((NU + 1) * t / (NU + t.square())) @ self.inverse

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws, [n, 2] (CPU, float32): t by its quantile function (2u - 1) / sqrt(2 u (1 - u))."""
        # away from 0 and 1 by half the spacing of the generator's numbers
        u = torch.rand(n, 2, generator=generator, dtype=torch.float64).clamp(min=2.0**-54)
        t = (2 * u - 1) / (2 * u * (1 - u)).sqrt()
        return (t @ torch.as_tensor(mixing_matrix()).T).float()
