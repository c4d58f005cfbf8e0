"""HSIVI-SM for diffusion acceleration: a few Gaussian layers, each matched to a marginal of the teacher's diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.errors import UserError
from bench.registry import register
from methods.base import Clock, Method, Noise, Player, require_not_negative, require_positive
from methods.diffusion.games import game, regression
from methods.diffusion.layers import LayerNetwork, Layers, LogGamma, layer_networks
from methods.diffusion.steps import Steps
from methods.diffusion.training import Training
from targets.base import Target
from targets.diffusion.eps import teacher_of
from targets.diffusion.grids import GridName, time_grid
from targets.diffusion.schedule import TeacherSchedule

Weight = Literal["sigma2", "gamma2", "one"]


@register(
    "method",
    "hsivi_diffusion",
    source="Yu et al., NeurIPS 2023, arXiv:2310.17153, equations of its released code; residual networks of this suite",
)
class HSIVIDiffusion(Method):
    """HSIVI-SM distilling a diffusion teacher eps* into N = ``nfe`` layers; data-free.

    Layer k = N..1 leads from time tau_k to tau_{k-1}: x_{k-1} = mean_k(x_k) + gamma c_k z, the step of DDIM(eta) with
    eps_phi(x_k, tau_k) for its noise.  Its target is the teacher's marginal at tau_{k-1}, its critic predicts
    r = sigma_{k-1} z / (gamma c_k), minus sigma_{k-1} times the conditional score:

        critic:   min  w |f(x_{k-1}) - r|^2
        student:  min  w [2 <f - eps*, r - eps*> - 2 alpha |f - eps*|^2]     (at x_{k-1}, tau_{k-1})

    x_k comes from the current layers without gradient; only the last transition is differentiated.  Student and critic
    are residuals on the teacher (eps_phi = eps* + network, f = eps* + network) whose last layers start at zero, or
    copies of the teacher: either way training starts at DDIM(eta).  Each of the N evaluations when sampling calls the
    student once; the last step adds no noise.

    Args:
        target: needs a diffusion teacher.
        nfe: N.
        schedule: of the diffusion; ``own`` takes the one a trained teacher was trained with.
        grid, power, times: tau_0..tau_N, see ``targets.diffusion.grids``; the code's is ``quad`` or ``uniform``.
        eta: of DDIM, one value or one per layer, the lowest first; 0.2 in the code.
        layer: mean of a layer: ``ddim`` (the paper's), or ``dpmpp``, of second order: the state of the chain is then
            x_k and the x_0 predicted in the layer above, and q(x_{k-1}) is semi-implicit in both; a variant.
        gamma: factor on the standard deviations: ``fixed`` at 1, ``scalar`` or per ``coordinate`` (the code's per
            pixel), both learned.
        gamma_per_layer: learned factors differ between layers (the code shares them).
        network: residuals, one ``per_layer`` or one ``shared`` network conditioned on the noise level; or copies of
            the teacher's network for student and critic, one ``teacher`` copy for all layers (the code's) or a
            ``teacher_per_layer``.
        hidden, critic: widths of residual networks.
        trajectories: batch, rows that run down the layers.
        rows: every trajectory trains ``all`` its layers, or one: ``antithetic`` draws it uniformly for the first half
            of the rows and mirrors it for the second, as the code does.
        weight, weight_critic: w: ``sigma2`` = sigma_{k-1}^2 (the code's), ``gamma2`` = (c_k / sigma_{k-1})^2, which
            makes the noise of r 1 in every layer, or ``one``.
        alpha: 0.5 is the released loss; ``1`` and ``1.2`` are corrections in the style of SiD, a variant.
        frozen: so many lowest layers stay the teacher's.
        lr, lr_critic, beta1, beta2, clip, ema, critic_steps, critic_first, warm_up, decay: see
            ``methods.diffusion.training``; the code's ratio is 20 steps of the critic, its EMA 0.999.
    """

    paper_name = "HSIVI-SM"
    needs = frozenset({"teacher"})
    data_free: ClassVar[bool] = True
    added = {"layer": "ddim"}
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

    def __init__(
        self,
        target: Target,
        *,
        nfe: int = 5,
        schedule: TeacherSchedule = "linear",
        grid: GridName = "quad",
        power: float = 3.0,
        times: tuple[int, ...] = (),
        eta: tuple[float, ...] = (0.2,),
        layer: Literal["ddim", "dpmpp"] = "ddim",
        gamma: Literal["fixed", "scalar", "coordinate"] = "fixed",
        gamma_per_layer: bool = False,
        network: LayerNetwork = "per_layer",
        hidden: tuple[int, ...] = (64, 64, 64),
        critic: tuple[int, ...] = (64, 64, 64),
        trajectories: int = 128,
        rows: Literal["all", "antithetic"] = "all",
        weight: Weight = "sigma2",
        weight_critic: Weight = "gamma2",
        alpha: float = 0.5,
        frozen: int = 0,
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
    ) -> None:
        super().__init__(target)
        require_positive(nfe=nfe, hidden=hidden, critic=critic, trajectories=trajectories, alpha=alpha)
        require_not_negative(frozen=frozen)
        if frozen >= nfe:
            raise UserError(f"method.frozen={frozen} of nfe={nfe} layers", "leave at least one layer to train")
        self.teacher = teacher_of(target, schedule)
        found = time_grid(grid, nfe, self.teacher.schedule, power=power, times=times)
        self.steps = Steps(found, self.teacher.schedule, tuple(eta))
        self.learned = list(range(nfe, frozen, -1))  # from the top
        if any(self.steps.sd[k] == 0 for k in self.learned):
            raise UserError(
                "a trained layer has eta=0, so no density and nothing to match",
                "give a positive eta, or freeze the layers",
            )
        L, d = len(self.learned), target.dim
        starts, ends = ([float(self.steps.times[k - j]) for k in self.learned] for j in (0, 1))
        self.student = nn.ModuleDict({"net": layer_networks(network, self.teacher, starts, d, tuple(hidden))})
        self.critic = layer_networks(network, self.teacher, ends, d, tuple(critic))
        if gamma != "fixed":
            self.student["scale"] = LogGamma(L if gamma_per_layer else 1, d if gamma == "coordinate" else 1)
        self.nfe, self.frozen, self.trajectories, self.rows = nfe, frozen, trajectories, rows
        self.alpha, self.second_order = alpha, layer == "dpmpp"
        self.training_options = Training(
            lr, lr_critic, beta1, beta2, clip, ema, critic_steps, critic_first, warm_up, decay
        )
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

    def networks(self) -> Sequence[nn.Module]:
        """A residual student evaluates the teacher each time; a copy of it is evaluated in its place."""
        return [self.teacher, *(self.student["net"].nets if self.copied else ())]  # type: ignore[misc]

    @property
    def copied(self) -> bool:
        """Whether student and critic are copies of the teacher instead of residuals on it."""
        return getattr(self.student["net"], "absolute", False)

    def layer(self, i: int, k: int, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean of x_{k-1} in the i-th layer from the top, and the x_0 predicted on the way; [n, d] each."""
        eps = self.predicted(i, x) if i < len(self.learned) else self.teacher.eps(x, self.steps.times[k])
        extrapolated, x0 = self.steps.second_order(k, x, eps, before)
        return self.steps.mean(k, x, extrapolated if self.second_order else eps), x0

    def predicted(self, i: int, x: Tensor) -> Tensor:
        """eps_phi(x, tau_k) of the i-th trained layer from the top; [n, d] -> [n, d]."""
        net: Layers = self.student["net"]  # type: ignore[assignment]
        return net.one(x, i) if self.copied else self.teacher.eps(x, self.steps.times[self.learned[i]]) + net.one(x, i)

    def gamma(self, i: int) -> Tensor | float:
        """The learned factor on the i-th trained layer's standard deviation, [1, 1 or d], or 1."""
        if "scale" not in self.student:
            return 1.0
        scale = self.student["scale"]
        assert isinstance(scale, LogGamma)
        return scale(i)

    def transitions(self, n: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """All trained transitions of n trajectories, x_{k-1} and r, [L, n, d] each, from the top; detached inputs."""
        x, before = noise.normal(n, self.target.dim), None
        points, residuals = [], []
        for i, k in enumerate(self.learned):
            x, before = x.detach(), None if before is None else before.detach()
            z = noise.normal(n, self.target.dim)
            mean, before = self.layer(i, k, x, before)
            gamma = self.gamma(i)
            x = mean + gamma * self.steps.sd[k] * z
            points.append(x)
            residuals.append(z * self.steps.sigma[k - 1] / (gamma * self.steps.sd[k]))
        return torch.stack(points), torch.stack(residuals)

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
        L, n = len(self.learned), self.trajectories
        layer = (noise.uniform((n + 1) // 2) * L).long().clamp(max=L - 1)
        layer = torch.cat([layer, L - 1 - layer])[:n]
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

    def sample(self, n: int, noise: Noise) -> Tensor:
        """From N(0, I) down all N layers; the last step adds no noise."""
        x, before = noise.normal(n, self.target.dim), None
        for i, k in enumerate(range(self.nfe, 0, -1)):
            x, before = self.layer(i, k, x, before)
            if k > 1:
                gamma = self.gamma(i) if i < len(self.learned) else 1.0
                x = x + gamma * self.steps.sd[k] * noise.normal(n, self.target.dim)
        return x


def _weight(kind: Weight, steps: Steps, k: int) -> float:
    if kind == "sigma2":
        return steps.sigma[k - 1] ** 2
    return (steps.sd[k] / steps.sigma[k - 1]) ** 2 if kind == "gamma2" else 1.0
