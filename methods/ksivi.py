"""KSIVI: semi-implicit VI by minimising a kernel Stein discrepancy (Cheng, Yu et al., ICML 2024, arXiv:2405.18997)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from bench.registry import register
from methods.base import Clock, Noise, Player, require_fraction, require_positive
from methods.families import SemiImplicit, SemiImplicitMethod, anneal
from methods.kernels import Bandwidth, Kernel
from methods.optim import Adam, staircase
from methods.stein import stein_backend, stein_discrepancy
from targets.base import Target


@register("method", "ksivi", source="Cheng et al., ICML 2024, arXiv:2405.18997")
class KSIVI(SemiImplicitMethod):
    """Kernel semi-implicit VI: minimises the kernel Stein discrepancy of q from p.

    The defaults are the settings of the paper's 2-D experiments.

    Args:
        target: needs a score.
        batch: N, rows per batch; the vanilla statistic draws two batches per step.
        noise_dim: dimension of the mixing variable z.
        hidden: hidden layer sizes of mu.
        log_var: initial log variance of q(x | z).
        log_var_min: lower clamp of the log variance.
        kernel: k; the official code takes ``gaussian`` everywhere but on multimodal (``imq``) and student_uc
            (``riesz``).
        bandwidth: rule for the median bandwidth; official: ``exact`` for gaussian, ``detached`` for the others.
            Constant bandwidths of the Gaussian kernel are reported to be unstable on waveform.
        statistic: ``vanilla`` (two batches) or ``ustat`` (one batch).
        lr: Adam's learning rate.
        beta1: Adam's first decay.
        beta2: Adam's second decay.
        decay: factor on the learning rate every ``decay_every`` steps.
        decay_every: see ``decay``.
        anneal: the fraction W / iterations of the run over which the target's score is annealed,
            s_p min(1, 0.1 + t / W); 0: no annealing.
    """

    paper_name = "KSIVI"
    needs = frozenset({"score"})

    def __init__(
        self,
        target: Target,
        *,
        batch: int = 500,
        noise_dim: int = 3,
        hidden: tuple[int, ...] = (50, 50),
        log_var: float = 0.0,
        log_var_min: float = -20.0,
        kernel: Kernel = "gaussian",
        bandwidth: Bandwidth = "exact",
        statistic: Literal["vanilla", "ustat"] = "vanilla",
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
        self.batch, self.kernel, self.bandwidth, self.statistic = batch, kernel, bandwidth, statistic
        self.lr, self.betas, self.decay, self.decay_every = lr, (beta1, beta2), decay, decay_every
        self.anneal = anneal

    def players(self) -> Sequence[Player]:
        adam, schedule = Adam(self.lr, self.betas), staircase(self.decay, self.decay_every)
        return [Player("q", owns=("q",), loss=self.loss, optimiser=adam, schedule=schedule)]

    def operations(self) -> dict[str, str]:
        log_var = self.q.log_var
        return {"stein_pairs": stein_backend(log_var.device, log_var.dtype)}

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """KSD^2 = E k(x, x') <f, f'>,  f = s_p(x) - grad_x log q(x | z) = s_p(x) + xi / sigma."""
        ustat, N = self.statistic == "ustat", self.batch
        x, u = self.q.draw(N if ustat else 2 * N, noise)  # both batches in one call of the net
        f = anneal(clock, self.anneal) * self.target.score(x) + u
        return stein_discrepancy(
            x[:N], x[-N:], f[:N], f[-N:], kernel=self.kernel, bandwidth=self.bandwidth, ustat=ustat
        )
