"""Teachers: noise predictors eps(x, t), and x0 from them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from bench.errors import UserError
from targets.base import Target, Unsupported
from targets.diffusion.card import TeacherCard
from targets.diffusion.schedule import Schedule, TeacherSchedule, column, make_schedule

Time = float | Tensor
"""A time of the schedule: a number, or a tensor that broadcasts against the leading shape of x (one time per row)."""


class EpsTeacher(nn.Module):
    """eps*(x, t) = E[eps | alpha_t x_0 + sigma_t eps = x] of one diffusion.

    No parameter of its own is trained, but it is differentiable in x and t and runs under ``vmap`` and tracing.
    Subclasses write ``forward``; everyone else calls ``eps`` or ``forward`` (the same), so that one forward hook counts
    evaluations.

    Args:
        schedule: alpha_t and sigma_t.
        dim: d of x.
    """

    label = "exact"
    """What it is, for the run record."""

    card: TeacherCard | None = None
    """What is known of the file it came from."""

    def __init__(self, schedule: Schedule, dim: int) -> None:
        super().__init__()
        self.schedule, self.dim = schedule, dim

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """eps*(x, t); [..., d] -> [..., d]."""
        raise NotImplementedError

    def eps(self, x: Tensor, t: Time) -> Tensor:
        """eps*(x, t); [..., d] -> [..., d]."""
        out: Tensor = self(x, t)
        return out

    def trainable_copy(self) -> EpsTeacher:
        """A network of its own with this teacher's weights, to be trained further.

        Raises:
            UserError: the teacher is exact, so there is no network.
        """
        raise UserError("an exact teacher has no network to copy", "take residual networks, or a trained teacher")

    def x0(self, x: Tensor, t: Time) -> Tensor:
        """E[x_0 | x_t = x] = (x - sigma eps) / alpha."""
        alpha, sigma = column(self.schedule.alpha(t), x), column(self.schedule.sigma(t), x)
        return (x - sigma * self.eps(x, t)) / alpha


def eps_from_x0(x: Tensor, x0: Tensor, alpha: Tensor | float, sigma: Tensor | float) -> Tensor:
    """(x - alpha x0) / sigma."""
    return (x - alpha * x0) / sigma


MOST_VALUES = 1 << 19
"""Pixels that a network is given at once where no gradient is taken: a U-Net's activations are many times that, and
image metrics draw a thousand images at a time."""


class FrozenTeacher(EpsTeacher):
    """A network eps(x, t) whose parameters are switched off.

    Args:
        net: called as ``net(x, t)`` with t a tensor of x's leading shape (of any that broadcasts against it, if the
            network has ``broadcasts_time``), or what ``call`` makes of it.
        schedule: it was trained with.
        dim: d of x.
        call: how the network is called, for example to reshape rows to images.
    """

    def __init__(
        self,
        net: nn.Module,
        schedule: Schedule,
        dim: int,
        call: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(schedule, dim)
        self.net = net.requires_grad_(False).eval()
        self._call = call or (lambda net, x, t: net(x, t))
        self._broadcasts = call is None and getattr(net, "broadcasts_time", False)

    def trainable_copy(self) -> EpsTeacher:
        copy = deepcopy(self)
        copy.net.requires_grad_(True)
        return copy

    def forward(self, x: Tensor, t: Time) -> Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)  # a time in half precision would be another time
        times = t.to(exact) if isinstance(t, Tensor) else x.new_full((), t, dtype=exact)
        if not self._broadcasts:
            times = times.expand(x.shape[:-1])
        if torch.is_grad_enabled() or x.dim() != 2 or x.numel() <= MOST_VALUES or times.numel() == 1:
            return self._call(self.net, x, times)
        rows = max(1, MOST_VALUES // x.shape[1])
        return torch.cat([self._call(self.net, *part) for part in zip(x.split(rows), times.split(rows), strict=True)])


def teacher_of(target: Target, schedule: TeacherSchedule = "linear") -> EpsTeacher:
    """The teacher that a target offers: exact for ``Diffusable`` ones, a trained network for images.

    Raises:
        UserError: it offers none, or none with this schedule.
    """
    try:
        return target.teacher(None if schedule == "own" else make_schedule(schedule))
    except Unsupported as lacking:
        raise UserError(
            f"{lacking}: target {target.registered_name or type(target).__name__!r}",
            "choose a Gaussian mixture, one of the 2-D sets or images (`sivibench list targets`)",
        ) from lacking
