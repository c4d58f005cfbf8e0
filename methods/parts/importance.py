"""Fitting q by an importance-weighted bound on log q with a reverse model: the part IWHVI, HVM and DIWHVI share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.base import Clock, Method, Noise, Player
from methods.parts.bounds import upper
from methods.parts.optim import Adam, Schedule
from methods.parts.reverse import GaussianReverse

Moments = tuple[Tensor, Tensor]


class Importance(Method):
    """Minimises E[U_K - log p(x)] over a hierarchical q and a Gaussian reverse model tau.

    U_K = log 1/(K+1) sum_{k=0..K} q(x|z_k) q(z_k) / tau(z_k|x), with (x, z_0) from q and z_1..z_K ~ tau(.|x).
    Subclasses give q by ``pair``, ``log_conditional`` and ``mixing_log_prob``.
    """

    needs = frozenset({"log_prob"})
    tau: GaussianReverse
    batch: int
    inner: int
    noise_dim: int
    dreg: bool
    lr: float
    lr_reverse: float
    schedule: Schedule

    def pair(self, n: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """n draws of x and the z that generated them, [n, d] and [n, k]; reparameterised."""
        raise NotImplementedError

    def log_conditional(self, x: Tensor, z: Tensor) -> Tensor:
        """log q(x_i | z_ik); [n, d], [n, K, k] -> [n, K]."""
        raise NotImplementedError

    def moments(self, x: Tensor) -> Moments:
        """Moments of tau(z | x)."""
        return self.tau.moments(x)

    def players(self) -> Sequence[Player]:
        trained = any(p.requires_grad for name, p in self.named_parameters() if name.startswith("q."))
        q = Player("q", ("q",), loss=self.loss, optimiser=Adam(self.lr), schedule=self.schedule)
        rule = Adam(self.lr_reverse)
        if self.dreg:
            tau = Player("tau", ("tau",), loss=self.reverse_loss, optimiser=rule, schedule=self.schedule)
        else:
            tau = Player("tau", ("tau",), loss=self.loss, optimiser=rule, schedule=self.schedule)
        if not trained:
            return [tau]
        if self.dreg or self.lr != self.lr_reverse:
            return [q, tau]
        return [Player("q", ("q", "tau"), loss=self.loss, optimiser=Adam(self.lr), schedule=self.schedule)]

    def log_weight(self, x: Tensor, z: Tensor, moments: Moments) -> Tensor:
        """log w = log q(x|z) + log q(z) - log tau(z|x); [n, d], [n, K, k] -> [n, K]."""
        log_mixing = self.mixing_log_prob(z)
        assert log_mixing is not None
        return self.log_conditional(x, z) + log_mixing - self.tau.given(z, moments)

    def bound(self, n: int, inner: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """x [n, d] and U_K(x) [n], K = inner: above log q(x) in expectation."""
        x, z0 = self.pair(n, noise)
        moments = self.moments(x)
        log_w0 = self.log_weight(x, z0.unsqueeze(1), moments).squeeze(1)
        if inner == 0:
            return x, log_w0
        z = self.tau.drawn(noise.normal(n, inner, self.noise_dim), moments)
        return x, upper(log_w0, self.log_weight(x, z, moments))

    def mixture_score(self, x: Tensor, z: Tensor, noise: Noise) -> Tensor:
        """Estimate of grad_x log q(x) = E_{q(z'|x)} grad_x log q(x|z') at x ~ q(x|z), [n, d]; no part of the training.

        The z' are the generating z and K draws of tau, weighted as in U_K and normalised.
        """
        moments = self.moments(x)
        drawn = self.tau.drawn(noise.normal(len(x), self.inner, self.noise_dim), moments)
        both = torch.cat([z.unsqueeze(1), drawn], dim=1).detach()
        share = torch.softmax(self.log_weight(x, both, moments), dim=1).detach()
        score: Tensor = torch.func.grad(lambda x: (share * self.log_conditional(x, both)).sum())(x.detach())
        return score

    def loss(self, noise: Noise, clock: Clock) -> Tensor:
        """E[U_K - log p], fully reparameterised (through x, z_0 and z_1..z_K)."""
        x, log_q = self.bound(self.batch, self.inner, noise)
        return (log_q - self.target.subsample(noise).log_prob(x)).mean()

    def reverse_loss(self, noise: Noise, clock: Clock) -> Tensor:
        """E[U_K] with the doubly reparameterised gradient with respect to tau's parameters eta.

        The score of tau at its own draws is reparameterised once more (Tucker et al. 2019, arXiv:1810.04152): with
        W_k = w_k / sum_j w_j,  dU/deta = E[ sum_{k>0} W_k^2 dlog w_k/dz_k dz_k/deta - W_0 dlog tau(z_0|x)/deta ].
        """
        x, z0 = (part.detach() for part in self.pair(self.batch, noise))
        moments = self.moments(x)
        constant = moments[0].detach(), moments[1].detach()
        log_tau0 = self.tau.given(z0.unsqueeze(1), moments)
        log_w0 = self.log_weight(x, z0.unsqueeze(1), constant)
        if self.inner == 0:
            return (log_w0 + log_tau0.detach() - log_tau0).mean()
        z = self.tau.drawn(noise.normal(self.batch, self.inner, self.noise_dim), moments)
        log_w = self.log_weight(x, z, constant)
        share = torch.softmax(torch.cat([log_w0, log_w], dim=1), dim=1).detach()
        surrogate = (share[:, 1:].square() * log_w).sum(1) - (share[:, :1] * log_tau0).sum(1)
        value = upper(log_w0.squeeze(1), log_w).detach()
        return (value + surrogate - surrogate.detach()).mean()
