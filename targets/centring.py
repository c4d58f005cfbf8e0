"""Targets with a centred and a non-centred parametrisation: a funnel and a pair of Gaussian latents.

``parametrization=noncentered`` changes what a method fits, not what it is judged by: draws are mapped back, and
reference and metrics stay in the original (centred) coordinates (``Target.original``).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Generator, Tensor

from bench.checks import require_at_least, require_choice, require_positive
from bench.registry import register
from targets.base import Target
from targets.numerics import bounded_exp, bounded_exp_slope

Parametrization = Literal["centered", "noncentered"]
LOG_2PI = math.log(2 * math.pi)


@register("target", "funnel", source="Neal 2003, Annals of Statistics 31(3), section 8")
class Funnel(Target):
    """Neal's funnel: v ~ N(0, s^2) and x_i | v ~ N(0, exp(v)), i = 1 .. dim - 1; coordinates (v, x_1, ..).

    Non-centred, v = s e_0 and x_i = exp(v / 2) e_i with e ~ N(0, I): a standard Gaussian.  x has moments so large
    (E x^4 = 3 exp(2 s^2)) that distances of order 2 and moment errors measure a few draws only; none is listed.

    Args:
        dim: total dimension; 10 gives nine x.
        s: standard deviation of v; 3 in Neal's example.
        parametrization: ``centered`` or ``noncentered``.
    """

    log_z = 0.0
    metrics = ("ks_max", "sliced_w1", "mmd", "ksd")
    curve_metric = "ks_max"

    def __init__(self, *, dim: int = 10, s: float = 3.0, parametrization: Parametrization = "centered") -> None:
        super().__init__()
        require_positive("target", s=s)
        require_choice(Parametrization, "target", parametrization=parametrization)
        require_at_least(2, "target", dim=dim)  # v and one x or more
        self.dim, self.s = dim, s
        self.centered = None if parametrization == "centered" else Funnel(dim=dim, s=s)

    def original(self) -> Target:
        return self if self.centered is None else self.centered

    def to_original(self, x: Tensor) -> Tensor:
        """(e_0, e) -> (s e_0, exp(s e_0 / 2) e); identity when centred."""
        if self.centered is None:
            return x
        v = self.s * x[..., :1]
        return torch.cat([v, bounded_exp(v / 2) * x[..., 1:]], dim=-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Normalised; [..., d] -> [...] (nats)."""
        if self.centered is not None:
            return -0.5 * (x.square().sum(-1) + self.dim * LOG_2PI)
        v, squares = x[..., 0], x[..., 1:].square().sum(-1)
        constant = 0.5 * self.dim * LOG_2PI + math.log(self.s)
        return -0.5 * ((v / self.s).square() + squares * bounded_exp(-v) + (self.dim - 1) * v) - constant

    def score(self, x: Tensor) -> Tensor:
        """Closed form; [..., d] -> [..., d]."""
        if self.centered is not None:
            return -x
        v, rest = x[..., :1], x[..., 1:]
        squares = rest.square().sum(-1, keepdim=True)
        by_v = -v / self.s**2 + 0.5 * (squares * bounded_exp_slope(-v) - (self.dim - 1))
        return torch.cat([by_v, -rest * bounded_exp(-v)], dim=-1)

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws (v, x), [n, d] (CPU, float32)."""
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        v = self.s * noise[:, :1]
        return torch.cat([v, (v / 2).exp() * noise[:, 1:]], dim=-1).float()


@register(
    "target", "linear_pair", source="linear-Gaussian pair of the centring study, Kingma & Welling 2014, 1402.0480"
)
class LinearPair(Target):
    """Posterior of two chained latents: z1 ~ N(0, 1), z2 | z1 ~ N(z1, s^2), x | z2 ~ N(z2, s_x^2), x observed.

    Jointly Gaussian, so all is exact: log_z = log N(x; 0, 1 + s^2 + s_x^2).  With rho the posterior correlation, the
    best factorised q loses -ln(1 - rho^2) / 2 nats; centred, rho^2 -> 1 as s -> 0, non-centred (z2 = z1 + s e) as
    s_x -> 0 with s = 1.

    Args:
        s: standard deviation of z2 given z1.
        s_x: standard deviation of the observation.
        x: the observation.
        parametrization: ``centered`` or ``noncentered``; a narrow ridge (below two grid cells) gets no window.
    """

    dim = 2
    metrics = (
        "sliced_w2",
        "sliced_w1",
        "marginal_mean_error",
        "marginal_sd_error",
        "correlation_rmse",
        "js_grid",
        "kl_forward_grid",
        "kl_reverse_grid",
        "mmd",
        "ksd",
    )
    curve_metric = "sliced_w2"

    rows: Tensor
    offsets: Tensor
    posterior_mean: Tensor
    posterior_cholesky: Tensor

    def __init__(
        self, *, s: float = 0.1, s_x: float = 1.0, x: float = 1.0, parametrization: Parametrization = "centered"
    ) -> None:
        super().__init__()
        require_positive("target", s=s, s_x=s_x)
        require_choice(Parametrization, "target", parametrization=parametrization)
        self.s, self.s_x, self.x = s, s_x, x
        self.centered = None if parametrization == "centered" else LinearPair(s=s, s_x=s_x, x=x)
        total = 1 + s**2 + s_x**2
        self.log_z = -0.5 * (LOG_2PI + math.log(total) + x**2 / total)
        rows, offsets = self._residuals()
        covariance = torch.linalg.inv(rows.T @ rows)
        mean = covariance @ (rows.T @ offsets)
        sd = covariance.diagonal().sqrt()
        conditional_sd = (rows.T @ rows).diagonal().rsqrt()
        if float((conditional_sd / sd).min()) > 2 * 11 / 240:  # the window of 11 sd is cut into 240 cells
            (a, c), (b, d) = (mean - 5.5 * sd).tolist(), (mean + 5.5 * sd).tolist()
            self.window = ((a, b), (c, d))
        for name, value in {
            "rows": rows,
            "offsets": offsets,
            "posterior_mean": mean,
            "posterior_cholesky": torch.linalg.cholesky(covariance),
        }.items():
            self.register_buffer(name, value.to(torch.get_default_dtype()))

    def _residuals(self) -> tuple[Tensor, Tensor]:
        """R [3, 2] and c [3], float64: the standardised residuals of prior and likelihood are R z - c."""
        if self.centered is None:
            rows = [[1.0, 0.0], [-1 / self.s, 1 / self.s], [0.0, 1 / self.s_x]]
        else:
            rows = [[1.0, 0.0], [0.0, 1.0], [1 / self.s_x, self.s / self.s_x]]
        return torch.tensor(rows, dtype=torch.float64), torch.tensor([0, 0, self.x / self.s_x], dtype=torch.float64)

    def original(self) -> Target:
        return self if self.centered is None else self.centered

    def to_original(self, x: Tensor) -> Tensor:
        """(z1, e) -> (z1, z1 + s e); identity when centred."""
        if self.centered is None:
            return x
        return torch.stack((x[..., 0], x[..., 0] + self.s * x[..., 1]), dim=-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(z, x); [..., 2] -> [...] (nats)."""
        scale = math.log(self.s_x) + (math.log(self.s) if self.centered is None else 0.0)
        return -0.5 * (x @ self.rows.T - self.offsets).square().sum(-1) - 1.5 * LOG_2PI - scale

    def score(self, x: Tensor) -> Tensor:
        """-R'(R z - c); [..., 2] -> [..., 2]."""
        return -(x @ self.rows.T - self.offsets) @ self.rows

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws of (z1, z2), [n, 2] (CPU, float32)."""
        if self.centered is not None:
            return self.centered.sample(n, generator)
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        scale, mean = self.posterior_cholesky.cpu().double(), self.posterior_mean.cpu().double()
        return (mean + noise @ scale.T).float()
