"""Training-free samplers of a diffusion at few network evaluations: the baselines of every distilled sampler.

Each names a scheduler of the library diffusers; what is kept equal for all of them, ``methods.diffusion.solver``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bench.checks import require_share
from bench.errors import UserError
from bench.registry import register
from methods.base import Noise
from methods.diffusion.solver import Solver
from methods.parts.options import with_options_of
from targets.base import Target


@register("method", "solver_ddim", source="Song et al., ICLR 2021, arXiv:2010.02502; scheduler of diffusers")
class DDIM(Solver):
    """DDIM with any share eta of the ancestral noise; the last step adds none.

    Args:
        eta: 0 deterministic, 1 ancestral (DDPM).
    """

    paper_name = "DDIM"
    scheduler = "DDIMScheduler"

    @with_options_of(Solver)
    def __init__(self, target: Target, *, eta: float = 0.0, **options: object) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        require_share(eta=eta)
        self.eta = eta

    def options(self) -> dict[str, Any]:
        return {"clip_sample": False, "timestep_spacing": "leading", "set_alpha_to_one": False}

    def set_times(self, scheduler: Any) -> None:
        scheduler.set_timesteps(len(self.grid))

    def step_options(self, last: bool, x: Tensor, noise: Noise) -> dict[str, Any]:
        if self.eta == 0:
            return {}
        return {"eta": self.eta, "variance_noise": torch.zeros_like(x) if last else noise.normal(*x.shape)}


@register("method", "solver_ddpm", source="Ho et al., NeurIPS 2020, arXiv:2006.11239, as DDIM with eta = 1")
class Ancestral(DDIM):
    """Ancestral sampling with the posterior variance ("fixed small"); no noise in the last step."""

    paper_name = "DDPM"

    @with_options_of(Solver)
    def __init__(self, target: Target, **options: object) -> None:
        super().__init__(target, eta=1.0, **options)


class _Multistep(Solver):
    """A multistep solver with an order.

    Args:
        order: of the solver.
    """

    @with_options_of(Solver)
    def __init__(self, target: Target, *, order: int = 2, **options: object) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        if order not in (1, 2, 3):
            raise UserError(f"method.order={order}", "choose 1, 2 or 3")
        self.order = order

    def options(self) -> dict[str, Any]:
        return {"solver_order": self.order, "timestep_spacing": "linspace"}


@register("method", "solver_dpmpp", source="Lu et al. 2022, arXiv:2211.01095; scheduler of diffusers")
class DPMSolverPP(_Multistep):
    """DPM-Solver++ (2M, or 3M with order 3); a lower order in the last steps below 15 evaluations."""

    paper_name = "DPM-Solver++"
    scheduler = "DPMSolverMultistepScheduler"

    def options(self) -> dict[str, Any]:
        return {**super().options(), "algorithm_type": "dpmsolver++", "final_sigmas_type": "sigma_min"}


@register("method", "solver_unipc", source="Zhao et al., NeurIPS 2023, arXiv:2302.04867; scheduler of diffusers")
class UniPC(_Multistep):
    """UniPC, predictor and corrector of the given order (bh2, x0 prediction)."""

    paper_name = "UniPC"
    scheduler = "UniPCMultistepScheduler"

    def options(self) -> dict[str, Any]:
        return {**super().options(), "final_sigmas_type": "sigma_min"}


@register("method", "solver_deis", source="Zhang & Chen, ICLR 2023, arXiv:2204.13902; scheduler of diffusers")
class DEIS(_Multistep):
    """DEIS with polynomials in log rho."""

    paper_name = "DEIS"
    scheduler = "DEISMultistepScheduler"


@register("method", "solver_pndm", source="Liu et al., ICLR 2022, arXiv:2202.09778; scheduler of diffusers")
class PNDM(Solver):
    """PLMS variant of PNDM (no Runge-Kutta start): the first interval is crossed twice, so its grid has nfe - 1."""

    paper_name = "PNDM"
    scheduler = "PNDMScheduler"

    def intervals(self, nfe: int) -> int:
        return nfe - 1

    def options(self) -> dict[str, Any]:
        return {"skip_prk_steps": True, "timestep_spacing": "leading", "set_alpha_to_one": False}

    def set_times(self, scheduler: Any) -> None:
        scheduler.set_timesteps(len(self.grid))


@register("method", "solver_heun", source="Karras et al., NeurIPS 2022, arXiv:2206.00364; scheduler of diffusers")
class Heun(Solver):
    """Heun's method of EDM in x / alpha over sigma / alpha: two evaluations per interval; Euler last for odd nfe."""

    paper_name = "Heun (EDM)"
    scheduler = "HeunDiscreteScheduler"

    def intervals(self, nfe: int) -> int:
        return math.ceil(nfe / 2)

    def set_times(self, scheduler: Any) -> None:
        scheduler.set_timesteps(timesteps=list(range(len(self.grid) - 1, -1, -1)))

    def start_scale(self) -> float:
        return 1 / self.teacher.schedule.alpha(self.grid[-1])

    def end_scale(self) -> float:
        return self.teacher.schedule.alpha(self.grid[0])
