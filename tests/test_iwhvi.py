"""IWHVI, HVM, DIWHVI, DSIVI and reverse models against closed forms and identities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Laplace, MultivariateNormal

from bench.errors import UserError
from bench.noise import DirectNoise, generator
from bench.registry import get
from methods.base import Clock, Method
from methods.dsivi import DSIVI
from methods.iwhvi import DIWHVI, HVM, IWHVI
from methods.parts.bounds import lower, upper
from methods.parts.reverse import MixtureReverse, Reverse
from methods.scale_mixture import IWHVIScaleMixture
from methods.sivi import SIVI
from targets.base import Target
from targets.laplace_scale import LaplaceScaleMixture
from targets.scale_prior import SemiImplicitPrior
from toy_gaussian import Gaussian

WEIGHT = torch.tensor([[0.8, 0.1], [-0.3, 0.6]])
BIAS = torch.tensor([0.5, 0.2])
VARIANCE = 0.25
LINEAR = {"noise_dim": 2, "hidden": (), "log_var": math.log(VARIANCE)}


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("iwhvi", *parts))


def clock() -> Clock:
    return Clock(torch.zeros(()), 100)


def make(cls: type[Method], **arguments: object) -> Method:
    """``cls`` with q = N(b, W W^T + v I), conditional N(W z + b, v I)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = cls(Gaussian(), **{**LINEAR, **arguments})
    with torch.no_grad():
        method.q.mean[0].weight.copy_(WEIGHT)
        method.q.mean[0].bias.copy_(BIAS)
    return method


def density() -> MultivariateNormal:
    return MultivariateNormal(BIAS, WEIGHT @ WEIGHT.T + VARIANCE * torch.eye(2))


def inverse() -> tuple[Tensor, Tensor]:
    """Slope B and covariance S of the exact q(z | x) = N(B (x - b), S)."""
    covariance = torch.linalg.inv(torch.eye(2) + WEIGHT.T @ WEIGHT / VARIANCE)
    return covariance @ WEIGHT.T / VARIANCE, covariance


def set_tau(method: Method, slope: Tensor, intercept: Tensor, log_sd: Tensor) -> None:
    """tau without hidden layers: m = slope x + intercept, log s constant (small enough not to be squashed)."""
    with torch.no_grad():
        linear = method.tau.net[0]
        linear.weight.copy_(torch.cat([slope, torch.zeros(2, 2)]))
        linear.bias.copy_(torch.cat([intercept, 5 * torch.atanh(log_sd / 5)]))


@pytest.mark.parametrize("K", [1, 4, 30])
def test_with_the_prior_as_tau_it_is_the_bound_of_sivi(K: int) -> None:
    method, sivi = make(IWHVI, reverse=()), make(SIVI)
    set_tau(method, torch.zeros(2, 2), torch.zeros(2), torch.zeros(2))

    class Same(DirectNoise):
        """Hands out the numbers that SIVI draws for one x, in the order in which IWHVI asks for them."""

        def __init__(self) -> None:
            z, xi = noise(K).normal(1 + K, 2), noise("xi", K).normal(1, 2)
            self.left = [z[:1], xi, z[1:].unsqueeze(0)]

        def normal(self, *shape: int) -> Tensor:
            drawn = self.left.pop(0)
            assert drawn.shape == shape
            return drawn

    class SameForSIVI(DirectNoise):
        def __init__(self) -> None:
            self.left = [noise(K).normal(1 + K, 2), noise("xi", K).normal(1, 2)]

        def normal(self, *shape: int) -> Tensor:
            return self.left.pop(0)

    x, log_q = method.bound(1, K, Same())
    x_sivi, log_q_sivi = sivi.bound(1, K, SameForSIVI())
    torch.testing.assert_close(x, x_sivi)
    torch.testing.assert_close(log_q, log_q_sivi)


@pytest.mark.parametrize("K", [0, 1, 7])
def test_the_exact_inverse_gives_log_q_for_every_K(K: int) -> None:
    method, q = with_exact_inverse(K)
    x, log_q = method.bound(50, K, noise("exact"))
    torch.testing.assert_close(log_q, q.log_prob(x), rtol=1e-4, atol=1e-4)


