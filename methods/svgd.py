"""SVGD (Liu & Wang, NeurIPS 2016, arXiv:1608.04471), also amortised (Feng, Wang & Liu, UAI 2017, arXiv:1707.06626)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.checks import require_positive, require_share
from bench.errors import UserError
from bench.registry import register
from methods.base import Clock, Method, Noise, Player
from methods.parts.directed import Directed
from methods.parts.families import anneal
from methods.parts.optim import Adam, Optimiser, RMSprop, staircase
from methods.parts.options import with_options_of
from methods.parts.repulsion import ConstantBandwidth, SteinKernel, particle_backend, stein_direction
from targets.base import Target
from targets.numerics import pick


@register("method", "svgd", source="Liu & Wang, NeurIPS 2016, arXiv:1608.04471; adaptive steps as in its code")
class SVGD(Method):
    """Stein variational gradient descent: particles that follow the steepest descent of KL(q || p) in a kernel's space.

    The particles start at N(0, I), independently for every seed, and move deterministically.

    Args:
        target: needs a score.
        particles: n.
        kernel, bandwidth: see ``methods.parts.kernels``; h^2 = 0.5 med / log(n + 1) for the Gaussian one.
        optimiser: ``adagrad``: the reference code's "Adagrad with momentum", phi / (1e-6 + sqrt(G)) with
            G <- 0.9 G + 0.1 phi^2 started at the first phi^2; or ``adam``.
        lr: step size; the reference code takes 0.001 to 0.5, by problem.
        decay: factor on the step size every ``decay_every`` steps.
        decay_every: see ``decay``.
        anneal: the fraction of the run over which the target's score is annealed, as in ``ksivi``.
    """

    paper_name = "SVGD"
    needs = frozenset({"score"})
    cheap: ClassVar[dict[str, Any]] = {"particles": 32}

    def __init__(
        self,
        target: Target,
        *,
        particles: int = 100,
        kernel: SteinKernel = "gaussian",
        bandwidth: ConstantBandwidth = "detached",
        optimiser: Literal["adagrad", "adam"] = "adagrad",
        lr: float = 0.05,
        decay: float = 1.0,
        decay_every: int = 1000,
        anneal: float = 0.0,
    ) -> None:
        super().__init__(target)
        require_positive(particles=particles, lr=lr, decay=decay, decay_every=decay_every)
        require_share(anneal=anneal)
        if particles == 2:
            raise UserError(
                "method.particles=2: the median over their pairs, and so the bandwidth, is 0, and nothing repels them",
                "give 3 or more, or 1 for a mode",
            )
        self.particles = nn.Parameter(torch.randn(particles, target.dim))
        self.kernel, self.bandwidth, self.optimiser, self.anneal = kernel, bandwidth, optimiser, anneal
        self.lr, self.decay, self.decay_every = lr, decay, decay_every

    def players(self) -> Sequence[Player]:
        rule: Optimiser = RMSprop(self.lr, 0.9, 1e-6, from_first=True) if self.optimiser == "adagrad" else Adam(self.lr)
        schedule = staircase(self.decay, self.decay_every)
        return [Player("particles", ("particles",), loss=self.loss, optimiser=rule, schedule=schedule)]

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """-sum_i <phi(x_i), x_i> with phi held constant: its gradient in x_i is -phi(x_i)."""
        x = self.particles.detach()
        score = anneal(clock, self.anneal) * self.target.subsample(noise).score(x)
        phi = stein_direction(x, x, score, kernel=self.kernel, bandwidth=self.bandwidth)
        return -(phi * self.particles).sum()

    def operations(self) -> dict[str, str]:
        return {"stein_direction": particle_backend(self.particles)}

    def sample(self, n: int, noise: Noise) -> Tensor:
        """n draws with replacement from the particles, [n, d]."""
        return self.particles[pick(n, len(self.particles), noise)]


@register("method", "asvgd", source="Feng, Wang & Liu, UAI 2017, arXiv:1707.06626; 2-D settings of arXiv:2506.05088")
class AmortisedSVGD(Directed):
    """Amortised SVGD: a sampler's parameters follow the SVGD direction at its draws, E[phi(x) grad_phi x].

    It uses no density of the conditional.  The "STEIN" baseline of the KPG paper leaves the kernel's weight out of
    the repulsion; here it is in.

    Args:
        target: needs a score.
        batch: N, draws per step.
        batches: ``one``: phi is estimated on the draws that move, as in the paper; ``two``: on a second, independent
            batch, which makes it unbiased for a fixed bandwidth and gives it the mean of ``kpg``.
        kernel: see ``methods.parts.kernels``; the other options are those of ``methods.parts.directed``.
    """

    paper_name = "Amortised SVGD"

    @with_options_of(Directed)
    def __init__(
        self,
        target: Target,
        *,
        batches: Literal["one", "two"] = "one",
        kernel: SteinKernel = "gaussian",
        **options: object,
    ) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        if batches == "one" and self.batch < 3:
            raise UserError(
                f"method.batch={self.batch}: the median over the pairs, and so the bandwidth, is 0, and nothing repels "
                "the draws",
                "give method.batch=3 or more, or method.batches=two",
            )
        self.batches, self.kernel = batches, kernel

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """-(1/N) sum_j <phi(x_j), x_j> with phi held constant."""
        x, _ = self.q.draw(self.batch, noise)
        y = (x if self.batches == "one" else self.q.draw(self.batch, noise)[0]).detach()
        score = anneal(clock, self.anneal) * self.target.subsample(noise).score(y)
        phi = stein_direction(x, y, score, kernel=self.kernel, bandwidth=self.bandwidth)
        return -(phi * x).sum() / self.batch

    def operations(self) -> dict[str, str]:
        return {"stein_direction": particle_backend(self.q.log_var)}
