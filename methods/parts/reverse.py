"""Reverse models tau(z | x): which mixing draws z may have led to a draw x of a semi-implicit q.

IWHVI and HVM train one beside q; the two-sided bounds on log q fit one to a finished q.  Two of the three are a
Gaussian after one pass of a network over x, so their draws are reparameterised; the mixture is drawn without gradient.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import Noise
from methods.parts.families import Activation, mlp

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
SPREAD = 5.0
"""Bound of every log standard deviation a network puts out: exp(+-5) in units of where z starts."""


def log_normal(xi: Tensor, log_sd: Tensor) -> Tensor:
    """log N of x = m + sd xi, summed over the last dimension; [..., k] -> [...]."""
    return -(0.5 * xi.square() + log_sd + HALF_LOG_2PI).sum(-1)


class Reverse(nn.Module):
    """tau(z | x) on R^k.  ``log_prob`` and ``draw`` take x [n, d] and K values of z per x, [n, K, k]."""

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        """log tau(z_ik | x_i): [n, K, k], [n, d] -> [n, K]."""
        raise NotImplementedError

    def draw(self, x: Tensor, K: int, noise: Noise) -> Tensor:
        """K draws of z for each x, [n, K, k]."""
        raise NotImplementedError


class GaussianReverse(Reverse):
    """tau(z | x) = N(m(x), diag s(x)^2), reparameterised; subclasses give m and log s.

    ``given`` and ``drawn`` let a loss pass the network's output around, for example detached (DReG).
    """

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m(x) and log s(x), [n, d] -> two [n, k]."""
        raise NotImplementedError

    @staticmethod
    def given(z: Tensor, moments: tuple[Tensor, Tensor]) -> Tensor:
        """log N(z; m, s^2): [n, K, k] -> [n, K]."""
        mean, log_sd = (part.unsqueeze(1) for part in moments)
        return log_normal((z - mean) * torch.exp(-log_sd), log_sd)

    @staticmethod
    def drawn(eps: Tensor, moments: tuple[Tensor, Tensor]) -> Tensor:
        """m + s eps, [n, K, k]."""
        mean, log_sd = (part.unsqueeze(1) for part in moments)
        return mean + torch.exp(log_sd) * eps

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        return self.given(z, self.moments(x))

    def draw(self, x: Tensor, K: int, noise: Noise) -> Tensor:
        moments = self.moments(x)
        return self.drawn(noise.normal(len(x), K, moments[0].shape[-1]), moments)


class NetworkReverse(GaussianReverse):
    """Diagonal Gaussian whose moments are one network of x; it starts near N(0, I)."""

    def __init__(self, dim: int, noise_dim: int, hidden: tuple[int, ...], activation: Activation = "relu") -> None:
        super().__init__()
        self.net = mlp(dim, hidden, 2 * noise_dim, activation)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_sd = self.net(x).chunk(2, dim=-1)
        return mean, SPREAD * torch.tanh(log_sd / SPREAD)


class ElementwiseReverse(GaussianReverse):
    """Diagonal Gaussian for q = prod_i q_i(x_i | z_i): moments of z_i from |y_i|, log |y_i| by one network for all i.

    Symmetric in the sign of y_i = (x_i - location_i) / scale_i, as a scale mixture's q(z_i | x_i) is.

    Args:
        hidden: widths of the network.
        location, scale: of q, [d] each.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, hidden: tuple[int, ...], location: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.net = mlp(2, hidden, 2, "relu")
        self.register_buffer("location", location.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.standard_moments((x - self.location) / self.scale)

    def standard_moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Moments from y instead of x: for a q whose location and scale are still being trained."""
        size = y.abs()
        features = torch.stack([size, torch.log(size + 1e-3)], dim=-1)
        mean, log_sd = self.net(features).unbind(-1)
        return mean, SPREAD * torch.tanh(log_sd / SPREAD)


