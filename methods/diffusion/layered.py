"""Few Gaussian layers from N(0, I) down to the data: the sampler that HSIVI trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bench.checks import require_not_negative, require_positive
from bench.errors import UserError
from methods.base import Method, Noise
from methods.diffusion.layers import LayerNetwork, Layers, LogGamma, layer_networks
from methods.diffusion.steps import Start, Steps
from targets.base import Target
from targets.diffusion.eps import teacher_of
from targets.diffusion.grids import GridName, time_grid
from targets.diffusion.schedule import TeacherSchedule


class LayeredSampler(Method):
    """q: layers k = N..1 from time tau_k to tau_{k-1}, x_{k-1} = mean_k(x_k) + gamma c_k z, the steps of DDIM(eta).

    Their noise is that of eps_phi(x_k, tau_k), a student that starts as the teacher (a residual network on it that is
    zero, or a copy), so that the sampler starts as DDIM(eta).  Each of the N evaluations of a draw calls the student
    once; the last step adds no noise.

    Args:
        target: needs a diffusion teacher.
        nfe: N.
        schedule: of the diffusion; ``own`` takes the one a trained teacher was trained with.
        grid, power, times: tau_0..tau_N, see ``targets.diffusion.grids``.
        eta: of DDIM, one value or one per layer, the lowest first.
        layer: mean of a layer: ``ddim``, or ``dpmpp``, of second order: the state of the chain is then x_k and the x_0
            predicted in the layer above, and q(x_{k-1}) is semi-implicit in both.
        history: whose x_0 layers of second order extrapolate: the ``student``'s; the ``teacher``'s at the same states,
            as the solver of frozen layers expects (residual networks only: they evaluate both); or the student's with
            ``none`` at the uppermost frozen layer, whose step is then of first order: states of the right marginal need
            not lie on one trajectory with those above.
        gamma: factor on the standard deviations: ``fixed`` at 1, ``scalar`` or per ``coordinate``, both learned.
        gamma_per_layer: learned factors differ between layers.
        network: residuals, one ``per_layer`` or one ``shared`` network conditioned on the noise level; or copies of
            the teacher's network, one ``teacher`` copy for all layers or a ``teacher_per_layer``.
        hidden: widths of residual networks.
        frozen: so many lowest layers stay the teacher's.
        corrector: redo each state between frozen layers (without noise) with the prediction made there (UniC): they are
            then the steps of UniPC.

    Attributes:
        learned: the k of the trained layers, from the top.
        student: their networks (``net``) and factors (``scale``).

    Raises:
        UserError: no teacher, or options that do not fit together.
    """

    needs = frozenset({"teacher"})

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
        history: Literal["student", "teacher", "none"] = "student",
        gamma: Literal["fixed", "scalar", "coordinate"] = "fixed",
        gamma_per_layer: bool = False,
        network: LayerNetwork = "per_layer",
        hidden: tuple[int, ...] = (64, 64, 64),
        frozen: int = 0,
        corrector: bool = False,
    ) -> None:
        super().__init__(target)
        require_positive(nfe=nfe, hidden=hidden)
        require_not_negative(frozen=frozen)
        if frozen >= nfe:
            raise UserError(f"method.frozen={frozen} of nfe={nfe} layers", "leave at least one layer to train")
        self.teacher = teacher_of(target, schedule)
        found = time_grid(grid, nfe, self.teacher.schedule, power=power, times=times)
        self.steps = Steps(found, self.teacher.schedule, tuple(eta))
        self.nfe, self.network, self.second_order, self.history = nfe, network, layer == "dpmpp", history
        self.corrector = corrector
        self.learned = list(range(nfe, frozen, -1))
        starts = [float(self.steps.times[k]) for k in self.learned]
        self.student = nn.ModuleDict({"net": layer_networks(network, self.teacher, starts, target.dim, tuple(hidden))})
        if gamma != "fixed":
            count, d = len(self.learned), target.dim
            self.student["scale"] = LogGamma(count if gamma_per_layer else 1, d if gamma == "coordinate" else 1)
        if history == "teacher" and (self.copied or not self.second_order):
            raise UserError(
                f"history=teacher with network={network} and layer={layer}",
                "it needs residual networks (per_layer or shared) and layer=dpmpp",
            )
        if history == "none" and not (frozen and self.second_order):
            raise UserError(
                f"history=none with layer={layer} and frozen={frozen}",
                "it is about the uppermost frozen layer of second order: layer=dpmpp and frozen > 0",
            )
        if corrector and not (frozen > 1 and self.second_order):
            raise UserError(
                f"corrector=true with layer={layer} and frozen={frozen}",
                "it is about states between frozen layers of second order: layer=dpmpp and frozen > 1",
            )
        if corrector and any(self.steps.sd[2 : frozen + 1]):
            raise UserError(
                f"corrector=true with eta={tuple(eta)} and frozen={frozen}",
                "it corrects steps without noise: eta=0 from the second layer to the uppermost frozen one",
            )

    def networks(self) -> Sequence[nn.Module]:
        """A residual student evaluates the teacher each time; a copy of it is evaluated in its place."""
        return [self.teacher, *(self.student["net"].nets if self.copied else ())]  # type: ignore[misc]

    @property
    def copied(self) -> bool:
        """Whether student and critic are copies of the teacher instead of residuals on it."""
        return getattr(self.student["net"], "absolute", False)

    def layer(
        self, i: int, k: int, x: Tensor, before: Tensor | None, above: Start | None = None
    ) -> tuple[Tensor, Start]:
        """Mean of x_{k-1} in the i-th layer from the top, [n, d], and where its step began.

        Args:
            i, k: the layer, from the top and from below.
            x: x_k.
            before: the x_0 predicted in the layer above.
            above: where the step to x_k began, to correct x_k by.
        """
        eps, recalled = self.predicted(i, k, x)
        if above is not None:
            x, eps = self.steps.corrected(k, x, eps, above)
            recalled = eps
        correction, x0 = self.steps.extrapolation(k, x, recalled, before)
        mean = self.steps.mean(k, x, eps + correction if self.second_order else eps)
        return mean, Start(x, x0, before)

    def predicted(self, i: int, k: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """eps at (x, tau_k) in the i-th layer from the top, and the one whose x_0 is recalled below; [n, d] each."""
        net: Layers = self.student["net"]  # type: ignore[assignment]
        trained = i < len(self.learned)
        if trained and self.copied:
            eps = net.one(x, i)
            return eps, eps
        teacher = self.teacher.eps(x, self.steps.times[k])
        eps = teacher + net.one(x, i) if trained else teacher
        return eps, teacher if self.history == "teacher" else eps

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
            mean, start = self.layer(i, k, x, before)
            before = start.x0
            gamma = self.gamma(i)
            x = mean + gamma * self.steps.sd[k] * z
            points.append(x)
            residuals.append(z * self.steps.sigma[k - 1] / (gamma * self.steps.sd[k]))
        return torch.stack(points), torch.stack(residuals)

    def sample(self, n: int, noise: Noise) -> Tensor:
        """From N(0, I) down all N layers; the last step adds no noise."""
        x, before, above = noise.normal(n, self.target.dim), None, None
        for i, k in enumerate(range(self.nfe, 0, -1)):
            trained = i < len(self.learned)
            if self.history == "none" and i == len(self.learned):
                before = None
            x, start = self.layer(i, k, x, before, above)
            before, above = start.x0, start if self.corrector and not trained else None
            if k > 1:
                x = x + (self.gamma(i) if trained else 1.0) * self.steps.sd[k] * noise.normal(n, self.target.dim)
        return x
