"""IWHVI with a product of Laplace laws written as Gaussian scale mixtures: how tight are bounds on log q?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from bench.checks import require_not_negative, require_positive
from bench.registry import register
from methods.base import Noise
from methods.parts.importance import Importance, Moments
from methods.parts.optim import staircase
from methods.parts.reverse import ElementwiseReverse, log_normal
from targets.base import Target

LEAST = 2.0**-25
"""Half a step of float32 uniform draws, in place of zero: log of an exponential draw stays finite."""


class ScaleMixture(nn.Module):
    """x_i = m_i + s_i sqrt(psi_i) xi_i with psi_i ~ Exp(rate 1/2): Laplace with location m_i and scale s_i.

    The mixing variable is z_i = log psi_i, whose density lies on all of R.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dim))
        self.log_scale = nn.Parameter(torch.zeros(dim))

    def mixing(self, n: int, noise: Noise) -> Tensor:
        """n draws of z, [n, d]."""
        u = noise.uniform(n, len(self.mean)).clamp(min=LEAST)
        return torch.log(-2 * torch.log1p(-u))

    def sd(self, z: Tensor) -> Tensor:
        """Standard deviation of x given z, [..., d]."""
        return torch.exp(self.log_scale + 0.5 * z)


@register("method", "iwhvi_scale_mixture", source="Sobolev & Vetrov 2019, arXiv:1905.03290: Laplace scale-mixture toy")
class IWHVIScaleMixture(Importance):
    """IWHVI whose q is a product of Laplace laws as Gaussian scale mixtures; ``train_q=false`` trains tau only.

    On ``laplace_scale_mixture`` with ``train_q=false`` q IS the target, treated as semi-implicit: the interval of the
    ELBO must hold 0, and its width is the error of the bounds alone.  tau is log-normal in psi, one network for all i.

    Args:
        batch: draws of x per step.
        inner: K, draws of tau per x; 0 gives HVM.
        reverse: hidden widths of tau's network.
        train_q: also train location and scale of q.
        dreg: doubly reparameterised gradient for tau.
        lr, lr_reverse: Adam's rates of q and tau; where they differ, the two move in turn on draws of their own.
        decay, decay_every: both rates times decay every so many steps.
    """

    paper_name = "IWHVI"
    q: ScaleMixture
    tau: ElementwiseReverse
    cheap = {"batch": 16, "inner": 3, "reverse": (16,), "lr": 2e-2, "lr_reverse": 2e-2}

    def __init__(
        self,
        target: Target,
        *,
        batch: int = 32,
        inner: int = 5,
        reverse: tuple[int, ...] = (64, 64),
        train_q: bool = True,
        dreg: bool = False,
        lr: float = 1e-3,
        lr_reverse: float = 1e-3,
        decay: float = 0.9,
        decay_every: int = 1000,
    ) -> None:
        super().__init__(target)
        require_positive(batch=batch, reverse=reverse, decay=decay, decay_every=decay_every)
        require_positive(lr=lr, lr_reverse=lr_reverse)
        require_not_negative(inner=inner)
        self.q = ScaleMixture(target.dim).requires_grad_(train_q)
        self.hidden: Sequence[int] = tuple(reverse)
        self.tau = self._reverse(torch.zeros(target.dim), torch.ones(target.dim))
        self.batch, self.inner, self.noise_dim, self.dreg = batch, inner, target.dim, dreg
        self.lr, self.lr_reverse, self.schedule = lr, lr_reverse, staircase(decay, decay_every)

    def _reverse(self, location: Tensor, scale: Tensor) -> ElementwiseReverse:
        return ElementwiseReverse(tuple(self.hidden), location, scale)

    def inverse(self) -> ElementwiseReverse:
        """One network for all coordinates around this q's location and scale, untrained."""
        return self._reverse(self.q.mean, self.q.log_scale.exp()).to(self.q.mean)

    def moments(self, x: Tensor) -> Moments:
        return self.tau.standard_moments((x - self.q.mean) * torch.exp(-self.q.log_scale))

    def pair(self, n: int, noise: Noise) -> tuple[Tensor, Tensor]:
        z = self.q.mixing(n, noise)
        return self.q.mean + self.q.sd(z) * noise.normal(n, self.target.dim), z

    def log_conditional(self, x: Tensor, z: Tensor) -> Tensor:
        log_sd = self.q.log_scale + 0.5 * z
        return log_normal((x.unsqueeze(1) - self.q.mean) * torch.exp(-log_sd), log_sd)

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self.pair(n, noise)[0]

    def mixing(self, n: int, noise: Noise) -> Tensor:
        return self.q.mixing(n, noise)

    def mixing_log_prob(self, z: Tensor) -> Tensor:
        """log density of z = log psi, psi ~ Exp(1/2): z - e^z / 2 - log 2, summed; [..., d] -> [...]."""
        return (z - 0.5 * z.exp() - 0.6931471805599453).sum(-1)

    def conditional(self, z: Tensor) -> Distribution:
        sd = self.q.sd(z)
        return Independent(Normal(self.q.mean.expand_as(sd), sd), 1)
