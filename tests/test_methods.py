"""Each method against a closed form or an identity."""

from __future__ import annotations

import math

import pytest
import torch

from bench.errors import UserError
from bench.fit.loop import fit
from bench.fit.members import initialise
from bench.noise import DirectNoise, generator
from bench.registry import entries
from methods.base import Clock
from methods.flows import IAF
from methods.gaussian import FullRank, MeanField
from methods.ksivi import KSIVI
from methods.parts.families import anneal
from methods.parts.optim import exponential, staircase
from methods.sivi import SIVI
from methods.sivism import SIVISM, SIVISMTrick
from toy_gaussian import COVARIANCE, MEAN, Gaussian

NOISE = "methods"


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator(NOISE, *parts))


def clock() -> Clock:
    return Clock(torch.zeros(()), 100)


def semi_implicit_gaussian(method):
    """Give a method without hidden layers the law N(b, W W^T + sigma^2 I); returns mean and covariance."""
    with torch.no_grad():
        linear = method.q.mean[0]
        linear.weight.copy_(torch.tensor([[0.8, 0.1], [-0.3, 0.6]]))
        linear.bias.copy_(torch.tensor([0.5, 0.2]))
        covariance = linear.weight @ linear.weight.T + method.q.sigma.square().diag()
        return linear.bias.clone(), covariance


def gaussian_elbo(mean, covariance) -> float:
    """E_q[log p] + H(q) for q = N(mean, covariance) and the unnormalised test target."""
    precision = torch.linalg.inv(COVARIANCE)
    difference = mean - MEAN
    energy = -0.5 * (torch.trace(precision @ covariance) + difference @ precision @ difference)
    return float(energy + 0.5 * torch.logdet(covariance) + 1 + math.log(2 * math.pi))


class TestSIVI:
    arguments = {"noise_dim": 2, "hidden": (), "log_var": math.log(0.25)}

    def bound(self, K: int, repeats: int = 40) -> tuple[float, float]:
        """Monte Carlo mean of L_K and its standard error."""
        method = SIVI(Gaussian(), **self.arguments)
        semi_implicit_gaussian(method)
        values = []
        with torch.no_grad():
            for repeat in range(repeats):
                x, log_q = method.bound(500, K, noise(K, repeat))
                values.append((method.target.log_prob(x) - log_q).mean())
        values = torch.stack(values)
        return float(values.mean()), float(values.std() / math.sqrt(repeats))

    def test_bound_rises_with_K_to_the_exact_elbo(self):
        exact = gaussian_elbo(*semi_implicit_gaussian(SIVI(Gaussian(), **self.arguments)))
        bounds = [self.bound(K) for K in (1, 4, 16, 64, 1000)]
        for (low, low_error), (high, high_error) in zip(bounds, bounds[1:], strict=False):
            assert high > low + 2 * math.hypot(low_error, high_error) or abs(high - exact) < 0.02
        assert exact - bounds[0][0] > 0.1
        value, error = bounds[-1]
        assert abs(value - exact) < 4 * error + 0.01

    @pytest.mark.parametrize(
        "family", [{"log_var": -1.0}, {"covariance": "full", "entry": 0.4}], ids=["diagonal", "full"]
    )
    def test_log_q_equals_the_mixture_density_of_the_conditional(self, family):
        """The bound's pairwise density is the one that ``conditional`` declares."""
        method = SIVI(Gaussian(), noise_dim=2, hidden=(5,), **family)
        J, K = 3, 4
        x, log_q = method.bound(J, K, noise("density"))
        again = noise("density")
        z = again.normal(J + K, 2)
        for j in range(J):
            components = method.conditional(torch.cat([z[j : j + 1], z[J:]]))
            expected = torch.logsumexp(components.log_prob(x[j]), 0) - math.log(K + 1)
            torch.testing.assert_close(log_q[j], expected, rtol=1e-4, atol=1e-5)


def test_full_covariance_draw_gives_minus_the_conditional_score():
    method = SIVI(Gaussian(), noise_dim=2, hidden=(5,), covariance="full", entry=0.4)
    x, u = method.q.draw(6, noise("full"))
    components = method.conditional(noise("full").normal(6, 2))
    x = x.detach().requires_grad_()
    (score,) = torch.autograd.grad(components.log_prob(x).sum(), x)
    torch.testing.assert_close(-score, u, rtol=1e-4, atol=1e-4)


class TestSIVISM:
    def game(self, cls: type[SIVISM], shift: float) -> tuple[float, float]:
        """Value of the game with the best (linear) critic plus ``shift``, and the Fisher divergence."""
        method = cls(Gaussian(), batch=200_000, noise_dim=2, hidden=(), critic=(), log_var=math.log(0.25))
        mean, covariance = semi_implicit_gaussian(method)
        p, q = torch.linalg.inv(COVARIANCE), torch.linalg.inv(covariance)
        with torch.no_grad():
            # s_p - s_q = (q - p) x + p m_p - q m_q; with the trick s_p is added to the critic (its weight starts at 1)
            own = p if cls is SIVISM else torch.zeros_like(p)
            method.critic[0].weight.copy_(q - own)
            method.critic[0].bias.copy_(own @ MEAN - q @ mean + shift)
            value = float(method.fisher(noise("game"), clock()))
        slope, constant = q - p, (q - p) @ mean + p @ MEAN - q @ mean
        return value, float(torch.trace(slope @ covariance @ slope.T) + constant @ constant)

    @pytest.mark.parametrize("cls", [SIVISM, SIVISMTrick])
    def test_best_critic_gives_the_fisher_divergence_and_others_less(self, cls):
        value, divergence = self.game(cls, 0.0)
        assert abs(value - divergence) < 0.05 * divergence
        shifted, _ = self.game(cls, 0.5)
        # a critic off by a constant c loses exactly |c|^2 in expectation
        assert abs((value - shifted) - 2 * 0.25) < 0.05


