"""BSIVI: path gradient of the reverse KL with the mixture's score from many draws of the mixing distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.registry import register
from methods.base import Noise
from methods.parts.uniform_mixing import PathGradientMethod, gaussian_mixture_score, merge, pieces
from methods.parts.unit_mixture import mixture_backend, unit_mixture_score
from targets.base import Target

PAIRS = 2**20
"""Largest number of (draw, component) pairs held at once, per seed, and with it of components that go through the
network at once; affects memory only.  The fused pass holds no pairs, but the means of all components."""


@register("method", "bsivi", source="Pielok, Bischl & Ruegamer, ICML 2025, arXiv:2506.03839; settings of its code")
class BSIVI(PathGradientMethod):
    """Batched SIVI: grad log q(x) as the score of an equal mixture of k conditionals q(x | z_i).

    As in the authors' code the mixture holds the components of all generating z of the batch and ``inner - batch``
    fresh ones, shared by the whole batch.  The bias shrinks as 1 / inner.

    The defaults are the settings of the paper's multimodal target.

    Args:
        batch: outer draws per step.
        inner: k, components of the mixture (the paper's inner batch size times the number of inner batches); at least
            ``batch`` are used.
        noise_dim, hidden: mixing noise and network of the mean (ReLU).
        alpha: scale of sigma = 1e-10 + alpha softplus(rho).
        lr, decay, decay_every: Adam, learning rate times decay every so many steps.
    """

    paper_name = "BSIVI"
    cheap = {"batch": 32, "inner": 64, "hidden": (32, 32)}

    def __init__(
        self,
        target: Target,
        *,
        batch: int = 128,
        inner: int = 2048,
        noise_dim: int = 2,
        hidden: tuple[int, ...] = (128, 128),
        alpha: float = 0.1,
        lr: float = 1e-2,
        decay: float = 0.1,
        decay_every: int = 2000,
    ) -> None:
        super().__init__(
            target, noise_dim=noise_dim, hidden=hidden, alpha=alpha, batch=batch, inner=inner,
            lr=lr, decay=decay, decay_every=decay_every,
        )  # fmt: skip

    def operations(self) -> dict[str, str]:
        return {"mixture_score": mixture_backend(self.q.rho)}

    def mixture_score(self, x: Tensor, z: Tensor, noise: Noise) -> Tensor:
        """grad_x log (1/k) sum_i q(x | z_i), z_i the batch's own z and fresh draws; x [n, d], z [n, k] -> [n, d].

        For its value: how it depends on q's parameters is not followed.
        """
        sigma = self.q.sigma.detach()
        sizes = pieces(max(0, self.inner - len(x)), PAIRS // len(x))
        if mixture_backend(x) == "fused":
            means = torch.cat([self.q.mean(z), *(self.q.mean(self.q.mixing(size, noise)) for size in sizes)])
            return unit_mixture_score(x / sigma, means / sigma) / sigma
        zero = x.new_zeros(1, 1)
        total = gaussian_mixture_score(x, self.q.mean(z), sigma, zero)
        for size in sizes:
            means = self.q.mean(self.q.mixing(size, noise))
            total = merge(total, gaussian_mixture_score(x, means, sigma, zero))
        return total[1]
