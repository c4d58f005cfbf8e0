"""Gaussian semi-implicit families, by the covariance of q(x | z), and the base class of methods that fit one."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from methods.base import Clock, Method, Noise

Activation = Literal["relu", "tanh", "leaky_relu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "leaky_relu": nn.LeakyReLU}


def mlp(n_in: int, hidden: tuple[int, ...], n_out: int, activation: Activation = "relu") -> nn.Sequential:
    """Linear layers with the activation between them; PyTorch's default initialisation."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise((n_in, *hidden, n_out)):
        layers += [nn.Linear(fan_in, fan_out), _ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def relu_layers(net: nn.Module) -> list[nn.Linear] | None:
    """The linear maps of a network that is linear maps with ReLUs between them; None for any other.

    Classes derived from these may do something else, so they count as any other.
    """
    if type(net) is not nn.Sequential or len(net) % 2 == 0:
        return None
    linear, between = list(net)[::2], list(net)[1::2]
    if any(type(m) is not nn.Linear for m in linear) or any(type(m) is not nn.ReLU for m in between):
        return None
    return linear  # type: ignore[return-value]


def anneal(clock: Clock, fraction: float) -> Tensor | float:
    """min(1, 0.1 + t / W) with W = fraction * iterations, t = 1 at the first step; 1 for fraction 0.

    The factor on the target's score in the code of SIVI-SM and KSIVI (there W = iterations // warm_ratio).
    """
    if fraction == 0:
        return 1.0
    return torch.clamp(0.1 + (clock.step + 1) / (clock.total * fraction), max=1.0)


class SemiImplicit(nn.Module):
    """q(x) = E_z q(x | z),  q(x | z) Gaussian with mean mu(z),  z ~ N(0, I_k)  (Yin & Zhou 2018, arXiv:1805.11183).

    mu is an MLP (``mean``).  Subclasses give the covariance, by ``forward`` and ``conditional``.

    Args:
        dim: d, dimension of x.
        noise_dim: k, dimension of z.
        hidden: sizes of the hidden layers of mu.
        activation: between the layers of mu.
    """

    def __init__(self, dim: int, noise_dim: int, hidden: tuple[int, ...], activation: Activation = "relu") -> None:
        super().__init__()
        self.dim, self.noise_dim = dim, noise_dim
        self.mean = mlp(noise_dim, tuple(hidden), dim, activation)

    def forward(self, z: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
        """x ~ q(x | z) from xi ~ N(0, I), and u = -grad_x log q(x | z); z [..., k], xi [..., d] -> two [..., d]."""
        raise NotImplementedError

    def conditional(self, z: Tensor) -> Distribution:
        """q(x | z), batch shape z.shape[:-1], event shape [d]."""
        raise NotImplementedError

    def draw(self, n: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """n pairs (x, u), [n, d] each."""
        return self(self.mixing(n, noise), noise.normal(n, self.dim))

    def mixing(self, n: int, noise: Noise) -> Tensor:
        """n draws z, [n, k]."""
        return noise.normal(n, self.noise_dim)

    def mixing_log_prob(self, z: Tensor) -> Tensor:
        """log q(z), [..., k] -> [...]."""
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


class SharedCovariance(SemiImplicit):
    """q(x | z) = N(mu(z), L L^T) with one L for all z."""

    @property
    def log_det(self) -> Tensor:
        """log |det L|; scalar."""
        raise NotImplementedError

    def coloured(self, xi: Tensor) -> Tensor:
        """L xi, [..., d] -> [..., d]."""
        raise NotImplementedError

    def whitened(self, x: Tensor) -> Tensor:
        """L^-1 x, [n, d] -> [n, d]."""
        raise NotImplementedError


class Diagonal(SharedCovariance):
    """q(x | z) = N(mu(z), diag sigma^2); subclasses give sigma."""

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of q(x | z), [d]."""
        raise NotImplementedError

    @property
    def log_det(self) -> Tensor:
        return self.sigma.log().sum()

    def coloured(self, xi: Tensor) -> Tensor:
        return self.sigma * xi

    def whitened(self, x: Tensor) -> Tensor:
        return x / self.sigma

    def forward(self, z: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
        """x = mu(z) + sigma xi and u = xi / sigma; z [..., k], xi [..., d] -> two [..., d]."""
        return self.around(self.mean(z), xi)

    def around(self, mean: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
        """``forward`` for a given mu(z), [..., d]."""
        sigma = self.sigma
        return mean + sigma * xi, xi / sigma

    def conditional(self, z: Tensor) -> Distribution:
        mean = self.mean(z)
        return Independent(Normal(mean, self.sigma.expand_as(mean)), 1)


class GlobalVariance(Diagonal):
    """log sigma^2 is one vector for all z, clamped below, as in the code of SIVI-SM and KSIVI.

    Args:
        dim, noise_dim, hidden, activation: see ``SemiImplicit``.
        log_var: initial value of log sigma^2, in every coordinate.
        log_var_min: lower clamp of log sigma^2.
    """

    def __init__(
        self,
        dim: int,
        noise_dim: int,
        hidden: tuple[int, ...] = (50, 50),
        *,
        log_var: float = 0.0,
        log_var_min: float = -20.0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(dim, noise_dim, hidden, activation)
        self.log_var_min = log_var_min
        self.log_var = nn.Parameter(torch.full((dim,), float(log_var)))

    @property
    def sigma(self) -> Tensor:
        return torch.exp(self.log_var.clamp(min=self.log_var_min) / 2)


class ConditionalVariance(SemiImplicit):
    """q(x | z) = N(mu(z), diag sigma(z)^2): log sigma^2 is a second MLP of z plus a constant, clamped below.

    Much harder to fit than one global sigma: draws with a small sigma(z) dominate every score-based loss.

    Args:
        dim, noise_dim, hidden, activation: see ``SemiImplicit``; the second MLP has the same sizes.
        log_var: the constant, which is not trained: the net's last bias does its work.
        log_var_min: lower clamp of log sigma^2.
    """

    def __init__(
        self,
        dim: int,
        noise_dim: int,
        hidden: tuple[int, ...] = (50, 50),
        *,
        log_var: float = 0.0,
        log_var_min: float = -20.0,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(dim, noise_dim, hidden, activation)
        self.log_var_min = log_var_min
        self.log_var = nn.Parameter(torch.full((dim,), float(log_var)), requires_grad=False)
        self.log_var_net = mlp(noise_dim, tuple(hidden), dim, activation)

    def sigma_of(self, z: Tensor) -> Tensor:
        """Standard deviation of q(x | z), [..., k] -> [..., d]."""
        return torch.exp((self.log_var + self.log_var_net(z)).clamp(min=self.log_var_min) / 2)

    def forward(self, z: Tensor, xi: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma_of(z)
        return self.mean(z) + sigma * xi, xi / sigma

    def conditional(self, z: Tensor) -> Distribution:
        return Independent(Normal(self.mean(z), self.sigma_of(z)), 1)


class SemiImplicitMethod(Method):
    """A method whose variational family is a ``SemiImplicit``; subclasses set ``self.q``."""

    q: SemiImplicit

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self.q.draw(n, noise)[0]

    def mixing(self, n: int, noise: Noise) -> Tensor:
        return self.q.mixing(n, noise)

    def conditional(self, z: Tensor) -> Distribution:
        return self.q.conditional(z)

    def mixing_log_prob(self, z: Tensor) -> Tensor:
        return self.q.mixing_log_prob(z)
