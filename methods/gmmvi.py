"""Gaussian-mixture VI by natural gradients: the strong explicit baseline among the cheap methods."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.checks import require_at_least, require_positive
from bench.registry import register
from methods.base import Clock, Method, Noise, Player
from methods.parts.symmetric import cholesky
from targets.base import Target


@register("method", "gmmvi", source="Arenz et al., TMLR 2023, arXiv:2209.11533; updates of Lin et al. 2020, 2002.10060")
class GMMVI(Method):
    """Gaussian-mixture VI: q(x) = sum_k w_k N(x; m_k, S_k), every component by its own natural gradient.

    With h = log p - log q and x ~ N(m_k, S_k) the natural gradient of the ELBO moves the mean along S_k E[grad h], the
    precision along -E[grad^2 h] and log w_k along E[h].  The Hessian is estimated from first derivatives (Stein's
    lemma), the precision stays positive definite by the retraction of Lin et al., and a trust region bounds the KL of
    each component's step.  The number of components is fixed.

    Args:
        components: K.
        batch: draws from each component per iteration.
        step: step size, falling linearly to zero over the run.
        trust: largest KL (nats, to second order) between a component before and after a step.
        step_weights: step size of the log weights, relative to ``step``.
        spread: standard deviation of the initial means about zero.
        scale: initial standard deviation of every component.
    """

    paper_name = "GMM-VI"
    cheap = {"components": 3, "batch": 16}

    def __init__(
        self,
        target: Target,
        *,
        components: int = 20,
        batch: int = 32,
        step: float = 0.1,
        trust: float = 0.05,
        step_weights: float = 1.0,
        spread: float = 3.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(target)
        require_positive(components=components, step=step, trust=trust, step_weights=step_weights)
        require_positive(spread=spread, scale=scale)
        require_at_least(2, batch=batch)  # the Hessian is a covariance over the batch
        self.batch, self.step, self.trust, self.step_weights = batch, step, trust, step_weights
        d = target.dim
        self.means = nn.Parameter(spread * torch.randn(components, d))
        self.trils = nn.Parameter(scale * torch.eye(d).repeat(components, 1, 1))
        self.log_weights = nn.Parameter(torch.full((components,), -math.log(components)))

    def players(self) -> Sequence[Player]:
        return [Player("q", ("means", "trils", "log_weights"), update=self.natural_step)]

    def natural_step(self, noise: Noise, clock: Clock) -> dict[str, Tensor]:
        """One natural-gradient step of all components and the weights."""
        p = self.target.subsample(noise)
        k, d = self.means.shape
        tril = self.trils.tril()  # a copy: products of slices of the parameter vector take other paths for one seed
        eps = noise.normal(k, self.batch, d)
        x = self.means.unsqueeze(1) + eps @ tril.mT  # [K, B, d]
        log_q, score_q = self._density(x)
        h, slope = p.log_prob(x) - log_q, p.score(x) - score_q
        # whitened: x = m + L eps, so L^T E[grad h] and L^T E[grad^2 h] L = E[eps (L^T grad h)^T]
        slope = slope @ tril
        gradient = slope.mean(1)
        hessian = (eps - eps.mean(1, keepdim=True)).mT @ (slope - gradient.unsqueeze(1)) / (self.batch - 1)
        hessian = (hessian + hessian.mT) / 2
        speed = gradient.square().sum(-1) + 0.5 * hessian.square().sum((-1, -2))  # KL of a step b: b^2 speed / 2
        step = self.step * (1 - clock.progress)
        b = torch.clamp(torch.sqrt(2 * self.trust / (speed + 1e-12)), max=step)
        precision = self._retract(hessian, b)
        means = self.means + b.unsqueeze(-1) * (tril * gradient.unsqueeze(-2)).sum(-1)
        trils = tril @ cholesky(torch.linalg.inv_ex(precision).inverse)
        move = h.mean(1) - (self.log_weights.exp() * h.mean(1)).sum()
        # the bound on a step of the weights: no log weight changes by more than 1
        log_weights = self.log_weights + torch.clamp(step * self.step_weights * move, -1.0, 1.0)
        return {"means": means, "trils": trils, "log_weights": torch.log_softmax(log_weights, 0)}

    @staticmethod
    def _retract(hessian: Tensor, b: Tensor) -> Tensor:
        """I - b H + b^2 H^2 / 2, the whitened precision after the step; its eigenvalues are at least 1/2."""
        moved = b.unsqueeze(-1).unsqueeze(-1) * hessian
        return torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device) - moved + 0.5 * moved @ moved

    def _density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """log q(x) and its gradient; [..., d] -> [...] and [..., d]."""
        flat = x.reshape(-1, x.shape[-1])
        identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        inverse = torch.linalg.solve_triangular(self.trils, identity, upper=False)  # L_k^-1
        white = (flat - self.means.unsqueeze(1)) @ inverse.mT  # [K, n, d]
        log_det = self.trils.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * x.shape[-1] * math.log(2 * math.pi)
        log_joint = (self.log_weights - log_det).unsqueeze(1) - 0.5 * white.square().sum(-1) - constant
        share = torch.softmax(log_joint, 0)
        score = -(share.unsqueeze(-1) * (white @ inverse)).sum(0)
        return torch.logsumexp(log_joint, 0).reshape(x.shape[:-1]), score.reshape(x.shape)

    def sample(self, n: int, noise: Noise) -> Tensor:
        edges = self.log_weights.softmax(0).cumsum(0)[:-1]
        index = (noise.uniform(n, 1) >= edges).sum(1)
        eps = noise.normal(n, self.target.dim, 1)
        return self.means[index] + (self.trils[index] @ eps).squeeze(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log q(x), [..., d] -> [...]."""
        return self._density(x)[0]