def with_exact_inverse(K: int) -> tuple[IWHVI, MultivariateNormal]:
    """A linear Gaussian q, its tau the exact q(z | x), and q itself.

    W^T W is diagonal, so that the exact inverse has the diagonal covariance a Gaussian tau can take.
    """
    method = make(IWHVI, reverse=(), inner=max(K, 1))
    weight = torch.tensor([[0.8, 0.3], [-0.4, 0.6]])  # orthogonal columns
    with torch.no_grad():
        method.q.mean[0].weight.copy_(weight)
    covariance = torch.linalg.inv(torch.eye(2) + weight.T @ weight / VARIANCE)
    slope = covariance @ weight.T / VARIANCE
    set_tau(method, slope, -slope @ BIAS, 0.5 * covariance.diagonal().log())
    return method, MultivariateNormal(BIAS, weight @ weight.T + VARIANCE * torch.eye(2))


def test_estimate_of_the_score_is_exact_on_average_with_the_exact_inverse() -> None:
    method, q = with_exact_inverse(4000)
    x, z = method.pair(20, noise("score"))
    exact = torch.linalg.solve(q.covariance_matrix, (q.loc - x).unsqueeze(-1)).squeeze(-1)
    found = method.mixture_score(x, z, noise("inner"))
    # grad log q(x | z) varies by about 1 / sqrt(VARIANCE); 5 standard errors
    torch.testing.assert_close(found, exact, rtol=0, atol=5 / math.sqrt(4000 * VARIANCE))


def test_hvm_is_iwhvi_without_draws_of_tau() -> None:
    """HVM's bound, log q(x|z) + log q(z) - log tau(z|x), written with torch's distributions."""
    hvm, iwhvi = make(HVM, batch=40), make(IWHVI)
    iwhvi.load_state_dict(hvm.state_dict())
    x, log_q = hvm.bound(40, 0, noise("hvm"))
    torch.testing.assert_close(iwhvi.bound(40, 0, noise("hvm"))[1], log_q)
    z = noise("hvm").normal(40, 2)
    mean, log_sd = hvm.tau.moments(x)
    log_tau = torch.distributions.Normal(mean, log_sd.exp()).log_prob(z).sum(-1)
    log_z = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(log_q, hvm.conditional(z).log_prob(x) + log_z - log_tau, rtol=1e-4, atol=1e-4)
    assert torch.equal(hvm.loss(noise("hvm"), clock()), (log_q - hvm.target.log_prob(x)).mean())


def test_bounds_hold_the_exact_value_and_close_in_as_K_grows() -> None:
    method = make(IWHVI)
    gaps = []
    with torch.no_grad():
        for K in (1, 10, 100):
            draws = noise("bracket", K)
            x, z0 = method.pair(20_000, draws)
            moments = method.moments(x)
            log_w0 = method.log_weight(x, z0.unsqueeze(1), moments).squeeze(1)
            z = method.tau.drawn(draws.normal(len(x), K, 2), moments)
            log_w = method.log_weight(x, z, moments)
            exact = density().log_prob(x)
            above, below = upper(log_w0, log_w) - exact, exact - lower(log_w)
            for side in (above, below):
                assert float(side.mean()) > -4 * float(side.std()) / math.sqrt(len(x))
            gaps.append((float(above.mean()), float(below.mean())))
    for wide, narrow in zip(gaps, gaps[1:], strict=False):
        assert narrow[0] < wide[0] and narrow[1] < wide[1]
    assert gaps[0][0] > 0.02 and max(gaps[-1]) < 0.05


def gradients(method: IWHVI, loss: str, repeats: int) -> Tensor:
    """Gradients of tau's parameters, [repeats, P]."""
    rows = []
    for repeat in range(repeats):
        value = getattr(method, loss)(noise("dreg", repeat), clock())
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(method.tau.parameters()))]))
    return torch.stack(rows)


def test_doubly_reparameterised_gradient_has_the_same_mean_and_less_noise() -> None:
    method = make(IWHVI, reverse=(), batch=50, inner=8, dreg=True)
    slope, covariance = inverse()
    # near the inverse, where the score term of the plain gradient is mostly noise
    set_tau(method, 0.9 * slope, -0.9 * slope @ BIAS, 0.5 * covariance.diagonal().log() + 0.1)
    plain, doubly = gradients(method, "loss", 200), gradients(method, "reverse_loss", 200)
    # same noise in both: compare the paired differences
    difference = plain - doubly
    z = difference.mean(0) / (difference.std(0) / math.sqrt(len(difference)))
    assert float(z.abs().max()) < 4.5
    signal = doubly.mean(0).abs() / (doubly.std(0) / math.sqrt(len(doubly)))
    assert float(signal.max()) > 10  # there is a gradient to agree on
    assert float(doubly.var(0).sum()) < 0.8 * float(plain.var(0).sum())
    values = [float(getattr(method, name)(noise("value"), clock()).detach()) for name in ("loss", "reverse_loss")]
    x, _ = method.pair(50, noise("value"))
    # the tau player reports U_K, the q player U_K - log p
    assert abs(values[1] - values[0] - float(method.target.log_prob(x).detach().mean())) < 1e-4


