"""KPG: semi-implicit VI along a kernel-smoothed path gradient (Pielok et al. 2025, arXiv:2506.05088)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from bench.registry import register
from methods.base import Clock, Noise, Player, require_fraction, require_positive
from methods.families import SemiImplicit, SemiImplicitMethod, anneal
from methods.optim import Adam, staircase
from methods.stein import stein_backend, stein_discrepancy
from targets.base import Target

ConstantBandwidth = Literal["detached", "bisection"]
"""The rules of ``methods.kernels.Bandwidth`` that are not differentiated: nothing here passes through a kernel."""


@register("method", "kpg", source="Pielok et al. 2025, arXiv:2506.05088; settings of the 2-D experiments of its code")
class KPG(SemiImplicitMethod):
    """Kernel path gradient: the reverse KL's path gradient with a kernel-smoothed score difference.

        Delta_k(x) = E_{(x', z')}[k(x, x') (s_c(x' | z') - s_p(x'))],   direction E[Delta_k(x) grad_phi x]

    Delta_k has the mean of the amortised SVGD direction.  It is estimated on a second batch and held constant, so
    a step differentiates neither the target's score nor the kernel.  (The code sums over x'; the mean here gives Adam
    the same step.)

    Args:
        target: needs a score.
        batch: N, rows of each of the two batches; N target evaluations per step.
        noise_dim: dimension of the mixing variable z.
        hidden: hidden layer sizes of mu.
        log_var: initial log variance of q(x | z).
        log_var_min: lower clamp of the log variance.
        bandwidth: rule for the median bandwidth of the Gaussian kernel, see ``methods.kernels.Bandwidth``.
        lr: Adam's learning rate.
        beta1: Adam's first decay.
        beta2: Adam's second decay.
        decay: factor on the learning rate every ``decay_every`` steps.
        decay_every: see ``decay``.
        anneal: the fraction of the run over which the target's score is annealed, as in ``ksivi``.
    """

    paper_name = "KPG"
    needs = frozenset({"score"})
    cheap: ClassVar[dict[str, Any]] = {"batch": 32}

    def __init__(
        self,
        target: Target,
        *,
        batch: int = 500,
        noise_dim: int = 3,
        hidden: tuple[int, ...] = (50, 50),
        log_var: float = 0.0,
        log_var_min: float = -20.0,
        bandwidth: ConstantBandwidth = "detached",
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.99,
        decay: float = 0.9,
        decay_every: int = 1000,
        anneal: float = 0.0,
    ) -> None:
        super().__init__(target)
        require_positive(batch=batch, noise_dim=noise_dim, hidden=hidden, lr=lr, decay=decay, decay_every=decay_every)
        require_fraction(beta1=beta1, beta2=beta2, anneal=anneal)
        self.q = SemiImplicit(target.dim, noise_dim, tuple(hidden), log_var=log_var, log_var_min=log_var_min)
        self.batch, self.bandwidth, self.anneal = batch, bandwidth, anneal
        self.lr, self.betas, self.decay, self.decay_every = lr, (beta1, beta2), decay, decay_every

    def players(self) -> Sequence[Player]:
        adam, schedule = Adam(self.lr, self.betas), staircase(self.decay, self.decay_every)
        return [Player("q", ("q",), loss=self.loss, optimiser=adam, schedule=schedule)]

    def operations(self) -> dict[str, str]:
        log_var = self.q.log_var
        return {"stein_pairs": stein_backend(log_var.device, log_var.dtype)}

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """(1 / N^2) sum_ji k(x_j, x'_i) <s_c - s_p at x'_i, x_j>, constant but for the last x_j.

        It has the form of the Stein pair block with x_j in the place of one of its two vectors.
        """
        x, _ = self.q.draw(self.batch, noise)
        y, u = (t.detach() for t in self.q.draw(self.batch, noise))
        f = anneal(clock, self.anneal) * self.target.subsample(noise).score(y) + u
        return -stein_discrepancy(x.detach(), y, x, f.detach(), kernel="gaussian", bandwidth=self.bandwidth)
