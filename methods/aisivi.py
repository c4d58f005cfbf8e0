"""AISIVI: path gradient of the reverse KL with the mixture's score by importance sampling from a conditional flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bench.checks import require_not_negative, require_positive
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.native import aisivi as native
from methods.native.seedwise import seedwise
from methods.parts.conditional_flow import ConditionalRealNVP
from methods.parts.families import relu_layers
from methods.parts.optim import Adam, Schedule
from methods.parts.uniform_mixing import PathGradientMethod, gaussian_mixture_score, merge
from targets.base import Target

ROWS, ROWS_GPU = 2**12, 2**17
"""Number of (draw, inner draw) rows passed through the networks at once: a core's cache, a GPU's many units."""


@register("method", "aisivi", source="Pielok, Bischl & Ruegamer, ICML 2025, arXiv:2506.03839; settings of its code")
class AISIVI(PathGradientMethod):
    """Adaptive importance sampling SIVI: grad log q(x) from draws of a reverse model tau(z | x).

    grad_x log (1/k) sum_i q(z_i) q(x | z_i) / tau(z_i | x~) at x~ = x, z_i ~ tau(. | x).  tau is a conditional RealNVP
    fitted by the forward KL E_{q(x, z)}[-log tau(z | x)]: ``pretrain`` steps before q moves, then one beside each step
    of q.  Non-finite weights count as zero; a seed whose parameters turn non-finite is recorded as diverged (the
    authors' code draws again, or leaves the step out).

    The defaults are the settings of the paper's multimodal target.  The run's iterations include ``pretrain``.

    Args:
        batch: outer draws per step.
        inner: k, importance draws for each outer draw (the paper's inner batch size times the inner batches).
        noise_dim, hidden: mixing noise and network of the mean (ReLU).
        alpha: scale of sigma = 1e-10 + alpha softplus(rho).
        layers: couplings of tau.
        pretrain: steps of tau before q begins.
        lr, lr_flow: Adam's learning rates of q and tau.
        decay, decay_every: both learning rates times decay after so many steps of q.
    """

    paper_name = "AISIVI"
    phases = ("pretrain",)
    cheap = {"batch": 32, "inner": 16, "hidden": (32, 32), "layers": 2, "pretrain": 0}

    def __init__(
        self,
        target: Target,
        *,
        batch: int = 128,
        inner: int = 512,
        noise_dim: int = 2,
        hidden: tuple[int, ...] = (128, 128),
        alpha: float = 0.1,
        layers: int = 4,
        pretrain: int = 50,
        lr: float = 1e-2,
        lr_flow: float = 1e-2,
        decay: float = 0.1,
        decay_every: int = 2000,
    ) -> None:
        super().__init__(
            target, noise_dim=noise_dim, hidden=hidden, alpha=alpha, batch=batch, inner=inner,
            lr=lr, decay=decay, decay_every=decay_every,
        )  # fmt: skip
        require_positive(layers=layers, lr_flow=lr_flow)
        require_not_negative(pretrain=pretrain)
        self.flow = ConditionalRealNVP(noise_dim, target.dim, layers)
        self.pretrain, self.lr_flow = pretrain, lr_flow

    def players(self) -> Sequence[Player]:
        (q,) = super().players()
        flow = Player("flow", ("flow",), loss=self.forward_kl, optimiser=Adam(self.lr_flow), schedule=self._after())
        return [flow, Player("q", ("q",), loss=q.loss, optimiser=q.optimiser, schedule=q.schedule, start=self.pretrain)]

    def _after(self) -> Schedule:
        """The common schedule, which stands still while tau is pretrained."""
        return lambda clock: self.schedule(Clock((clock.step - self.pretrain).clamp(min=0.0), clock.total))

    def forward_kl(self, noise: Noise, clock: Clock) -> Tensor:
        """E_{q(x, z)}[-log tau(z | x)], q held fixed."""
        with torch.no_grad():
            z = self.q.mixing(self.batch, noise)
            x = self.q(z, noise.normal(self.batch, self.target.dim))[0]
        return -self.flow.log_prob(z, x).mean()

    def operations(self) -> dict[str, str]:
        return {"aisivi_estimate": self.backend()}

    def backend(self) -> Literal["fused", "torch"]:
        """Which implementation of ``estimate`` is taken: a fused pass in C++ (CPU, float32) or torch."""
        rho = self.q.rho
        plain = rho.device.type == "cpu" and rho.dtype == torch.float32 and type(self).propose is AISIVI.propose
        if not plain or relu_layers(self.q.mean) is None:
            return "torch"
        return "fused" if native.LIBRARY.get() is not None else "torch"

    def mixture_score(self, x: Tensor, z: Tensor, noise: Noise) -> Tensor:
        """Importance-sampling estimate of grad_x log q(x), [n, d] -> [n, d]; the generating z is not used."""
        eps = noise.normal(self.inner, len(x), self.q.noise_dim)
        if self.backend() == "fused":
            return seedwise(self, "fused", x, eps)
        return seedwise(self, "estimate", x, eps) if x.device.type == "cpu" else self.estimate(x, eps)

    def fused(self, x: Tensor, eps: Tensor) -> Tensor:
        """As ``estimate``, to float rounding."""
        linear = relu_layers(self.q.mean)
        assert linear is not None
        couplings = [coupling.tensors() for coupling in self.flow.couplings]  # type: ignore[operator]
        return native.estimate(couplings, linear, self.q.sigma, x, eps)

    def estimate(self, x: Tensor, eps: Tensor) -> Tensor:
        """The same from base noise eps [inner, n, k], a piece of the inner draws after the other."""
        total: tuple[Tensor, Tensor] | None = None
        for part in eps.split(max(1, (ROWS if x.device.type == "cpu" else ROWS_GPU) // len(x))):
            inner, log_tau = self.propose(part, x)
            found = gaussian_mixture_score(x, self.q.mean(inner), self.q.sigma, -log_tau)
            total = found if total is None else merge(total, found)
        assert total is not None
        # of points without a single finite weight nothing is known
        return torch.where(torch.isfinite(total[0]).unsqueeze(1), total[1], torch.nan)

    def propose(self, eps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """z ~ tau(. | x) [c, n, k] and their log densities [c, n] from base noise [c, n, k] at x [n, d]."""
        return self.flow.push(eps, x)