def test_diwhvi_rises_with_M_to_the_evidence_and_equals_iwhvi_at_M_1() -> None:
    single, alone = make(DIWHVI, outer=1, batch=64, inner=6), make(IWHVI, batch=64, inner=6)
    alone.load_state_dict(single.state_dict())
    torch.testing.assert_close(single.loss(noise("M"), clock()), alone.loss(noise("M"), clock()))
    bounds = []
    for M in (1, 4, 64):
        method = make(DIWHVI, outer=M, batch=40_000 // M, inner=6)
        with torch.no_grad():
            bounds.append(-float(method.loss(noise("rise", M), clock())))
    assert bounds[0] + 0.1 < bounds[1] < bounds[2] < Gaussian().log_z + 0.05
    assert bounds[2] > Gaussian().log_z - 0.2


class ScalePrior(SemiImplicitPrior):
    """A priori x | zeta ~ N(0, zeta I) with zeta 1/2 or 4 (equal chances); one observation N(x, I) at (1, 1)."""

    dim = 2

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("variances", torch.tensor([0.5, 4.0]))

    def data_log_prob(self, x: Tensor) -> Tensor:
        return -0.5 * (x - 1.0).square().sum(-1) - math.log(2 * math.pi)

    def log_prob(self, x: Tensor) -> Tensor:
        pairs = self.prior_conditional(x.reshape(-1, 2), self.variances)
        return self.data_log_prob(x) + (torch.logsumexp(pairs, 1) - math.log(2)).view(x.shape[:-1])

    def prior_mixing(self, n: int, noise: DirectNoise) -> Tensor:
        return torch.where(noise.uniform(n) < 0.5, self.variances[0], self.variances[1])

    def prior_conditional(self, x: Tensor, zeta: Tensor) -> Tensor:
        return -0.5 * x.square().sum(1, keepdim=True) / zeta - (2 * math.pi * zeta).log()


def dsivi_bound(K1: int, K2: int) -> tuple[float, float]:
    """Mean of L_{K1,K2} and its standard error."""
    method = make(DSIVI, outer=200, auxiliary=K1, prior_draws=K2)
    method.target = ScalePrior()
    with torch.no_grad():
        values = -torch.stack([method.loss(noise(K1, K2, repeat), clock()) for repeat in range(150)])
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def test_dsivi_rises_with_both_K_to_the_elbo() -> None:
    exact_q = density()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x = exact_q.sample((200_000,))
    elbo = float((ScalePrior().log_prob(x) - exact_q.log_prob(x)).mean())
    table = {(K1, K2): dsivi_bound(K1, K2) for K1, K2 in [(1, 1), (8, 1), (1, 8), (8, 8), (200, 200)]}
    for less, more in [((1, 1), (8, 1)), ((1, 1), (1, 8)), ((8, 1), (8, 8)), ((1, 8), (8, 8)), ((8, 8), (200, 200))]:
        (a, error_a), (b, error_b) = table[less], table[more]
        assert b > a + 2 * math.hypot(error_a, error_b), (less, more)
    value, error = table[200, 200]
    assert abs(value - elbo) < 4 * error + 0.02
    assert all(bound < elbo + 4 * error + 0.02 for bound, error in table.values())


def test_dsivi_without_draws_of_the_prior_uses_the_marginal_one() -> None:
    method = make(DSIVI, prior_draws=0)
    method.target = ScalePrior()
    x = noise("x").normal(30, 2)
    assert torch.equal(method.log_joint(x, noise("any")), ScalePrior().log_prob(x))
    plain = make(DSIVI)  # no semi-implicit prior
    assert torch.equal(plain.log_joint(x, noise("any")), Gaussian().log_prob(x))


def test_marginal_t_prior_is_its_scale_mixture() -> None:
    target = get("target", "blr_breast_cancer_t").obj()
    x = 0.5 * noise("t").normal(5, target.dim)
    zeta = target.prior_mixing(50_000, noise("zeta"))
    log_p = target.prior_conditional(x, zeta).double()
    mixture = torch.logsumexp(log_p, 1) - math.log(len(zeta))
    # relative error of each mean over zeta, from the spread of the terms
    weights = (log_p - mixture[:, None]).exp()
    error = weights.std(1) / math.sqrt(len(zeta))
    assert float(error.max()) < 0.05
    assert ((mixture - target.log_prior(x)).abs() < 5 * error).all()


def test_scale_mixture_is_a_laplace_law() -> None:
    """Draws, and a quadrature of q(x|z) q(z) over z."""
    method = IWHVIScaleMixture(LaplaceScaleMixture(dim=1))
    with torch.no_grad():
        method.q.mean.fill_(0.7)
        method.q.log_scale.fill_(math.log(1.5))
        draws = method.sample(40_000, noise("laplace"))[:, 0]
        law = Laplace(0.7, 1.5)
        for level in (0.05, 0.25, 0.5, 0.9):
            assert abs(float((draws < law.icdf(torch.tensor(level))).float().mean()) - level) < 0.012
        z = torch.linspace(-30, 8, 20_001).unsqueeze(1)
        for x in (-2.0, 0.71, 5.0):
            log_joint = method.conditional(z).log_prob(torch.tensor([x])) + method.mixing_log_prob(z)
            integral = float(torch.logsumexp(log_joint, 0) + math.log(38 / 20_000))
            assert abs(integral - float(law.log_prob(torch.tensor(x)))) < 1e-3


def reverse_models() -> list[Reverse]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        x = torch.randn(500, 2)
        z = x @ torch.tensor([[1.0, 0.2, 0.0], [0.3, -1.0, 0.5]]) + 0.3 * torch.randn(500, 3)
        mixture = MixtureReverse(x, z, (16,), 4)
        with torch.no_grad():
            for parameter in mixture.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return [mixture, IWHVI(Gaussian(), noise_dim=3).tau, IWHVIScaleMixture(LaplaceScaleMixture(dim=2)).tau]


@pytest.mark.parametrize("tau", reverse_models(), ids=["mixture", "network", "elementwise"])
def test_draws_of_a_reverse_model_follow_its_density(tau: Reverse) -> None:
    """E over draws of N(z; m, s^2 I) / tau(z | x) is 1 for any m, and draws at two x differ."""
    x = torch.tensor([[0.3, -0.5], [2.0, 1.0]])
    with torch.no_grad():
        z = tau.draw(x, 100_000, noise("draws"))
        # a narrow Gaussian inside the bulk keeps the weights bounded
        centre, spread = z.mean(1, keepdim=True), 0.5 * z.std(1, keepdim=True)
        log_inside = torch.distributions.Normal(centre, spread).log_prob(z).sum(-1)
        weights = (log_inside - tau.log_prob(z, x)).exp()
    error = weights.std(1) / math.sqrt(z.shape[1])
    assert float(error.max()) < 0.05
    assert ((weights.mean(1) - 1).abs() < 4.5 * error).all()


def test_untrained_mixture_is_the_exact_inverse_of_a_linear_gaussian_q() -> None:
    method = make(IWHVI)
    with torch.no_grad():
        x, z = method.pair(50_000, noise("pairs"))
        tau = MixtureReverse(x, z, (8,), 1)
        tau.net[-1].weight.zero_()
        slope, covariance = inverse()
        expected = MultivariateNormal((x[:200] - BIAS) @ slope.T, covariance).log_prob(z[:200])
    # slope and covariance are estimated from 50 000 pairs: relative errors of about 1 / sqrt(50 000)
    torch.testing.assert_close(tau.log_prob(z[:200, None], x[:200]).squeeze(1), expected, atol=0.1, rtol=0)


def test_a_frozen_q_has_one_player() -> None:
    method = IWHVIScaleMixture(LaplaceScaleMixture(dim=3), train_q=False)
    assert [player.owns for player in method.players()] == [("tau",)]
    both = IWHVIScaleMixture(LaplaceScaleMixture(dim=3), dreg=True)
    assert [player.owns for player in both.players()] == [("q",), ("tau",)]


@pytest.mark.parametrize(
    "cls, arguments",
    [(IWHVI, {"inner": 0}), (HVM, {"reverse": (0,)}), (DIWHVI, {"outer": 0}), (DSIVI, {"prior_draws": -1}),
     (IWHVIScaleMixture, {"inner": -1}), (IWHVI, {"lr_reverse": 0.0})],
)  # fmt: skip
def test_impossible_hyper_parameters_are_refused(cls: type[Method], arguments: dict) -> None:
    with pytest.raises(UserError, match=next(iter(arguments))):
        cls(Gaussian(), **arguments)


def test_a_target_of_no_dimension_is_refused() -> None:
    with pytest.raises(UserError, match="dim"):
        LaplaceScaleMixture(dim=0)
    assert isinstance(LaplaceScaleMixture(dim=10), Target)
