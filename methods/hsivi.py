"""HSIVI: hierarchical semi-implicit VI, by surrogate bounds or by Fisher games (Yu et al. 2023, arXiv:2310.17153)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bench.checks import require_positive
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.parts.bridge_layers import BridgeLayers
from methods.parts.families import GlobalVariance, mlp
from methods.parts.options import with_options_of
from methods.parts.relu_mlp import mlp_backend, relu_mlp
from methods.parts.surrogate import surrogate
from targets.base import Target

SOURCE = "Yu et al., NeurIPS 2023, arXiv:2310.17153; geometric bridge, sizes and rates of this suite"


@register("method", "hsivi_lb", source=SOURCE)
class HSIVILB(BridgeLayers):
    """HSIVI-LB: every layer maximises a surrogate bound with K auxiliary draws of x_{t+1}.

    Layer t minimises E[log 1/(K+1) sum_{k=0..K} q(x_t | x_{t+1}^k) - log p_t(x_t)], where x_t comes from k = 0.  The
    auxiliary draws run down the layers beside the ``batch`` outer ones and are shared by them.

    Args:
        auxiliary: K.
    """

    paper_name = "HSIVI-LB"
    needs = frozenset({"log_prob", "bridge"})
    cheap = {"batch": 32, "auxiliary": 32, "layers": 2, "hidden": (16,)}

    @with_options_of(BridgeLayers)
    def __init__(self, target: Target, *, batch: int = 100, auxiliary: int = 50, **options: object) -> None:
        super().__init__(target, batch=batch, **options)  # type: ignore[arg-type]
        require_positive(auxiliary=auxiliary)
        self.auxiliary = auxiliary

    @property
    def rows(self) -> int:
        return self.batch + self.auxiliary

    def divergence(self, i: int, x: Tensor, u: Tensor, xi: Tensor, p: Target, clock: Clock) -> Tensor:
        """Minus the surrogate bound of layer i."""
        layer: GlobalVariance = self.layers[i]  # type: ignore[assignment]
        others = (x - layer.coloured(xi))[self.batch :]  # the means of the auxiliary rows
        own, xi = x[: self.batch], xi[: self.batch]
        return (surrogate(layer, own, xi, others) - p.log_prob(own)).mean()


@register("method", "hsivi_sm", source=SOURCE)
class HSIVISM(BridgeLayers):
    """HSIVI-SM: every layer plays the game of SIVI-SM against a critic of its own; needs scores only.

    Layer t minimises max_psi E[2 f_psi(x_t)' (s_{p_t}(x_t) - s_{q(. | x_{t+1})}(x_t)) - |f_psi(x_t)|^2].

    Args:
        critic: hidden widths of each critic.
        lr_critic: their learning rate.
        critic_steps: steps of the critics per step of the layers.
    """

    paper_name = "HSIVI-SM"
    cheap = {"batch": 32, "layers": 2, "hidden": (16,), "critic": (16,)}

    @with_options_of(BridgeLayers)
    def __init__(
        self,
        target: Target,
        *,
        critic: tuple[int, ...] = (128, 128),
        lr_critic: float = 2e-3,
        critic_steps: int = 1,
        **options: object,
    ) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        require_positive(critic=critic, lr_critic=lr_critic, critic_steps=critic_steps)
        self.critics = nn.ModuleList(mlp(target.dim, tuple(critic), target.dim) for _ in self.layers)
        self.lr_critic, self.critic_steps = lr_critic, critic_steps

    def operations(self) -> dict[str, str]:
        parameter = next(self.parameters())
        return {"relu_mlp": mlp_backend(parameter.device, parameter.dtype)}

    def players(self) -> Sequence[Player]:
        return [
            player
            for stage in self.stages()
            for player in (
                self._player("layers", stage, self.lr, self.objective),
                self._player("critics", stage, self.lr_critic, self.regression, self.critic_steps),
            )
        ]

    def divergence(self, i: int, x: Tensor, u: Tensor, xi: Tensor, p: Target, clock: Clock) -> Tensor:
        """The value of layer i's game."""
        f = relu_mlp(self.critics[i], x)
        return (2 * (f * (p.score(x) + u)).sum(-1) - f.square().sum(-1)).mean()

    def regression(self, only: int | None, noise: Noise, clock: Clock) -> Tensor:
        """Minus the games' value, as a function of the critics."""
        return -self.objective(only, noise, clock)