class MixtureReverse(Reverse):
    """Linear regression of z on x, with a mixture of C diagonal Gaussians for what it leaves over.

    z = A f + b + L u,  f = (x - mean) / sd,  u | x ~ sum_c pi_c(f) N(m_c(f), diag s_c(f)^2)

    A, b and L (Cholesky factor of the residuals' covariance) come from pairs (x, z) and stay fixed; the network of f
    starts at u ~ N(0, I), which is the exact inverse where x and z are jointly Gaussian.

    Args:
        x, z: pairs from q, [m, d] and [m, k], m > d.
        hidden: widths of the network.
        components: C.
    """

    slope: Tensor
    residual: Tensor
    location: Tensor
    scale: Tensor
    centre: Tensor

    def __init__(self, x: Tensor, z: Tensor, hidden: tuple[int, ...], components: int) -> None:
        super().__init__()
        self.components, self.noise_dim = components, z.shape[1]
        mean, sd = x.double().mean(0), x.double().std(0).clamp(min=1e-12)
        features = (x.double() - mean) / sd
        centre = z.double().mean(0)
        ridge = 1e-6 * len(x) * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
        slope = torch.linalg.solve(features.T @ features + ridge, features.T @ (z.double() - centre))
        left = z.double() - centre - features @ slope
        covariance = left.T @ left / len(z)
        # relative to z's own spread: x may determine some directions of z almost exactly
        floor = 1e-8 * z.double().var(0).clamp(min=1e-12).diag()
        for name, value in {
            "location": mean, "scale": sd, "centre": centre, "slope": slope,
            "residual": torch.linalg.cholesky(covariance + floor),
        }.items():  # fmt: skip
            self.register_buffer(name, value.to(x.dtype))
        self.net = mlp(x.shape[1], hidden, components * (1 + 2 * self.noise_dim), "relu").to(x)
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
            # components must differ to part company: where to, the data decide
            means = last.bias.view(components, -1)[:, 1 : 1 + self.noise_dim]
            means.copy_(0.3 * torch.randn_like(means) if components > 1 else torch.zeros_like(means))

    def _pieces(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A f + b [n, k], log pi [n, C], m [n, C, k], log s [n, C, k]."""
        features = (x - self.location) / self.scale
        out = self.net(features).view(len(x), self.components, -1)
        logits, mean, log_sd = out.split([1, self.noise_dim, self.noise_dim], dim=-1)
        log_pi = F.log_softmax(logits.squeeze(-1), dim=-1)
        return self.centre + features @ self.slope, log_pi, mean, SPREAD * torch.tanh(log_sd / SPREAD)

    def log_prob(self, z: Tensor, x: Tensor) -> Tensor:
        start, log_pi, mean, log_sd = self._pieces(x)
        left = (z - start.unsqueeze(1)).flatten(0, 1)
        u = torch.linalg.solve_triangular(self.residual, left.T, upper=False).T.view_as(z)
        xi = (u.unsqueeze(2) - mean.unsqueeze(1)) * torch.exp(-log_sd).unsqueeze(1)
        log_parts = log_pi.unsqueeze(1) + log_normal(xi, log_sd.unsqueeze(1))
        return torch.logsumexp(log_parts, dim=2) - self.residual.diagonal().log().sum()

    def draw(self, x: Tensor, K: int, noise: Noise) -> Tensor:
        """Not differentiable: which component is drawn depends on the weights."""
        start, log_pi, mean, log_sd = self._pieces(x)
        edges = log_pi.exp().cumsum(-1)[:, :-1].contiguous()
        component = torch.searchsorted(edges, noise.uniform(len(x), K).contiguous())
        index = component.unsqueeze(-1).expand(-1, -1, self.noise_dim)
        u = mean.gather(1, index) + log_sd.gather(1, index).exp() * noise.normal(len(x), K, self.noise_dim)
        return start.unsqueeze(1) + u @ self.residual.T
