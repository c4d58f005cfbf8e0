"""What methods that train a noise predictor on data share: the network, its card as a teacher, ancestral sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from bench.checks import require_not_negative, require_positive
from methods.base import Method, Noise
from methods.diffusion.data import TrainingRows
from methods.diffusion.steps import Steps
from targets.base import Target
from targets.diffusion.card import TeacherCard
from targets.diffusion.eps import EpsTeacher, Time
from targets.diffusion.grids import time_grid
from targets.diffusion.networks import make_network
from targets.diffusion.schedule import Schedule, schedule_of
from targets.images.base import ImageTarget
from targets.images.stored import StoredImages

NetworkName = Literal["film_mlp", "unet"]


class Denoiser(Method):
    """A noise predictor eps(x, t) fitted to data; a draw runs the ancestral chain (DDIM with eta = 1).

    Args:
        target: images, or a target with exact or reference draws.
        network: ``film_mlp`` or ``unet`` (images only), see ``targets.diffusion.networks``.
        hidden, blocks: of ``film_mlp``.
        channels, layers, attention, groups: of ``unet``.
        draws: training points kept of a target that is no set of images.
        batch: rows per step.
        steps: evaluations of the network per draw, on a trailing grid.
    """

    needs = frozenset({"truth"})
    objective = ""
    cheap = {"batch": 64, "hidden": 32, "blocks": 1, "draws": 5000, "lr": 3e-3, "ema": 0.97, "steps": 25}

    def __init__(
        self,
        target: Target,
        *,
        network: NetworkName = "film_mlp",
        hidden: int = 256,
        blocks: int = 3,
        channels: tuple[int, ...] = (32, 64, 64),
        layers: int = 2,
        attention: tuple[int, ...] = (2,),
        groups: int = 8,
        draws: int = 100_000,
        batch: int = 256,
        steps: int = 100,
    ) -> None:
        super().__init__(target)
        require_positive(hidden=hidden, blocks=blocks, channels=channels, layers=layers, draws=draws)
        require_positive(batch=batch, steps=steps, groups=groups)
        require_not_negative(attention=attention)
        self.data = TrainingRows(target, draws)
        self.shape = target.shape if isinstance(target, ImageTarget) else (target.dim,)
        arguments: dict[str, Any] = {"hidden": hidden, "blocks": blocks}
        if network == "unet":
            arguments = {"channels": channels, "layers": layers, "attention": attention, "groups": groups}
        self.network, self.arguments = network, arguments
        self.net = make_network(network, self.shape, arguments)
        self.batch, self.chain = batch, steps
        self.capturable = not isinstance(target, StoredImages)  # whose pixels are read from the disk, by the host

    def schedule_card(self) -> Mapping[str, Any]:
        """The schedule on which the network is a teacher, as ``schedule_of`` takes it (of the fitted parameters)."""
        raise NotImplementedError

    def networks(self) -> Sequence[nn.Module]:
        return [self.net]

    def published(self) -> tuple[nn.Module, TeacherCard]:
        card = TeacherCard(
            network=self.network,
            arguments=self.arguments,
            shape=self.shape,
            data=self.target.registered_name,
            schedule=self.schedule_card(),
            objective=self.objective,
        )
        return self.net, card

    def teacher(self) -> EpsTeacher:
        """The network as a teacher, sharing its parameters."""
        return _Current(self.net, schedule_of(self.schedule_card()), self.target.dim)

    def sample(self, n: int, noise: Noise) -> Tensor:
        teacher = self.teacher()
        steps = Steps(time_grid("trailing", self.chain, teacher.schedule), teacher.schedule, (1.0,))
        x = noise.normal(n, self.target.dim)
        for k in range(self.chain, 0, -1):
            x = steps.mean(k, x, teacher.eps(x, steps.times[k]))
            if k > 1:
                x = x + steps.sd[k] * noise.normal(n, self.target.dim)
        return x


class _Current(EpsTeacher):
    """A network in training as a teacher."""

    label = "in training"

    def __init__(self, net: nn.Module, schedule: Schedule, dim: int) -> None:
        super().__init__(schedule, dim)
        self.net = net

    def forward(self, x: Tensor, t: Time) -> Tensor:
        times = t.to(x.dtype) if isinstance(t, Tensor) else x.new_full((), t)
        out: Tensor = self.net(x, times.expand(x.shape[:-1]))
        return out
