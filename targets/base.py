"""What a target is: a density on R^dim known up to a constant, plus whatever truth is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Generator, Tensor, nn

if TYPE_CHECKING:
    from targets.bridge import Ladder
    from targets.diffusion.eps import EpsTeacher
    from targets.diffusion.schedule import Schedule


class Noise(Protocol):
    """The randomness of one seed at one step.  Shapes must not depend on data or on the step."""

    def normal(self, *shape: int) -> Tensor:
        """Independent N(0, 1) draws."""

    def uniform(self, *shape: int) -> Tensor:
        """Independent U[0, 1) draws."""


class Unsupported(Exception):
    """The target does not offer what was asked of it (for example a bridge, or exact draws)."""


class Target(nn.Module):
    """A density p on R^dim, known up to a constant.

    Tensors are buffers, so ``target.to(device, dtype)`` moves everything.  ``log_prob`` and ``score`` accept any
    leading batch shape, are differentiable, and never depend on the data in their shapes (they run under
    ``vmap`` and are compiled).
    """

    registered_name: ClassVar[str] = ""
    """Set by ``bench.registry.register``."""

    version: ClassVar[int] = 1
    """Raised whenever the density, its data or its reference changes: it enters the run's identity."""

    added: ClassVar[Mapping[str, Any]] = {}
    """Options added after records were made, with the value that means "as before" (see ``Method.added``)."""

    dim: int
    """Dimension d of x."""

    log_z: float | None = None
    """log of the integral of exp(log_prob), where known (nats)."""

    entropy: float | None = None
    """Differential entropy of p, where known (nats)."""

    metrics: tuple[str, ...] = ()
    """Metrics evaluated at the end of a run, by registered name; the first one is the headline."""

    curve_metric: str = ""
    """The metric followed during training."""

    default_teacher: ClassVar[str] = ""
    """Id of the trained diffusion teacher that is used where none is named; empty: none, or an exact one."""

    reference_sampler: ClassVar[str | None] = None
    """Sampler that ``bench.reference`` may use: "mala" for targets known to have one mode, None for all others."""

    window: tuple[tuple[float, float], ...] | None = None
    """Plot and grid window, (low, high) per coordinate, of a 1-D or 2-D target; in the coordinates of ``log_prob``."""

    window_mass: float = 0.9999
    """Least share of the mass inside the window (heavy tails leave more outside)."""

    coordinate_names: tuple[str, ...] = ()
    """What the coordinates are called, where marginals have metrics of their own (``ks_distance_r``)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Unnormalised log density; [..., d] -> [...] (nats)."""
        raise Unsupported(f"{type(self).__name__} has no log_prob")

    def score(self, x: Tensor) -> Tensor:
        """grad_x log p(x); [..., d] -> [..., d].  Autograd unless a closed form overrides it."""
        return torch.func.grad(lambda y: self.log_prob(y).sum())(x)

    def subsample(self, noise: Noise) -> Target:
        """This density as one loss sees it: for a large data set, the likelihood of a random minibatch scaled by N / B.

        A loss asks once and uses the result for all its draws; targets without minibatches return themselves and
        draw nothing.
        """
        return self

    def operations(self) -> dict[str, str]:
        """Which implementation each replaceable operation takes here; recorded, but not part of the identity."""
        return {}

    def original(self) -> Target:
        """This target in the coordinates of its reference and metrics; itself unless it is reparametrised.

        A reparametrised target (``parametrization=noncentered``) has ``log_prob``, ``score`` and ``window`` in the
        coordinates a method fits; ``sample``, ``reference``, ``truth`` and ``test_log_predictive`` belong to the
        original ones.
        """
        return self

    def to_original(self, x: Tensor) -> Tensor:
        """From the coordinates of ``log_prob`` to those of ``original()``; [..., d] -> [..., d]."""
        return x

    def sample(self, n: int, generator: Generator) -> Tensor:
        """n exact draws, [n, d]; drawn on the CPU so that all methods see the same ones."""
        raise Unsupported(f"{type(self).__name__} has no exact sampler")

    def reference(self) -> Tensor | None:
        """Stored draws of a long-run sampler, [m, d] (CPU, float32), or None; provenance lies beside the file."""
        return None

    def truth(self, n: int, generator: Generator) -> Tensor:
        """n draws standing for p, [n, d]: exact ones, else a random subset of the stored reference.

        Raises:
            Unsupported: neither exact draws nor a reference with at least n rows exist.
        """
        if type(self).sample is not Target.sample:
            return self.sample(n, generator)
        stored = self.reference()
        if stored is None or len(stored) < n:
            raise Unsupported(f"{type(self).__name__} has no exact draws and fewer than {n} reference draws")
        return stored[torch.randperm(len(stored), generator=generator)[:n]]

    def bridge(self, levels: int, base_sd: float = 1.0, ladder: Ladder = "linear") -> list[Target]:
        """Ladder of ``levels`` targets from near a simple base to this one, which comes last (HSIVI).

        Geometric bridges from N(0, base_sd^2 I) unless a target overrides it: see ``targets.bridge``.
        """
        from targets.bridge import geometric_ladder

        return geometric_ladder(self, levels, base_sd, ladder)

    def noised(self, t: float) -> Target:
        """The marginal at noise level t of the forward diffusion of this target, exact."""
        raise Unsupported(f"{type(self).__name__} has no noised marginals")

    def teacher(self, schedule: Schedule | None = None) -> EpsTeacher:
        """The noise predictor of this target's diffusion on ``schedule`` (None: on its own)."""
        raise Unsupported(f"{type(self).__name__} has no diffusion teacher")

    def test_log_predictive(self, x: Tensor) -> Tensor:
        """Mean over test points of log mean over draws p(y | x); draws [n, d] -> scalar (nats per point)."""
        raise Unsupported(f"{type(self).__name__} has no test data")

    @property
    def provides(self) -> frozenset[str]:
        """What this target offers, compared with ``Method.needs`` before anything runs."""
        optional = ("log_prob", "sample", "noised", "teacher", "test_log_predictive")
        found = {name for name in optional if getattr(type(self), name) is not getattr(Target, name)}
        if "log_prob" in found or type(self).score is not Target.score:
            found |= {"score", "bridge"}
        if "sample" in found or type(self).reference is not Target.reference:
            found.add("truth")
        return frozenset(found)
