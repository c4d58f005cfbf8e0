"""HSIVI-SM as its authors train it on images: student and critic are copies of the teacher's U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from bench.checks import require_fraction, require_not_negative, require_positive
from bench.errors import UserError
from bench.registry import register
from methods.base import Clock, Method, Noise, Player
from methods.diffusion.games import game
from methods.diffusion.layers import LogGamma, antithetic
from methods.diffusion.recompute import Precision, evaluated
from methods.diffusion.steps import Steps
from methods.diffusion.training import Decay, released_rates
from methods.parts.optim import AMSGrad
from targets.base import Target
from targets.diffusion.card import TeacherCard
from targets.diffusion.eps import EpsTeacher, FrozenTeacher, teacher_of
from targets.diffusion.files import open_teacher
from targets.diffusion.grids import GridName, time_grid
from targets.diffusion.schedule import TeacherSchedule

if TYPE_CHECKING:
    from targets.images.base import ImageTarget


def require_same_schedule(start: str, first: EpsTeacher, teacher: EpsTeacher) -> None:
    """Refuse a first network whose times mean other noise levels than the teacher's.

    Raises:
        UserError: naming both networks and their schedules.
    """
    if not first.schedule.same_as(teacher.schedule):
        found, expected = (
            f"{net.label} (schedule {dict(net.card.schedule) if net.card else 'without a card'})"
            for net in (first, teacher)
        )
        raise UserError(
            f"method.start={start} is {found}: trained with another noise schedule than the teacher, {expected}",
            "give method.start a network that was distilled from this teacher, or target.teacher the one it came from",
        )


@register(
    "method",
    "hsivi_image",
    source="Yu et al., NeurIPS 2023, arXiv:2310.17153, and its released code (longinYu/HSIVI)",
)
class HSIVIImage(Method):
    """HSIVI-SM for image networks, as released; data-free.

    The objective is that of ``hsivi_diffusion``.  Here every row trains one layer: it is drawn uniformly for the first
    half of the rows and mirrored for the second, x_k comes from a rollout without gradient, and only the transition
    k -> k-1 is differentiated.  One iteration is ``critic_steps`` steps of the critic and one of the student: 20 of
    the code's iterations.

    Args:
        target: images with a network teacher.
        nfe: N, the number of layers.
        schedule: of the diffusion; ``own`` is the teacher's.
        grid, times: tau_0..tau_N; ``quad`` for CIFAR-10 and CelebA, ``uniform`` for ImageNet.
        eta: of DDIM.
        gamma: factor on the standard deviations, shared by the layers: learned per ``pixel`` or as a ``scalar``, or
            ``fixed`` at 1.
        alpha: 0.5 is the released loss; larger values are corrections in the style of SiD.
        batch: rows per step and process (``train.processes``).
        lr, lr_critic: of Adam with amsgrad.
        warm_up: of the code's iterations, ``critic_steps`` to one of ours.
        decay: ``staircase``: 0.9 per 3000 of the code's iterations; ``cosine``: to what the staircase ends at.
        clip: largest gradient norm.
        ema: decay of the student's averaged parameters (with warm-up), used at evaluation.
        critic_steps: steps of the critic per step of the student.
        precision: of convolutions and matrix products in training; ``float32`` in the code.
        recompute: keep no activations of the three networks in the student's step.
        start: id or path of the network that the student starts from (`sivibench teacher`); "" for the teacher's.  The
            code starts 5 layers from what 10 layers ended at.
    """

    paper_name = "HSIVI-SM"
    needs = frozenset({"teacher", "images"})
    phases = ("warm_up",)
    large = True
    cheap = {
        "nfe": 2,
        "eta": 0.6,
        "batch": 32,
        "critic_steps": 2,
        "lr": 1e-2,
        "lr_critic": 5e-2,
        "warm_up": 1,
        "ema": 0.9,
    }

    starts: Tensor
    lands: Tensor

    def __init__(
        self,
        target: Target,
        *,
        nfe: int = 10,
        schedule: TeacherSchedule = "own",
        grid: GridName = "quad",
        times: tuple[int, ...] = (),
        eta: float = 0.2,
        gamma: Literal["pixel", "scalar", "fixed"] = "pixel",
        alpha: float = 0.5,
        batch: int = 16,
        lr: float = 1.6e-5,
        lr_critic: float = 8e-5,
        warm_up: int = 2500,
        decay: Decay = "staircase",
        clip: float = 1.0,
        ema: float = 0.999,
        critic_steps: int = 20,
        precision: Precision = "float32",
        recompute: bool = False,
        start: str = "",
    ) -> None:
        super().__init__(target)
        require_positive(nfe=nfe, eta=eta, alpha=alpha, batch=batch, lr=lr, lr_critic=lr_critic, clip=clip)
        require_positive(critic_steps=critic_steps)
        require_fraction(ema=ema)
        require_not_negative(warm_up=warm_up)
        self.teacher = teacher_of(target, schedule)
        self.steps = Steps(time_grid(grid, nfe, self.teacher.schedule, times=times), self.teacher.schedule, (eta,))
        if any(sd == 0 for sd in self.steps.sd[1:]):
            raise UserError("a layer without noise has no density to match", "give a positive method.eta")
        first = self.teacher
        if start:
            shape, name = cast("ImageTarget", target).shape, target.registered_name
            first = open_teacher(start, shape=shape, data=name, schedule=None, make="sivibench teacher")
            require_same_schedule(start, first, self.teacher)
        self.student = nn.ModuleDict({"net": first.trainable_copy()})
        self.critic = self.teacher.trainable_copy()
        if gamma != "fixed":
            self.student["scale"] = LogGamma(1, target.dim if gamma == "pixel" else 1)
        self.nfe, self.alpha, self.batch, self.critic_steps = nfe, alpha, batch, critic_steps
        self.rates, self.clip, self.ema = (lr, lr_critic), clip, ema
        self.warm_up, self.decay, self.precision, self.recompute = warm_up, decay, precision, recompute
        s = self.steps
        values = [(float(s.times[k]), s.alpha[k], s.sigma[k], s.sd[k]) for k in range(nfe + 1)]
        self.register_buffer("starts", torch.tensor(values[:0:-1]))  # layers from the top, k = N..1
        self.register_buffer("lands", torch.tensor(values[-2::-1]))

    def players(self) -> Sequence[Player]:
        schedule, clip = released_rates(self.warm_up, self.decay, self.critic_steps), self.clip
        return [
            Player(
                "critic",
                ("critic",),
                loss=self.regression,
                optimiser=AMSGrad(self.rates[1]),
                schedule=schedule,
                clip=clip,
                steps=self.critic_steps,
            ),
            Player(
                "student",
                ("student",),
                loss=self.fisher,
                optimiser=AMSGrad(self.rates[0]),
                schedule=schedule,
                clip=clip,
                ema=self.ema,
                ema_warm_up=True,
            ),
        ]

    def operations(self) -> dict[str, str]:
        return {"training_data": "none", "teacher": self.teacher.label}

    def networks(self) -> Sequence[nn.Module]:
        return [self.student["net"]]

    def published(self) -> tuple[nn.Module, TeacherCard] | None:
        """The student's network, for ``start`` of a run with fewer layers."""
        net, card = self.student["net"], self.teacher.card
        if card is None or not isinstance(net, FrozenTeacher):
            return None
        return net.net, replace(card, objective=f"student of {self.nfe} layers of HSIVI-SM, distilled from {card.run}")

    def scale(self) -> Tensor | float:
        """gamma, [1, 1 or d], or 1."""
        return self.student["scale"](0) if "scale" in self.student else 1.0

    def _evaluated(self, net: nn.Module, x: Tensor, t: Tensor, kept: bool = False) -> Tensor:
        return evaluated(net, x, t, precision=self.precision, recompute=self.recompute and kept)

    def rollout(self, layer: Tensor, noise: Noise) -> Tensor:
        """x_k of the current layers for rows that train ``layer`` (0: the top); [n] -> [n, d], without gradient."""
        n = len(layer)
        x = noise.normal(n, self.target.dim)
        kept = x
        with torch.no_grad():
            for i in range(self.nfe - 1):
                k = self.nfe - i
                eps = self._evaluated(self.student["net"], x, self.starts[i, 0].expand(n))
                x = self.steps.mean(k, x, eps) + self.scale() * self.steps.sd[k] * noise.normal(n, self.target.dim)
                kept = torch.where((layer == i + 1).unsqueeze(-1), x, kept)
        return kept.detach()

    def transition(self, noise: Noise, kept: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One transition per row: x_{k-1} and r [n, d], its time [n] and sigma_{k-1} [n, 1].

        Args:
            noise: of this step.
            kept: whether it will be differentiated.
        """
        layer = antithetic(self.batch, self.nfe, noise)
        x = self.rollout(layer, noise)
        t, alpha, sigma, sd = (column.unsqueeze(-1) for column in self.starts[layer].unbind(-1))
        t_land, alpha_land, sigma_land, _ = (column.unsqueeze(-1) for column in self.lands[layer].unbind(-1))
        eps = self._evaluated(self.student["net"], x, t.squeeze(-1), kept)
        x0 = (x - sigma * eps) / alpha
        mean = alpha_land * x0 + (sigma_land.square() - sd.square()).sqrt() * eps
        z, sd = noise.normal(self.batch, self.target.dim), self.scale() * sd
        return mean + sd * z, z * sigma_land / sd, t_land.squeeze(-1), sigma_land

    def regression(self, noise: Noise, clock: Clock) -> Tensor:
        """The critic's loss sigma^2 |f - r|^2, the mean over rows."""
        with torch.no_grad():
            x, r, t, sigma = self.transition(noise, kept=False)
        x, r = x.detach(), r.detach()
        return (sigma * (self._evaluated(self.critic, x, t) - r)).square().sum(-1).mean()

    def fisher(self, noise: Noise, clock: Clock) -> Tensor:
        """The student's loss, the mean over rows."""
        x, r, t, sigma = self.transition(noise, kept=True)
        eps = self._evaluated(self.teacher, x, t, kept=True)
        g = self._evaluated(self.critic, x, t, kept=True) - eps
        return (sigma.squeeze(-1).square() * game(g, eps, r, self.alpha)).mean()

    def sample(self, n: int, noise: Noise) -> Tensor:
        """From N(0, I) down all N layers; the last step adds no noise."""
        x = noise.normal(n, self.target.dim)
        for i, k in enumerate(range(self.nfe, 0, -1)):
            x = self.steps.mean(k, x, self.student["net"](x, self.starts[i, 0].expand(n)))
            if k > 1:
                x = x + self.scale() * self.steps.sd[k] * noise.normal(n, self.target.dim)
        return x