class TestGaussians:
    def fitted(self, cls):
        members = initialise(lambda: cls(Gaussian(), batch=64, lr=0.02, decay=0.8, decay_every=200), [0])
        return fit(members, [0], 2500).member(0, members[0])

    def test_full_rank_recovers_the_target(self):
        q = self.fitted(FullRank)
        torch.testing.assert_close(q.mean.detach(), MEAN, atol=0.02, rtol=0)
        torch.testing.assert_close((q.scale_tril() @ q.scale_tril().T).detach(), COVARIANCE, atol=0.03, rtol=0)

    def test_mean_field_finds_the_conditional_variances(self):
        """The best factorised Gaussian has variance 1 / precision_ii: it loses -ln(1 - rho^2) / 2 nats."""
        q = self.fitted(MeanField)
        variances = (2 * q.log_sd).exp().detach()
        torch.testing.assert_close(variances, 1 / torch.linalg.inv(COVARIANCE).diagonal(), atol=0.03, rtol=0)
        gap = gaussian_elbo(MEAN, COVARIANCE) - gaussian_elbo(q.mean.detach(), variances.diag())
        assert abs(gap + 0.5 * math.log(1 - 0.6**2)) < 0.02

    @pytest.mark.parametrize("cls", [FullRank, MeanField])
    def test_log_prob_is_the_declared_gaussian(self, cls):
        q = self.fitted(cls)
        x = torch.randn(4, 3, 2, generator=generator("gaussian"))
        declared = torch.distributions.MultivariateNormal(q.mean, scale_tril=q.scale_tril())
        torch.testing.assert_close(q.log_prob(x), declared.log_prob(x))


class TestIAF:
    def test_density_of_pushed_draws_agrees_and_integrates_to_one(self):
        torch.manual_seed(0)
        method = IAF(Gaussian(), transforms=2, hidden=(16,))
        with torch.no_grad():
            x, log_q = method._push(noise("iaf").normal(50, 2))
            torch.testing.assert_close(method.log_prob(x), log_q, rtol=1e-4, atol=1e-4)
            axis = torch.linspace(-9, 9, 361)
            grid = torch.cartesian_prod(axis, axis)
            mass = method.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
        assert abs(float(mass) - 1) < 0.01


@pytest.mark.parametrize(
    "arguments", [{"batch": 0}, {"lr": -1.0}, {"hidden": (0,)}, {"noise_dim": 0}, {"anneal": -1.0}]
)
def test_impossible_hyper_parameters_are_refused(arguments):
    for method in (KSIVI, SIVISM):
        with pytest.raises(UserError, match=next(iter(arguments))):
            method(Gaussian(), **arguments)


def test_schedules_and_annealing_are_those_of_the_codes():
    """torch's StepLR (SIVI-SM, KSIVI), SIVI's continuous decay, and min(1, .1 + t / W) with t = 1 at the first step."""
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    step_lr = torch.optim.lr_scheduler.StepLR(optimiser, step_size=3, gamma=0.9)
    for step in range(10):
        now = Clock(torch.tensor(float(step)), 10)
        assert float(staircase(0.9, 3)(now)) == pytest.approx(step_lr.get_last_lr()[0])
        assert float(exponential(0.75, 100)(now)) == pytest.approx(0.75 ** (step / 100))
        assert float(anneal(now, 0.5)) == pytest.approx(min(1.0, 0.1 + (step + 1) / 5))
        assert anneal(now, 0.0) == 1.0
        optimiser.step()
        step_lr.step()


ANNEALED = [name for name, entry in sorted(entries("method").items()) if "anneal" in entry.parameters]


@pytest.mark.parametrize("name", ANNEALED)
def test_annealing_weakens_the_score_and_nothing_else(name):
    """At the first step of a long annealing the loss is that of a target whose score is a tenth."""

    class Tenth(Gaussian):
        def score(self, x):
            return 0.1 * super().score(x)

    cls, losses = entries("method")[name].obj, []
    for target, fraction in ((Gaussian(), 1.0), (Tenth(), 0.0)):
        torch.manual_seed(0)
        method = cls(target, **{**cls.cheap, "anneal": fraction})
        player = next(p for p in method.players() if p.name in ("q", "particles"))
        loss = player.loss(DirectNoise(generator("anneal")), Clock(torch.zeros(()), 10**9))
        losses.append(loss[0] if isinstance(loss, tuple) else loss)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


def test_a_mean_field_is_the_gaussian_of_its_dense_factor():
    method = MeanField(Gaussian())
    with torch.no_grad():
        method.mean.copy_(torch.tensor([0.5, -1.0]))
        method.log_sd.copy_(torch.tensor([0.3, -0.7]))
    eps = DirectNoise(generator("dense")).normal(7, 2)
    dense = torch.distributions.MultivariateNormal(method.mean, scale_tril=method.scale_tril())
    x = method.sample(7, DirectNoise(generator("dense")))
    torch.testing.assert_close(x, method.mean + eps @ method.scale_tril().T)
    torch.testing.assert_close(method.log_prob(x), dense.log_prob(x))
