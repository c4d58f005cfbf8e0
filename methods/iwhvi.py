"""IWHVI, HVM and DIWHVI: semi-implicit VI with a learned reverse model tau(z | x)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from bench.checks import require_positive
from bench.registry import register
from methods.base import Clock, Noise
from methods.parts.families import GlobalVariance, SemiImplicitMethod
from methods.parts.importance import Importance
from methods.parts.optim import staircase
from methods.parts.options import with_options_of
from methods.parts.reverse import NetworkReverse, log_normal
from targets.base import Target


class _Gaussian(Importance, SemiImplicitMethod):
    """The family N(mu(z), diag sigma^2), z ~ N(0, I), with a Gaussian tau; by itself at K = 0.

    Args:
        batch: draws of x per step.
        noise_dim, hidden, activation, log_var: mixing noise, network of the mean and initial log sigma^2.
        reverse: hidden widths of tau's network.
        lr, lr_reverse: Adam's rates of q and tau; where they differ, the two move in turn on draws of their own.
        decay, decay_every: both rates times decay every so many steps.
    """

    q: GlobalVariance
    inner = 0
    dreg = False

    def __init__(
        self,
        target: Target,
        *,
        batch: int = 100,
        noise_dim: int = 3,
        hidden: tuple[int, ...] = (50, 50),
        activation: Literal["relu", "tanh"] = "relu",
        log_var: float = math.log(0.25),
        reverse: tuple[int, ...] = (50, 50),
        lr: float = 1e-3,
        lr_reverse: float = 1e-3,
        decay: float = 0.9,
        decay_every: int = 1000,
    ) -> None:
        super().__init__(target)
        require_positive(batch=batch, noise_dim=noise_dim, hidden=hidden, reverse=reverse)
        require_positive(lr=lr, lr_reverse=lr_reverse, decay=decay, decay_every=decay_every)
        self.q = GlobalVariance(target.dim, noise_dim, tuple(hidden), log_var=log_var, activation=activation)
        self.tau = NetworkReverse(target.dim, noise_dim, tuple(reverse), activation)
        self.batch, self.noise_dim = batch, noise_dim
        self.lr, self.lr_reverse, self.schedule = lr, lr_reverse, staircase(decay, decay_every)

    def pair(self, n: int, noise: Noise) -> tuple[Tensor, Tensor]:
        z = self.q.mixing(n, noise)
        return self.q(z, noise.normal(n, self.target.dim))[0], z

    def log_conditional(self, x: Tensor, z: Tensor) -> Tensor:
        sigma = self.q.sigma
        return log_normal((x.unsqueeze(1) - self.q.mean(z)) / sigma, sigma.log())


class _Weighted(_Gaussian):
    """With K > 0; the other options are those of ``_Gaussian``.

    Args:
        inner: K, draws of tau per x; 50 is the last stage of IWHVI's schedule.
    """

    @with_options_of(_Gaussian)
    def __init__(self, target: Target, *, inner: int = 50, **options: object) -> None:
        require_positive(inner=inner)
        super().__init__(target, **options)  # type: ignore[arg-type]
        self.inner = inner


SETTINGS = "Sobolev & Vetrov, NeurIPS 2019, arXiv:1905.03290; network and step sizes of the suite's other 2-D methods"


@register("method", "iwhvi", source=SETTINGS)
class IWHVI(_Weighted):
    """Importance-weighted hierarchical VI: the bound U_K on log q with a learned reverse model.

    K is fixed for the whole run (shapes are static); the paper raises it 0, 5, 25, 50 while its VAE trains.

    Args:
        dreg: tau moves on its own, by the doubly reparameterised gradient and on draws of its own; the other options
            are those of ``_Weighted``.
    """

    paper_name = "IWHVI"
    cheap = {"batch": 32, "inner": 3, "hidden": (20,), "reverse": (20,), "lr": 5e-3, "lr_reverse": 5e-3}

    @with_options_of(_Weighted)
    def __init__(self, target: Target, *, dreg: bool = False, **options: object) -> None:
        super().__init__(target, **options)  # type: ignore[arg-type]
        self.dreg = dreg


@register("method", "hvm", source="Ranganath, Tran & Blei, ICML 2016, arXiv:1511.02386; settings as for iwhvi")
class HVM(_Gaussian):
    """Hierarchical variational model: the reverse model alone bounds log q, which is U_K at K = 0.

    q and tau are those of IWHVI (Gaussian), so that the two differ in K only; the paper's own have planar flows.  The
    options are those of ``_Gaussian``.
    """

    paper_name = "HVM"
    cheap = {"batch": 32, "hidden": (20,), "reverse": (20,), "lr": 5e-3, "lr_reverse": 5e-3}


@register("method", "diwhvi", source=SETTINGS + "; bound with M outer samples")
class DIWHVI(_Weighted):
    """Doubly importance-weighted hierarchical VI: M draws of x under one logarithm, K of tau for each.

    E log 1/M sum_m p(x_m) / [1/(K+1) sum_k q(x_m|z_mk) q(z_mk) / tau(z_mk|x_m)] <= log Z rises with M and K.  What it
    fits well is q followed by importance resampling; q alone comes out wider than by the ELBO.

    Args:
        batch: groups of M draws per step.
        outer: M; the other options are those of ``_Weighted``.
    """

    paper_name = "DIWHVI"
    cheap = {"batch": 12, "outer": 2, "inner": 3, "hidden": (20,), "reverse": (20,), "lr": 5e-3, "lr_reverse": 5e-3}

    @with_options_of(_Weighted)
    def __init__(self, target: Target, *, batch: int = 20, outer: int = 5, **options: object) -> None:
        require_positive(outer=outer)
        super().__init__(target, batch=batch, **options)  # type: ignore[arg-type]
        self.outer = outer

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """Minus the doubly weighted bound, averaged over groups."""
        x, log_q = self.bound(self.batch * self.outer, self.inner, noise)
        log_ratio = self.target.subsample(noise).log_prob(x) - log_q
        return math.log(self.outer) - torch.logsumexp(log_ratio.view(self.batch, self.outer), dim=1).mean()
