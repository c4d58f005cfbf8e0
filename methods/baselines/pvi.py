"""What the published script of PVI computes, for the speed baseline only: see ``bench.speed``."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.pvi import PVI


@register("baseline", "pvi", source="arXiv:2407.00649: separate draws for theta and particles, scores by autograd")
def pvi_loss(method: PVI, player: Player, noise: Noise, clock: Clock) -> Tensor:
    """The path-gradient surrogate of theta; the particles' drift is computed on draws of its own, and not applied."""
    differences = []
    for _ in range(2):
        eps = noise.normal(len(method.particles), method.samples, method.target.dim)
        Z = method.particles.clone().requires_grad_()
        x = method.k.draw(tuple(moment.unsqueeze(1) for moment in method.k.moments(Z)), eps).flatten(0, 1)
        y = x.detach().requires_grad_()
        (score_q,) = torch.autograd.grad(method.log_prob(y).sum(), y)
        differences.append(((score_q - method.target.score(y)).detach() * x).sum(-1).mean())
    torch.autograd.grad(differences[1], Z)
    return differences[0]
