"""Preconditioned MALA over many chains at once, for targets with one mode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bench.errors import UserError
from targets.base import Target

ACCEPTANCE = 0.574
"""Optimal acceptance of MALA as d grows (Roberts & Rosenthal 1998)."""

OVERDISPERSION = 2.0
"""Chains start this many Laplace standard deviations wide: a split R-hat can only see what the starts explore."""


SMALL, SMALL_EVERY = 0.25, 5
"""Factor and rhythm of small steps: they free chains from tails where the curvature is far above the mode's."""


@dataclass(frozen=True)
class Chains:
    """Kept draws [chains, draws, d], the mean acceptance after burn-in and the step size used."""

    draws: Tensor
    acceptance: float
    step: float


def laplace(target: Target, *, iterations: int = 200, tolerance: float = 1e-10) -> tuple[Tensor, Tensor]:
    """Mode m [d] and Cholesky factor L [d, d] of the inverse negative Hessian there, by damped Newton steps.

    Raises:
        UserError: the Hessian is not negative definite on the way, or Newton does not converge.
    """
    x = torch.zeros(target.dim, dtype=torch.float64)
    value = target.log_prob(x)
    for _ in range(iterations):
        gradient = target.score(x)
        chol, failed = torch.linalg.cholesky_ex(-torch.func.jacrev(target.score)(x))
        if failed:
            break
        direction = torch.cholesky_solve(gradient.unsqueeze(-1), chol).squeeze(-1)
        if gradient @ direction < tolerance:
            return x, torch.linalg.cholesky(torch.cholesky_inverse(chol))
        size = 1.0
        while not (proposed := target.log_prob(x + size * direction)) >= value and size > 1e-8:
            size *= 0.5
        x, value = x + size * direction, proposed
    raise UserError(
        f"no mode of {type(target).__name__} found by Newton's method",
        "reference draws by MALA need a target with one mode, log-concave from 0 to there; give it exact draws instead",
    )


@torch.no_grad()
def mala(
    target: Target, mode: Tensor, scale: Tensor, *, chains: int, burn_in: int, draws: int, generator: Generator
) -> Chains:
    """Metropolis-adjusted Langevin in coordinates u with x = centre + scale u.

    Proposal u' = u + (h^2 / 2) grad log p(u) + h xi.  The step size h is shared by all chains (Robbins-Monro on
    log h) and every ``SMALL_EVERY``-th step is a small one.  Burn-in runs in three equal parts: with the Laplace
    approximation, with the mean and covariance of the first part's second half (which are not the mode and inverse
    Hessian of a skewed posterior), and with those of the second's.  Nothing adapts afterwards.

    Args:
        target: in float64.
        mode: [d].
        scale: lower triangular preconditioner of the first part, [d, d].
        chains, burn_in, draws: number of chains and of iterations per chain before and after adaptation stops.
        generator: CPU generator of all randomness.

    Raises:
        UserError: burn-in is too short to estimate a covariance.
    """
    sampler = _Sampler(target, mode, scale, mode + OVERDISPERSION * _normal(chains, target.dim, generator) @ scale.T)
    third = burn_in // 3
    for part in range(3):
        found = sampler.run(third, generator, adapt=True)
        if part < 2:
            recent = found[:, third // 2 :].flatten(0, 1)
            chol, failed = torch.linalg.cholesky_ex(recent.T.cov())
            if failed:
                raise UserError(
                    f"{burn_in} iterations of burn-in of {chains} chains do not determine a {target.dim}-d covariance",
                    "raise burn_in or chains",
                )
            sampler.precondition(recent.mean(0), chol)
    kept = sampler.run(draws, generator, adapt=False)
    return Chains(kept, sampler.acceptance, sampler.step)


def _normal(chains: int, dim: int, generator: Generator) -> Tensor:
    return torch.randn(chains, dim, generator=generator, dtype=torch.float64)


class _Sampler:
    """State of all chains: positions u [chains, d] in preconditioned coordinates, and the shared step size."""

    def __init__(self, target: Target, centre: Tensor, scale: Tensor, x: Tensor) -> None:
        self.target, self.x, self.acceptance = target, x, 0.0
        self.step = target.dim ** (-1 / 6)
        self.precondition(centre, scale)

    def precondition(self, centre: Tensor, scale: Tensor) -> None:
        self.centre, self.scale = centre, scale
        self.u = torch.linalg.solve_triangular(scale, (self.x - centre).T, upper=False).T

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log p and its gradient with respect to u."""
        x = self.centre + u @ self.scale.T
        return self.target.log_prob(x), self.target.score(x) @ self.scale

    def run(self, iterations: int, generator: Generator, adapt: bool) -> Tensor:
        """Advance all chains; [chains, iterations, d]."""
        u = self.u
        log_p, gradient = self.evaluate(u)
        log_step, steps, kept, accepted = math.log(self.step), [], [], []
        for iteration in range(iterations):
            small = iteration % SMALL_EVERY == SMALL_EVERY - 1
            h = math.exp(log_step) * (SMALL if small else 1.0)
            noise = _normal(len(u), u.shape[1], generator)
            proposal = u + 0.5 * h**2 * gradient + h * noise
            new_log_p, new_gradient = self.evaluate(proposal)
            back = (u - proposal - 0.5 * h**2 * new_gradient) / h
            log_ratio = new_log_p - log_p + 0.5 * (noise.square().sum(-1) - back.square().sum(-1))
            probability = log_ratio.clamp(max=0.0).exp().nan_to_num(0.0)  # an overflowing proposal is rejected
            accept = torch.rand(len(u), generator=generator, dtype=torch.float64) < probability
            u = torch.where(accept.unsqueeze(-1), proposal, u)
            gradient = torch.where(accept.unsqueeze(-1), new_gradient, gradient)
            log_p = torch.where(accept, new_log_p, log_p)
            kept.append(u)
            if small:
                continue
            accepted.append(float(probability.mean()))
            if adapt:
                log_step += (accepted[-1] - ACCEPTANCE) * len(accepted) ** -0.6
                steps.append(log_step)
        if adapt:
            self.step = math.exp(sum(steps[len(steps) // 2 :]) / (len(steps) - len(steps) // 2))
        self.acceptance = sum(accepted) / len(accepted)
        self.u, samples = u, self.centre + torch.stack(kept, dim=1) @ self.scale.T
        self.x = samples[:, -1]
        return samples
