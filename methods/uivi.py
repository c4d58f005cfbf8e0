"""UIVI: unbiased implicit variational inference (Titsias & Ruiz, AISTATS 2019, arXiv:1808.02078)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.checks import require_fraction, require_positive, require_share
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.parts.families import Diagonal, SemiImplicitMethod, anneal
from methods.parts.optim import Blocks, RMSprop, staircase
from methods.parts.reverse_chains import average_mean, chains_backend
from targets.base import Target

SD_FLOOR = 1e-5


class DirectScale(Diagonal):
    """The semi-implicit family with sigma itself, one global vector, as the parameter, and UIVI's initialisation.

    Below ``SD_FLOOR`` sigma is the floor, and the gradient passes through (the code sets the parameter to the floor).

    Args:
        dim, noise_dim, hidden: see ``SemiImplicit``.
        sd: initial value of sigma.
        init: ``uivi``: hidden weights N(0, 1) / sqrt(fan in), output weights N(0, 1), biases 0; or ``torch``.
    """

    def __init__(
        self, dim: int, noise_dim: int, hidden: tuple[int, ...], *, sd: float, init: Literal["uivi", "torch"]
    ) -> None:
        super().__init__(dim, noise_dim, hidden)
        self.sd = nn.Parameter(torch.full((dim,), float(sd)))
        layers = [layer for layer in self.mean if isinstance(layer, nn.Linear)]
        for layer in layers if init == "uivi" else ():
            nn.init.normal_(layer.weight, std=1.0 if layer is layers[-1] else layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    @property
    def sigma(self) -> Tensor:
        return self.sd + (SD_FLOOR - self.sd).clamp(min=0).detach()


@register("method", "uivi", source="Titsias & Ruiz, AISTATS 2019, arXiv:1808.02078; settings of the toys of its code")
class UIVI(SemiImplicitMethod):
    """Unbiased implicit VI: the path gradient of the ELBO with grad log q(x) = E_{q(z'|x)} grad_x log q(x | z').

    The reverse conditional q(z' | x) is sampled by HMC that starts at the z that made x, hence in equilibrium; draws
    after the burn-in are averaged.  The step size is adapted during the burn-in only and carried to the next iteration.
    Where q(z' | x) has several modes, short chains stay near the generating z and the estimate is biased.

    Args:
        target: needs a score.
        outer: draws x per step, each with its own chain.
        noise_dim, hidden, init: the network of mu and its initialisation, see ``DirectScale``.
        sd: initial sigma of q(x | z).
        burn_in: HMC transitions thrown away.
        samples: HMC transitions averaged over.
        leapfrog: leapfrog steps per transition.
        step_size: initial step size.
        accept: acceptance probability that the adaptation aims at.
        lr: step size of the network (the code's RMSprop: g / (1 + sqrt(G)), G started at the first g^2).
        lr_sd: step size of sigma.
        decay, decay_every: both times decay every so many steps.
        anneal: the fraction of the run over which the target's score is annealed, as in ``ksivi``; not in the paper.
    """

    paper_name = "UIVI"
    needs = frozenset({"score"})
    carried = ("step_size",)
    cheap: ClassVar[dict[str, Any]] = {"outer": 16, "hidden": (16,), "burn_in": 1, "samples": 1, "leapfrog": 2}

    step_size: Tensor

    def __init__(
        self,
        target: Target,
        *,
        outer: int = 1,
        noise_dim: int = 3,
        hidden: tuple[int, ...] = (50, 50),
        init: Literal["uivi", "torch"] = "uivi",
        sd: float = 0.5,
        burn_in: int = 5,
        samples: int = 5,
        leapfrog: int = 5,
        step_size: float = 0.2,
        accept: float = 0.9,
        lr: float = 0.01,
        lr_sd: float = 0.002,
        decay: float = 0.9,
        decay_every: int = 3000,
        anneal: float = 0.0,
    ) -> None:
        super().__init__(target)
        require_positive(outer=outer, noise_dim=noise_dim, hidden=hidden, sd=sd, burn_in=burn_in, samples=samples)
        require_positive(leapfrog=leapfrog, step_size=step_size, accept=accept, lr=lr, lr_sd=lr_sd)
        require_positive(decay=decay, decay_every=decay_every)
        require_fraction(accept=accept)  # at 1 the steps would shrink for ever
        require_share(anneal=anneal)
        self.q: DirectScale = DirectScale(target.dim, noise_dim, tuple(hidden), sd=sd, init=init)
        self.register_buffer("step_size", torch.tensor(float(step_size)))
        self.outer, self.burn_in, self.samples, self.leapfrog = outer, burn_in, samples, leapfrog
        self.accept, self.anneal = accept, anneal
        self.lr, self.lr_sd, self.schedule = lr, lr_sd, staircase(decay, decay_every)

    def operations(self) -> dict[str, str]:
        z = self.q.sd.new_empty(1, self.q.noise_dim)
        return {"reverse_chains": chains_backend(self.q.mean, z)}

    def players(self) -> Sequence[Player]:
        rule = RMSprop(self.lr, 0.9, 1.0, from_first=True)
        factors = tuple(
            (p.numel(), self.lr_sd / self.lr if name == "sd" else 1.0) for name, p in self.q.named_parameters()
        )
        return [Player("q", ("q",), loss=self.loss, optimiser=Blocks(rule, factors), schedule=self.schedule)]

    def loss(self, noise: Noise, clock: Clock) -> tuple[Tensor, dict[str, Tensor]]:
        """-mean <s_p(x) - grad log q(x), x> with the difference held constant; also the adapted step size."""
        z, xi = noise.normal(self.outer, self.q.noise_dim), noise.normal(self.outer, self.q.dim)
        x, _ = self.q(z, xi)
        fixed = x.detach()
        score_q, step_size = self.score_q(fixed, z, self.step_size, noise)
        score_p = anneal(clock, self.anneal) * self.target.subsample(noise).score(fixed)
        loss = -((score_p - score_q).detach() * x).sum(-1).mean()
        return loss, {"step_size": step_size}

    def mixture_score(self, x: Tensor, z: Tensor, noise: Noise) -> Tensor:
        """The estimate of grad log q that training uses, at its present step size; [n, d]."""
        return self.score_q(x, z, self.step_size, noise)[0]

    def score_q(self, x: Tensor, z: Tensor, step_size: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Estimate of grad log q at x [n, d] from chains started at the generating z [n, k]; and the new step size."""
        mean, step_size = average_mean(
            self.q.mean, self.q.sigma, x, z, step_size, noise,
            burn_in=self.burn_in, samples=self.samples, leapfrog=self.leapfrog, accept=self.accept,
        )  # fmt: skip
        return (mean - x) / self.q.sigma.detach().square(), step_size
