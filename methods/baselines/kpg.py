"""Straightforward steps of KPG, KPG-IS, SVGD, amortised SVGD and UIVI, for the speed baseline; not used by any fit.

Pairwise arrays [N, M, d], boolean indexing, autograd for every derivative; nothing from the suite's fast paths.
They draw the same noise in the same order as the suite's losses, so that tests can compare gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.kpg import KPG
from methods.kpg_is import KPGIS
from methods.parts.families import Diagonal, anneal
from methods.svgd import SVGD, AmortisedSVGD
from methods.uivi import UIVI


def pair(q: Diagonal, n: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """x and grad_x log q(x | z), [n, d] each."""
    z, xi = noise.normal(n, q.noise_dim), noise.normal(n, q.dim)
    return q.mean(z) + q.sigma * xi, -xi / q.sigma


def gaussian(distance: Tensor, n: int) -> Tensor:
    """The kernel matrix with the median bandwidth h^2 = 0.5 med / log(n + 1) from squared distances."""
    h2 = 0.5 * torch.median(distance.detach()) / math.log(n + 1)
    return torch.exp(-distance / (2 * h2))


@register("baseline", "kpg", source="tpielok/KPG: second batch without a graph, pairwise differences [N, N, d]")
def kpg_loss(method: KPG, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """mean_ji k(x_j, x'_i) <s_c - s_p, x_j>."""
    x, _ = pair(method.q, method.batch, noise)
    with torch.no_grad():
        y, s_c = pair(method.q, method.batch, noise)
        difference = s_c - anneal(clock, method.anneal) * method.target.score(y)
        k = gaussian((x[:, None] - y[None]).square().sum(-1), method.batch)
    return ((k @ difference) * x).sum() / method.batch**2


@register("baseline", "kpg_is", source="tpielok/KPG: latents by boolean indexing, differences [N, l, d]")
def kpg_is_loss(method: KPGIS, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """mean_j <mean_i w_ji (s_c - s_p)(x'_ji), x_j>, or the proposal's likelihood."""
    if player.name == "proposal":
        return method.likelihood(noise, clock)
    q, N, l = method.q, method.batch, method.latents
    x, _ = pair(q, N, noise)
    with torch.no_grad():
        m, s, alpha = method.proposal(x)
        z, xi = noise.normal(l, q.noise_dim), noise.normal(l, q.dim)
        own = noise.uniform(N, l) >= alpha
        eps, own_xi = noise.normal(N, method.slots, q.noise_dim), noise.normal(N, method.slots, q.dim)
        # with fewer draws than latents, the t-th latent of a row takes the row's t-th draw
        used = own if method.slots == l else torch.arange(method.slots, device=own.device) < own.sum(1, keepdim=True)
        latents, noises = z.expand(N, l, -1).clone(), xi.expand(N, l, -1).clone()
        latents[own], noises[own] = (m[:, None] + s[:, None] * eps)[used], own_xi[used]

        def score_difference(z: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
            y = q.mean(z) + q.sigma * xi
            return y, -xi / q.sigma - anneal(clock, method.anneal) * method.target.score(y)

        y, difference = (t.expand(N, l, -1).clone() for t in score_difference(z, xi))
        y[own], difference[own] = score_difference(latents[own], noises[own])
        prior = Independent(Normal(torch.zeros_like(latents), 1.0), 1)
        gauss = Independent(Normal(m[:, None], s[:, None]), 1)
        log_q = prior.log_prob(latents)
        log_tau = torch.logaddexp(alpha.log() + log_q, torch.log1p(-alpha) + gauss.log_prob(latents))
        w = gaussian((x[:, None] - y).square().sum(-1), l) * (log_q - log_tau).exp()
        delta = (w[..., None] * difference).mean(1)
    return (delta * x).sum(-1).mean()


def direction(x: Tensor, y: Tensor, score: Tensor, kernel: str) -> Tensor:
    """SVGD's phi at x [N, d] with the kernel's gradient by autograd."""
    y = y.detach().requires_grad_()
    moving = x.detach().requires_grad_()
    distance = (moving[:, None] - y[None]).square().sum(-1)
    s = distance * math.log(len(x) + 1) / torch.median(distance.detach())
    k = torch.exp(-s) if kernel == "gaussian" else (1 + s) ** -0.5
    (gradient,) = torch.autograd.grad(k.sum(), moving)  # minus the sum of the gradients in y_j
    return (k.detach() @ score - gradient) / len(y)


@register("baseline", "svgd", source="the algorithm box of Liu & Wang 2016, pairwise differences [n, n, d]")
def svgd_loss(method: SVGD, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """-sum_i <phi(x_i), x_i>."""
    x = method.particles
    score = anneal(clock, method.anneal) * method.target.score(x.detach())
    return -(direction(x, x, score, method.kernel) * x).sum()


@register("baseline", "asvgd", source="Feng, Wang & Liu 2017, pairwise differences [N, N, d]")
def asvgd_loss(method: AmortisedSVGD, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """-mean_j <phi(x_j), x_j>."""
    x, _ = pair(method.q, method.batch, noise)
    y = (x if method.batches == "one" else pair(method.q, method.batch, noise)[0]).detach()
    score = anneal(clock, method.anneal) * method.target.score(y)
    return -(direction(x, y, score, method.kernel) * x).sum() / method.batch


@register("baseline", "uivi", source="the algorithm of Titsias & Ruiz 2019; gradients anew for each transition")
def uivi_loss(method: UIVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """-mean <s_p - E s_c, x>; the step size stays where it is."""
    q = method.q
    z, xi = noise.normal(method.outer, q.noise_dim), noise.normal(method.outer, q.dim)
    x = q.mean(z) + q.sigma * xi
    fixed, sigma, step = x.detach(), q.sigma.detach(), method.step_size

    def log_reverse(z: Tensor) -> Tensor:
        return -0.5 * (z.square().sum(-1) + ((fixed - q.mean(z)) / sigma).square().sum(-1))

    def gradient(z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        return torch.autograd.grad(log_reverse(z).sum(), z)[0]

    scores = []
    for repeat in range(method.burn_in + method.samples):
        momentum = noise.normal(*z.shape)
        new, p = z, momentum + 0.5 * step * gradient(z)
        for i in range(method.leapfrog):
            new = new + step * p
            p = p + (1.0 if i < method.leapfrog - 1 else 0.5) * step * gradient(new)
        with torch.no_grad():
            gain = log_reverse(new) - log_reverse(z) - 0.5 * (p.square() - momentum.square()).sum(-1)
            z = torch.where((noise.uniform(method.outer) < gain.exp())[:, None], new, z)
            if repeat >= method.burn_in:
                scores.append((q.mean(z) - fixed) / sigma**2)
    s_p = anneal(clock, method.anneal) * method.target.score(fixed)
    return -((s_p - torch.stack(scores).mean(0)).detach() * x).sum(-1).mean()
