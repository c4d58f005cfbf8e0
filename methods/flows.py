"""Normalizing flows by reverse KL, built on zuko."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import zuko
from torch import Tensor
from zuko.flows import Flow
from zuko.lazy import LazyInverse, LazyTransform, UnconditionalTransform
from zuko.transforms import DependentTransform, MonotonicAffineTransform

from bench.checks import require_at_least, require_not_negative, require_positive
from bench.registry import register
from methods.base import Clock, Method, Noise, Player
from methods.parts.optim import Adam, staircase
from targets.base import Target


class FlowMethod(Method):
    """An explicit flow q fitted by the reparameterised reverse KL; subclasses ``build`` it.

    Args:
        transforms: steps of the flow; the order of the coordinates is reversed between them.
        hidden: widths of each step's masked network.
        batch, lr, decay, decay_every, clip: draws per step, Adam, staircase decay, gradient-norm bound.
    """

    flow: Flow
    cheap: ClassVar[Mapping[str, Any]] = {"batch": 32, "transforms": 2, "hidden": (16,)}

    def __init__(
        self,
        target: Target,
        *,
        transforms: int = 4,
        hidden: tuple[int, ...] = (64, 64),
        batch: int = 128,
        lr: float = 1e-3,
        decay: float = 0.9,
        decay_every: int = 1000,
        clip: float = 10.0,
    ) -> None:
        super().__init__(target)
        require_positive(transforms=transforms, hidden=hidden, batch=batch, lr=lr, clip=clip)
        require_positive(decay=decay, decay_every=decay_every)
        self.flow = self.build(target.dim, transforms, tuple(hidden))
        self.batch, self.lr, self.clip = batch, lr, clip
        self.schedule = staircase(decay, decay_every)

    def build(self, dim: int, transforms: int, hidden: tuple[int, ...]) -> Flow:
        """The flow; zuko reads it from x to the base."""
        raise NotImplementedError

    def players(self) -> Sequence[Player]:
        return [Player("q", ("flow",), loss=self.loss, optimiser=Adam(self.lr), schedule=self.schedule, clip=self.clip)]

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """E[log q(x) - log p(x)], log q from the forward pass."""
        p = self.target.subsample(noise)
        x, log_q = self._push(noise.normal(self.batch, self.target.dim))
        return (log_q - p.log_prob(x)).mean()

    def _push(self, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Base noise [n, d] -> x [n, d] and log q(x) [n].

        zuko's own ``rsample_and_log_prob`` draws from the global generator; the noise is an input here.
        """
        q = self.flow()
        x, log_det = q.transform.inv.call_and_ladj(eps)
        return x, q.base.log_prob(eps) - log_det

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self._push(noise.normal(n, self.target.dim))[0]

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log q(x), [..., d] -> [...]."""
        return self.flow().log_prob(x)


def inverted(forward: Flow, nearest: Sequence[LazyTransform] = ()) -> Flow:
    """``forward`` read the other way, draws in one pass: steps inverted and reversed, ``nearest`` next to x."""
    return Flow([*nearest, *(LazyInverse(step) for step in reversed(forward.transform.transforms))], forward.base)


@register("method", "iaf", source="Kingma et al. 2016, arXiv:1606.04934; zuko's masked autoregressive networks")
class IAF(FlowMethod):
    """Inverse autoregressive flow by reverse KL: sampling in one pass, density at a foreign point in d passes.

    Args:
        transforms: autoregressive steps; the order is reversed between them.
        hidden: widths of each step's masked network.
        batch, lr, decay, decay_every, clip: draws per step, Adam, staircase decay, gradient-norm bound.
    """

    paper_name = "IAF"

    def build(self, dim: int, transforms: int, hidden: tuple[int, ...]) -> Flow:
        # zuko names no IAF: it is the inverse of a MAF, step by step in reverse order
        return inverted(zuko.flows.MAF(dim, transforms=transforms, hidden_features=hidden))


@register("method", "maf", source="Papamakarios et al. 2017, arXiv:1705.07057; zuko's masked autoregressive networks")
class MAF(FlowMethod):
    """Masked autoregressive flow by reverse KL: density in one pass, draws (and so each step) in d passes.

    Meant for low dimensions; ``iaf`` is the same family read the other way.  Arguments as there.
    """

    paper_name = "MAF"

    def build(self, dim: int, transforms: int, hidden: tuple[int, ...]) -> Flow:
        return zuko.flows.MAF(dim, transforms=transforms, hidden_features=hidden)


@register("method", "realnvp", source="Dinh et al. 2017, arXiv:1605.08803; zuko's masked networks in two passes")
class RealNVP(FlowMethod):
    """RealNVP by reverse KL: affine couplings between the two halves of x, draws in one pass, density in two.

    A coupling is a masked affine step with two groups of coordinates, so in two dimensions this is ``iaf`` (zuko's own
    coupling layer does not run under ``vmap``).  Arguments as there.
    """

    paper_name = "RealNVP"

    def build(self, dim: int, transforms: int, hidden: tuple[int, ...]) -> Flow:
        return inverted(zuko.flows.MAF(dim, transforms=transforms, hidden_features=hidden, passes=2))


def affine(shift: Tensor, log_scale: Tensor) -> DependentTransform:
    """x -> exp(a) x + b over all coordinates (zuko bounds a softly)."""
    return DependentTransform(MonotonicAffineTransform(shift, log_scale), 1)


@register("method", "nsf", source="Durkan et al. 2019, arXiv:1906.04032; zuko's rational-quadratic splines")
class NSF(FlowMethod):
    """Neural spline flow by reverse KL: monotone splines on [-5, 5], draws in one pass.

    Outside [-5, 5] a spline is the identity, so a learned shift and scale per coordinate stands between them and x.

    Args:
        transforms, hidden, batch, lr, decay, decay_every, clip: as ``iaf``.
        bins: pieces of each spline.
        coupling_above: largest dimension with autoregressive steps (density at a foreign point in d passes); above it
            each spline depends on the other half of the coordinates only (two passes).
    """

    paper_name = "NSF"
    cheap = {**FlowMethod.cheap, "transforms": 1}

    def __init__(
        self,
        target: Target,
        *,
        transforms: int = 4,
        bins: int = 8,
        hidden: tuple[int, ...] = (64, 64),
        coupling_above: int = 10,
        batch: int = 128,
        lr: float = 1e-3,
        decay: float = 0.9,
        decay_every: int = 1000,
        clip: float = 10.0,
    ) -> None:
        require_at_least(2, bins=bins)
        require_not_negative(coupling_above=coupling_above)
        self.bins, self.coupling_above = bins, coupling_above
        super().__init__(
            target, transforms=transforms, hidden=hidden, batch=batch, lr=lr, decay=decay, decay_every=decay_every,
            clip=clip,
        )  # fmt: skip

    def build(self, dim: int, transforms: int, hidden: tuple[int, ...]) -> Flow:
        passes = 2 if dim > self.coupling_above else dim
        splines = zuko.flows.NSF(dim, transforms=transforms, hidden_features=hidden, bins=self.bins, passes=passes)
        standardise = UnconditionalTransform(affine, torch.zeros(dim), torch.zeros(dim))
        return inverted(splines, nearest=[standardise])
