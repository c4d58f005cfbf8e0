"""Families of explicit Gaussian layers, and the base class of methods that fit every layer to a bridge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.distributions import Distribution

from bench.checks import require_fraction, require_not_negative, require_positive
from methods.base import Clock, Loss, Method, Noise, Player
from methods.parts.families import GlobalVariance
from methods.parts.optim import Adam, staircase
from targets.base import Target
from targets.bridge import Ladder


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.f(x)
        return out


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        only: the layer that is trained, 0 the top; None: all together.
        start, until: iterations, as of a ``Player``.
    """

    only: int | None = None
    start: int = 0
    until: int | None = None


class BridgeLayers(Method):
    """q(x_0) = E[q(x_0 | x_1)], x_T ~ N(0, s^2 I_k) and x_t ~ N(mu_t(x_{t+1}), diag sigma_t^2), t = T-1..0.

    The family of hierarchical SIVI (Yu et al., NeurIPS 2023, arXiv:2310.17153).  Layer t is fitted to a bridge p_t
    with p_0 = p, and no gradient flows through x_{t+1}.  The layers have parameters of their own, so that with an
    optimiser whose steps do not depend on the gradient's scale the weights beta_t of the sum over layers change
    nothing: they are all 1.

    Args:
        layers: T.
        batch: rows per step.
        noise_dim: k, dimension of x_T; 0: that of x.
        hidden: widths of mu_t (ReLU).
        residual: mu_t(x) = x + f_t(x) where the dimensions agree, otherwise f_t(x).
        log_var, log_var_min: initial value and lower clamp of log sigma_t^2.
        base_sd: s, of x_T and of the bridge's base.
        ladder: the bridge's exponents, see ``targets.bridge``.
        training: ``joint``, or ``sequential``: one layer after the other, from the top.
        stage: iterations per layer of sequential training (the last layer trains to the end).
        lr, beta1, beta2, decay, decay_every: Adam and its staircase, which counts from a layer's first step.
    """

    paper_name = "HSIVI"
    needs = frozenset({"score", "bridge"})

    phases = ("stage",)

    def __init__(
        self,
        target: Target,
        *,
        layers: int = 3,
        batch: int = 500,
        noise_dim: int = 0,
        hidden: tuple[int, ...] = (50, 50),
        residual: bool = True,
        log_var: float = 0.0,
        log_var_min: float = -6.0,
        base_sd: float = 1.0,
        ladder: Ladder = "linear",
        training: Literal["joint", "sequential"] = "joint",
        stage: int = 10000,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.99,
        decay: float = 0.9,
        decay_every: int = 1000,
    ) -> None:
        super().__init__(target)
        require_positive(layers=layers, batch=batch, hidden=hidden, base_sd=base_sd, stage=stage, lr=lr)
        require_positive(decay=decay, decay_every=decay_every)
        require_not_negative(noise_dim=noise_dim)
        require_fraction(beta1=beta1, beta2=beta2)
        self.batch, self.base_sd, self.ladder, self.training_mode, self.stage = batch, base_sd, ladder, training, stage
        self.lr, self.betas, self.schedule = lr, (beta1, beta2), staircase(decay, decay_every)
        self.noise_dim = noise_dim or target.dim
        self.layers = nn.ModuleList()
        for fan_in in [self.noise_dim] + [target.dim] * (layers - 1):
            layer = GlobalVariance(target.dim, fan_in, tuple(hidden), log_var=log_var, log_var_min=log_var_min)
            if residual and fan_in == target.dim:
                layer.mean = Residual(layer.mean)  # type: ignore[assignment]
            self.layers.append(layer)

    @property
    def rows(self) -> int:
        """Draws that go down the layers together."""
        return self.batch

    def divergence(self, i: int, x: Tensor, u: Tensor, xi: Tensor, p: Target, clock: Clock) -> Tensor:
        """What layer i (0 the top) minimises, given x = mu + sigma xi and u = xi / sigma, [rows, d] each."""
        raise NotImplementedError

    def objective(self, only: int | None, noise: Noise, clock: Clock) -> Tensor:
        """The sum of ``divergence`` over layers, or that of one layer."""
        rungs = self.target.subsample(noise).bridge(len(self.layers), self.base_sd, self.ladder)
        x = self.base_sd * noise.normal(self.rows, self.noise_dim)
        total = x.new_zeros(())
        for i, layer in enumerate(self.layers):
            if only is not None and i > only:
                break
            xi = noise.normal(self.rows, self.target.dim)
            x, u = layer(x.detach(), xi)
            if only is None or i == only:
                total = total + self.divergence(i, x, u, xi, rungs[i], clock)
        return total

    def stages(self) -> list[Stage]:
        """One of all layers, or one of each layer from the top."""
        if self.training_mode == "joint":
            return [Stage()]
        last = len(self.layers) - 1
        ends = [(i + 1) * self.stage if i < last else None for i in range(last + 1)]
        return [Stage(i, start=i * self.stage, until=end) for i, end in enumerate(ends)]

    def players(self) -> Sequence[Player]:
        return [self._player("layers", stage, self.lr, self.objective) for stage in self.stages()]

    def _player(
        self,
        owner: str,
        stage: Stage,
        lr: float,
        objective: Callable[[int | None, Noise, Clock], Tensor],
        steps: int = 1,
    ) -> Player:
        loss: Loss = partial(objective, stage.only)
        modules = owner if stage.only is None else f"{owner}.{stage.only}"
        return Player(
            modules,
            (modules,),
            loss=loss,
            optimiser=Adam(lr, self.betas),
            schedule=self.schedule,
            steps=steps,
            start=stage.start,
            until=stage.until,
        )

    def mixing(self, n: int, noise: Noise) -> Tensor:
        """n draws of the input of the last layer: x_1, [n, d] (x_T, [n, k], with one layer)."""
        x = self.base_sd * noise.normal(n, self.noise_dim)
        for layer in list(self.layers)[:-1]:
            x, _ = layer(x, noise.normal(n, self.target.dim))
        return x

    def conditional(self, z: Tensor) -> Distribution:
        """q(x_0 | x_1 = z)."""
        last: GlobalVariance = self.layers[-1]  # type: ignore[assignment]
        return last.conditional(z)

    def sample(self, n: int, noise: Noise) -> Tensor:
        x, _ = self.layers[-1](self.mixing(n, noise), noise.normal(n, self.target.dim))
        out: Tensor = x
        return out
