"""HSIVI-SM for diffusion acceleration: a few Gaussian layers, each matched to a marginal of the teacher's diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bench.checks import require_positive
from bench.errors import UserError
from bench.registry import register
from methods.base import Clock, Noise, Player
from methods.diffusion.games import game, regression
from methods.diffusion.layered import LayeredSampler
from methods.diffusion.layers import antithetic, layer_networks
from methods.diffusion.steps import Steps
from methods.diffusion.training import Training
from methods.parts.options import with_options_of
from targets.base import Target

Weight = Literal["sigma2", "gamma2", "one"]


@register(
    "method",
    "hsivi_diffusion",
    source="Yu et al., NeurIPS 2023, arXiv:2310.17153, equations of its released code; residual networks of this suite",
)
class HSIVIDiffusion(LayeredSampler):
    """HSIVI-SM distilling a diffusion teacher eps* into N = ``nfe`` Gaussian layers; data-free.

    The layers are those of ``LayeredSampler``.  The target of layer k is the teacher's marginal at tau_{k-1}; its
    critic predicts r = sigma_{k-1} z / (gamma c_k), minus sigma_{k-1} times the conditional score:

        critic:   min  w |f(x_{k-1}) - r|^2
        student:  min  w [2 <f - eps*, r - eps*> - 2 alpha |f - eps*|^2]     (at x_{k-1}, tau_{k-1})

    x_k comes from the current layers without gradient; only the last transition is differentiated.  The critic starts
    as the teacher, like the student: a residual on it or a copy.

    The sampler's options are those of ``LayeredSampler``; the released code has ``grid`` ``quad`` or ``uniform``,
    ``eta`` 0.2, ``gamma`` per coordinate (pixel), shared by the layers, and one ``teacher`` copy as ``network``.

    Args:
        critic: widths of residual networks.
        trajectories: batch, rows that run down the layers.
        rows: every trajectory trains ``all`` its layers, or one: ``antithetic`` draws it uniformly for the first half
            of the rows and mirrors it for the second, as the code does (all layers are evaluated nevertheless: the
            same law of gradients, not less work; ``hsivi_image`` evaluates the drawn ones).
        weight, weight_critic: w: ``sigma2`` = sigma_{k-1}^2 (the code's), ``gamma2`` = (c_k / sigma_{k-1})^2, which
            makes the noise of r 1 in every layer, or ``one``.
        alpha: 0.5 is the released loss; ``1`` and ``1.2`` are corrections in the style of SiD, a variant.
        lr, lr_critic, beta1, beta2, clip, ema, critic_steps, critic_first, warm_up, decay: see
            ``methods.diffusion.training``; the code's ratio is 20 steps of the critic, its EMA 0.999.
    """

    paper_name = "HSIVI-SM"
    added = {"layer": "ddim", "history": "student", "corrector": False}
    phases = ("critic_first", "warm_up")
    cheap = {
        "nfe": 2,
        "eta": (1.0,),
        "trajectories": 32,
        "hidden": (16,),
        "critic": (16,),
        "critic_steps": 2,
        "critic_first": 0,
        "warm_up": 1,
        "lr": 1e-3,
        "lr_critic": 5e-3,
        "ema": 0.97,
    }

    w_student: Tensor
    w_critic: Tensor
    landing_times: Tensor

    @with_options_of(LayeredSampler)
    def __init__(
        self,
        target: Target,
        *,
        critic: tuple[int, ...] = (64, 64, 64),
        trajectories: int = 128,
        rows: Literal["all", "antithetic"] = "all",
        weight: Weight = "sigma2",
        weight_critic: Weight = "gamma2",
        alpha: float = 0.5,
        lr: float = 5e-4,
        lr_critic: float = 1e-3,
        beta1: float = 0.5,
        beta2: float = 0.99,
        clip: float = 10.0,
        ema: float = 0.995,
        critic_steps: int = 5,
        critic_first: int = 40,
        warm_up: int = 40,
        decay: Literal["cosine", "none"] = "cosine",
        **options: object,
    ) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        require_positive(critic=critic, trajectories=trajectories, alpha=alpha)
        if any(self.steps.sd[k] == 0 for k in self.learned):
            raise UserError(
                "a trained layer has eta=0, so no density and nothing to match",
                "give a positive eta, or freeze the layers",
            )
        ends = [float(self.steps.times[k - 1]) for k in self.learned]
        self.critic = layer_networks(self.network, self.teacher, ends, target.dim, tuple(critic))
        self.trajectories, self.rows, self.alpha = trajectories, rows, alpha
        self.training_options = Training(
            lr=lr, lr_critic=lr_critic, beta1=beta1, beta2=beta2, clip=clip, ema=ema,
            critic_steps=critic_steps, critic_first=critic_first, warm_up=warm_up, decay=decay,
        )  # fmt: skip
        constants = {  # one row per trained layer, from the top
            "w_student": [_weight(weight, self.steps, k) for k in self.learned],
            "w_critic": [_weight(weight_critic, self.steps, k) for k in self.learned],
            "landing_times": ends,
        }
        for name, values in constants.items():
            self.register_buffer(name, torch.tensor(values).unsqueeze(-1))

    def players(self) -> Sequence[Player]:
        return self.training_options.players(self.regression, self.fisher)

    def operations(self) -> dict[str, str]:
        return {"training_data": "none", "teacher": self.teacher.label}

    def teachers(self, x: Tensor) -> Tensor:
        """eps* at the landing points of the trained layers; [L, n, d] -> [L, n, d]."""
        return self.teacher.eps(x, self.landing_times)

    def critics(self, x: Tensor, eps: Tensor) -> Tensor:
        """g = f - eps* at the landing points, given eps*; [L, n, d] -> [L, n, d]."""
        out: Tensor = self.critic(x)
        return out - eps if self.copied else out

    def chosen(self, noise: Noise) -> Tensor | float:
        """Weights of the (layer, trajectory) pairs: all of them, or one layer per trajectory; [L, n]."""
        if self.rows == "all":
            return 1.0
        L = len(self.learned)
        layer = antithetic(self.trajectories, L, noise)
        index = torch.arange(L, device=layer.device).unsqueeze(-1)
        return (index == layer).to(self.w_student.dtype)

    def fisher(self, noise: Noise, clock: Clock) -> Tensor:
        """The student's loss: the sum over layers, the mean over trajectories."""
        x, r = self.transitions(self.trajectories, noise)
        eps = self.teachers(x)
        value = game(self.critics(x, eps), eps, r, self.alpha)
        return (self.chosen(noise) * self.w_student * value).mean(-1).sum()

    def regression(self, noise: Noise, clock: Clock) -> Tensor:
        """The critic's loss: the sum over layers, the mean over trajectories."""
        x, r = self.transitions(self.trajectories, noise)
        x, r = x.detach(), r.detach()
        eps = self.teachers(x)
        value = regression(self.critics(x, eps), eps, r)
        return (self.chosen(noise) * self.w_critic * value).mean(-1).sum()


def _weight(kind: Weight, steps: Steps, k: int) -> float:
    if kind == "sigma2":
        return steps.sigma[k - 1] ** 2
    return (steps.sd[k] / steps.sigma[k - 1]) ** 2 if kind == "gamma2" else 1.0
