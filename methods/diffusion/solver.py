"""Training-free samplers of a diffusion at few network evaluations: one adapter for the schedulers of a library.

The solvers are those of the library diffusers.  Its schedulers build their own time grids, each in its own way, and
some cannot be given another; here every scheduler runs on the *respaced* diffusion instead: its alpha_bar are those of
the grid tau_0 < ... < tau_N, so that its time i is our tau_i and consecutive integers are the grid.  What that and this
module keep equal for all solvers, and diffusers does not:

- grid and landing: evaluations at tau_N, ..., tau_1 (Heun's last one at tau_0 if ``nfe`` is even), the sample at
  tau_0 (by default DDIM evaluates on a "leading" grid below 1000, DPM-Solver++ on "linspace" from 999, and they end at
  different noise levels);
- clipping: none, or of the x0 prediction before anything else sees it (``clip``); DDPM and DDIM clip to [-1, 1] by
  default and then keep the unclipped eps, the multistep solvers clip only by "thresholding";
- cost: ``nfe`` evaluations exactly, whatever a step takes; PNDM evaluates its first interval twice, Heun every interval
  but, for odd ``nfe``, the last: their grids have fewer intervals.  The metric ``nfe`` counts.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.checks import require_positive
from bench.errors import UserError
from methods.base import Method, Noise, Player
from targets.base import Target
from targets.diffusion.eps import EpsTeacher, eps_from_x0, teacher_of
from targets.diffusion.grids import GridName, time_grid
from targets.diffusion.schedule import TeacherSchedule

ROWS = 2**15
"""Draws made at once; a memory bound."""


class Solver(Method):
    """A solver of diffusers on the target's own diffusion; subclasses name its scheduler.

    Args:
        target: with a diffusion teacher.
        nfe: network evaluations per draw.
        grid: see ``targets.diffusion.grids``.
        times: of the explicit grid, one more than it has intervals.
        power: of the power grid.
        schedule: ``linear``, ``cosine``, or the teacher's ``own``.
        clip: bound on every coordinate of the x0 predictions, or None.

    Raises:
        UserError: diffusers is not installed, or the grid does not fit.
    """

    needs = frozenset({"teacher"})
    trained = False
    scheduler: ClassVar[str]
    """Its class in diffusers."""

    def __init__(
        self,
        target: Target,
        *,
        nfe: int = 10,
        grid: GridName = "quad",
        times: tuple[int, ...] = (),
        power: float = 3.0,
        schedule: TeacherSchedule = "linear",
        clip: float | None = None,
    ) -> None:
        super().__init__(target)
        require_positive(nfe=nfe, power=power, clip=clip)
        if importlib.util.find_spec("diffusers") is None:
            raise UserError("the solver baselines need the package diffusers", "pip install 'sivibench[diffusion]'")
        # imported here, or the first draws would be timed with it
        self.make = getattr(importlib.import_module("diffusers"), self.scheduler)
        self.teacher: EpsTeacher = teacher_of(target, schedule)
        self.nfe, self.clip = nfe, clip
        if self.intervals(nfe) < 1:
            raise UserError(f"method.nfe={nfe} is too few for {type(self).__name__}", "raise method.nfe")
        self.grid = time_grid(grid, self.intervals(nfe), self.teacher.schedule, power=power, times=tuple(times))

    def intervals(self, nfe: int) -> int:
        """Intervals of the grid that ``nfe`` evaluations can cross."""
        return nfe

    def players(self) -> Sequence[Player]:
        return []

    def operations(self) -> dict[str, str]:
        version = importlib.metadata.version("diffusers")
        return {"scheduler": f"{self.scheduler} of diffusers {version}", "teacher": self.teacher.label}

    def networks(self) -> Sequence[nn.Module]:
        return [self.teacher]

    def options(self) -> dict[str, Any]:
        """Arguments of the scheduler besides its schedule."""
        return {}

    def step_options(self, last: bool, x: Tensor, noise: Noise) -> dict[str, Any]:
        """Arguments of one step besides eps, time and x; ``last``: of the step that lands at tau_0."""
        return {}

    def make_scheduler(self) -> tuple[Any, list[int]]:
        """The scheduler of the respaced diffusion and the indices into the grid at which it is evaluated, in order."""
        bars = [1.0, *(self.teacher.schedule.alpha_bar(t) for t in self.grid)]
        betas = [1 - after / before for before, after in pairwise(bars)]
        scheduler = self.make(num_train_timesteps=len(betas), trained_betas=betas, **self.options())
        self.set_times(scheduler)
        return scheduler, [int(i) for i in scheduler.timesteps[: self.nfe]]

    def set_times(self, scheduler: Any) -> None:
        """Make the scheduler's times N, ..., 1 (those after them are not reached)."""
        scheduler.set_timesteps(len(self.grid) - 1)

    def eps(self, x: Tensor, t: int) -> Tensor:
        """The teacher's prediction, after clipping of its x0."""
        eps = self.teacher.eps(x, t)
        if self.clip is None:
            return eps
        alpha, sigma = self.teacher.schedule.alpha(t), self.teacher.schedule.sigma(t)
        return eps_from_x0(x, ((x - sigma * eps) / alpha).clamp(-self.clip, self.clip), alpha, sigma)

    @torch.no_grad()
    def sample(self, n: int, noise: Noise) -> Tensor:
        """n draws at tau_0, [n, d], from N(0, I) at the top of the grid."""
        return torch.cat([self._solve(min(ROWS, n - done), noise) for done in range(0, n, ROWS)])

    def _solve(self, n: int, noise: Noise) -> Tensor:
        scheduler, indices = self.make_scheduler()
        x = noise.normal(n, self.target.dim) * self.start_scale()
        for number, index in enumerate(indices, 1):
            seen = scheduler.scale_model_input(x, scheduler.timesteps[number - 1])
            eps = self.eps(seen, self.grid[index])
            more = self.step_options(number == len(indices), x, noise)
            x = scheduler.step(eps, scheduler.timesteps[number - 1], x, return_dict=False, **more)[0]
        return x * self.end_scale()

    def start_scale(self) -> float:
        """Factor from alpha x_0 + sigma eps to the scheduler's variable, at the top."""
        return 1.0

    def end_scale(self) -> float:
        """Factor back from the scheduler's variable, at tau_0."""
        return 1.0
