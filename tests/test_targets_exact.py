"""Targets with exact truth against closed forms, SciPy and published figures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bench.errors import UserError
from bench.metrics.grid_divergence import KLForwardGrid, KLReverseGrid
from bench.noise import generator
from bench.registry import entries
from metric_fakes import Explicit, SemiImplicit, fitted
from targets import eight_schools, nb_mites
from targets.bananas import QuadraticBanana
from targets.quadrature import Tabulated
from targets.toys import Banana


def build(name: str, **arguments: Any) -> Any:
    return entries("target")[name].obj(**arguments).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- two dimensions


def test_the_quadratic_banana_contains_the_one_of_the_code() -> None:
    class Same(QuadraticBanana):
        variance1, variance2 = 1.0, 0.19
        curvature, slope, offset = -1.0, 0.9, -1.0

    x = normal(20, 2)
    torch.testing.assert_close(Same().log_prob(x), Banana().log_prob(x))
    assert torch.equal(Same().sample(5, generator(1)), Banana().sample(5, generator(1)))


def test_the_mirror_is_x1_squared_plus_x2_plus_1() -> None:
    target = build("banana_mirror")
    v = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.tensor([[1, 0.9], [0.9, 1]]).double())
    draws = normal(10, 2) @ v.scale_tril.T
    x = torch.stack((draws[:, 0], draws[:, 0].square() + draws[:, 1] + 1), dim=1)
    torch.testing.assert_close(target.log_prob(x), v.log_prob(draws))


def test_eight_gaussians_have_the_symmetry_of_an_octagon() -> None:
    target, x = build("8_gaussians"), 3 * normal(50, 2)
    c = math.sqrt(0.5)
    turned = x @ torch.tensor([[c, -c], [c, c]], dtype=torch.float64)
    torch.testing.assert_close(target.log_prob(turned), target.log_prob(x), rtol=1e-5, atol=1e-5)
    near = target.sample(4000, generator("eight")).double().norm(dim=1)
    assert abs(float(near.square().mean()) - (16 + 2 * 0.25)) < 5 * float(near.square().std()) / math.sqrt(4000)


def test_the_modes_of_multimodal_pvi_have_their_weights() -> None:
    means = torch.tensor([[2.0, 2.0], [-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0]]).double()
    weights = torch.tensor([1, 1, 4, 2]).double() / 8
    x = 4 * normal(30, 2)
    density = (weights * torch.exp(-0.5 * (x[:, None] - means).square().sum(-1)) / (2 * math.pi)).sum(1)
    torch.testing.assert_close(build("multimodal_pvi").log_prob(x).exp(), density)


def test_student_matrix_offset_and_tails() -> None:
    target = build("student_uc")
    published = torch.tensor([[0.28216, -0.11804], [-0.11804, 0.29587]]).double()
    torch.testing.assert_close(target.matrix, published, rtol=0, atol=6e-6)
    assert target.log_z == pytest.approx(-2.6657, abs=5e-5)
    x = normal(20, 2)
    t = np.linalg.solve(target.matrix.numpy(), x.numpy().T)
    np.testing.assert_allclose(target.log_prob(x).numpy(), stats.t(2).logpdf(t).sum(0), rtol=1e-5)
    draws = target.sample(20_000, generator("student")).double()
    back = np.linalg.solve(target.matrix.numpy(), draws.numpy().T)
    assert min(stats.kstest(side, stats.t(2).cdf).pvalue for side in back) > 1e-3
    centres = torch.linspace(-10, 10, 801, dtype=torch.float64)[:-1] + 0.0125
    mass = (target.log_prob(torch.cartesian_prod(centres, centres)) - target.log_z).exp().sum() * 0.025**2
    share = float((draws.abs() < 10).all(1).double().mean())
    assert abs(float(mass) - share) < 5 * math.sqrt(0.002 / 20_000)


# ---- one dimension

ONE_D = {
    "laplace_1d": stats.laplace(scale=2),
    "gaussian_1d": stats.norm(scale=3),
    "gamma_1d": stats.gamma(2),
}


@pytest.mark.parametrize("name", ONE_D)
def test_one_dimensional_laws_are_those_of_scipy(name: str) -> None:
    target, law = build(name).original(), ONE_D[name]
    x = np.linspace(0.05, 9, 40)
    np.testing.assert_allclose(target.log_prob(torch.tensor(x)[:, None]).numpy(), law.logpdf(x), rtol=1e-6)
    draws = target.sample(20_000, generator("draws", name))[:, 0].double()
    assert stats.kstest(draws.numpy(), law.cdf).pvalue > 1e-3


def test_mixture_1d() -> None:
    x = np.linspace(-6, 6, 30)
    expected = 0.3 * stats.norm(-2).pdf(x) + 0.7 * stats.norm(2).pdf(x)
    np.testing.assert_allclose(
        build("mixture_1d").log_prob(torch.tensor(x)[:, None]).exp().numpy(), expected, rtol=1e-5
    )


def test_gamma_outside_its_support_has_no_nan() -> None:
    target = build("gamma_1d", coordinate="original")
    x = torch.tensor([[-3.0], [0.0], [1e-30], [0.5], [4.0]], dtype=torch.float64)
    assert torch.equal(target.log_prob(x)[:2], torch.full((2,), -math.inf, dtype=torch.float64))
    gradient = torch.func.vmap(torch.func.grad(target.log_prob))(x)
    torch.testing.assert_close(gradient, target.score(x))
    assert torch.isfinite(gradient).all() and (gradient[:2] == 0).all() and gradient[3] == 1.0
    second = torch.func.vmap(torch.func.jacrev(target.score))(x[[0, 3]])
    torch.testing.assert_close(second.flatten(), torch.tensor([0.0, -4.0], dtype=torch.float64))


def test_gamma_in_log_x_is_the_same_law() -> None:
    target, y = build("gamma_1d"), 2 * normal(20, 1)
    torch.testing.assert_close(target.log_prob(y), target.original().log_prob(y.exp()) + y[:, 0])


@pytest.mark.parametrize(("mean", "sd"), [(0.3, 0.5), (0.0, 0.6)])
def test_grid_kl_in_one_dimension_is_the_closed_form(mean: float, sd: float) -> None:
    entropy = 0.5 * math.log(2 * math.pi * math.e * sd**2)
    absolute = sd * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * sd**2)) + mean * math.erf(mean / sd / 2**0.5)
    cross = {  # -E_q log p under q = N(mean, sd^2)
        "laplace_1d": math.log(4) + absolute / 2,
        "gaussian_1d": math.log(3) + 0.5 * math.log(2 * math.pi) + (mean**2 + sd**2) / 18,
        "gamma_1d": math.exp(mean + sd**2 / 2) - 2 * mean,  # q is log-normal: the KL is the same in either coordinate
    }
    for name, value in cross.items():
        q = fitted(Explicit, build(name), mean=(mean,), sd=(sd,))
        assert KLReverseGrid()(q).value == pytest.approx(value - entropy, rel=1e-3)


def test_forward_grid_kl_and_the_mixture_floor_in_one_dimension() -> None:
    expected = math.log(4 / 3) + 9 / 32 - 0.5  # KL(N(0, 9) || N(0, 16))
    exact = KLForwardGrid()(fitted(Explicit, build("gaussian_1d"), mean=(0.0,), sd=(4.0,)))
    mixture = KLForwardGrid()(fitted(SemiImplicit, build("gaussian_1d"), mean=(0.0,), sd=(4.0,)))
    assert exact.value == pytest.approx(expected, rel=1e-3) and exact.floor == 0.0
    assert mixture.value == pytest.approx(expected, rel=0.1) and 0 < mixture.floor < 1e-3


# ---- quadrature


def test_tabulated_gaussian() -> None:
    def log_density(x: Tensor) -> Tensor:
        return 3.0 - 0.5 * (x[:, 0].square() + ((x[:, 1] - x[:, 0]) / 0.5).square())

    table = Tabulated(log_density, [(-6.0, 6.0), (-7.0, 7.0)], 300)
    assert table.log_z == pytest.approx(3.0 + math.log(2 * math.pi * 0.5), abs=1e-6)
    draws = table.sample(50_000, generator("tabulated"))
    covariance = torch.tensor([[1.0, 1.0], [1.0, 1.25]], dtype=torch.float64)
    torch.testing.assert_close(torch.cov(draws.T), covariance, rtol=0, atol=5 * 1.25 * math.sqrt(2 / 50_000))


def test_negative_binomial_is_scipys() -> None:
    target, counts = build("nb_mites"), np.repeat(np.arange(8), nb_mites.LEAVES)
    assert len(counts) == 150 and counts.sum() == 172
    for u, v in ((0.1, 0.2), (-1.0, 1.0), (2.0, -1.5)):
        r, p = math.exp(u), 1 / (1 + math.exp(-v))
        expected = stats.nbinom.logpmf(counts, r, 1 - p).sum() + stats.gamma(0.01, scale=100).logpdf(r)
        expected += stats.beta(0.01, 0.01).logpdf(p) + u + math.log(p * (1 - p))
        assert float(target.log_prob(torch.tensor([u, v]).double())) == pytest.approx(expected, rel=1e-7)
    assert nb_mites.tabulated().log_z == pytest.approx(target.log_z, abs=1e-3)


def test_negative_binomial_draws_have_its_first_moments() -> None:
    """Sufficient statistics: E[N r p / (1 - p)] is near the 172 mites; exact by Stein's identity for logit p."""
    draws = build("nb_mites").sample(20_000, generator("nb")).double()
    r, p = draws[:, 0].exp(), draws[:, 1].sigmoid()
    residual = (172 + 0.01) * (1 - p) - (150 * r + 0.01) * p  # d log posterior / d logit p has mean zero
    assert abs(float(residual.mean())) < 5 * float(residual.std()) / math.sqrt(20_000)


def test_eight_schools_draws_have_the_posterior_density() -> None:
    """log p = log marginal(log tau) + log N(mu | tau) + sum log N(theta | mu, tau): Bayes' theorem at the draws."""
    target = build("eight_schools")
    x = target.sample(50, generator("eight schools")).double()
    mu, log_tau, theta = x[:, :1], x[:, 1:2], x[:, 2:]
    y, errors = torch.tensor(eight_schools.EFFECTS).double(), torch.tensor(eight_schools.ERRORS).double()
    mean, precision = eight_schools.conditional_of_mu(log_tau)
    between, within = (-2 * log_tau).exp(), errors**-2.0
    centre = (between * mu + within * y) / (between + within)
    conditional = torch.distributions.Normal(mean, precision.rsqrt()).log_prob(mu).sum(-1)
    conditional += torch.distributions.Normal(centre, (between + within).rsqrt()).log_prob(theta).sum(-1)
    torch.testing.assert_close(target.log_prob(x), conditional + eight_schools.log_marginal(log_tau))
    table = eight_schools.tabulated()
    assert table.log_z == pytest.approx(target.log_z, abs=1e-4)
    assert Tabulated(eight_schools.log_marginal, [(-25.0, 20.0)], 5000).log_z == pytest.approx(table.log_z, abs=1e-6)


def test_eight_schools_moments_are_those_of_posteriordb() -> None:
    x = build("eight_schools").sample(40_000, generator("eight schools")).double()
    for value, published, sd in ((x[:, 0], 4.41, 3.3), (x[:, 1].exp(), 3.60, 3.2), (x[:, 2], 6.2, 5.6)):
        # the reference there has 10 000 draws, printed to two or three digits
        assert abs(float(value.mean()) - published) < 5 * sd * math.sqrt(1 / 40_000 + 1 / 10_000)


# ---- parametrisations

PAIRS = {
    "funnel": {"dim": 5, "s": 1.3},
    "linear_pair": {"s": 0.2, "s_x": 0.7, "x": -0.4},
    "eight_schools": {},
}


@pytest.mark.parametrize("name", PAIRS)
def test_noncentred_density_is_the_change_of_variables(name: str) -> None:
    centred = build(name, **PAIRS[name])
    target = build(name, parametrization="noncentered", **PAIRS[name])
    x = normal(6, target.dim)
    jacobian = torch.func.vmap(torch.func.jacrev(target.to_original))(x)
    expected = centred.log_prob(target.to_original(x)) + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(target.log_prob(x), expected)
    gradient = torch.func.vmap(torch.func.grad(target.log_prob))(x)
    torch.testing.assert_close(target.score(x), gradient)
    assert target.log_z == pytest.approx(centred.log_z)
    assert torch.equal(target.sample(4, generator(0)), centred.sample(4, generator(0)))
    assert centred.original() is centred and type(target.original()) is type(centred)
    far = (1000 * x).float()
    assert torch.isfinite(target.float().log_prob(far)).all() and torch.isfinite(target.score(far)).all()


@pytest.mark.parametrize(
    ("name", "bad"), [("funnel", {"s": 0.0}), ("funnel", {"dim": 1}), ("linear_pair", {"s_x": -1.0})]
)
def test_impossible_parameters_are_refused(name: str, bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        build(name, **bad)


@pytest.mark.parametrize(
    ("s", "s_x", "centred", "noncentred"), [(0.01, 1, 0.9998, 0.0), (1, 1, 0.25, 0.25), (1, 0.01, 0.0, 0.9998)]
)
def test_posterior_correlation_of_the_pair_is_as_published(
    s: float, s_x: float, centred: float, noncentred: float
) -> None:
    for parametrization, expected in (("centered", centred), ("noncentered", noncentred)):
        target = build("linear_pair", s=s, s_x=s_x, parametrization=parametrization)
        precision = -torch.func.jacrev(target.score)(normal(2))
        rho2 = precision[0, 1] ** 2 / (precision[0, 0] * precision[1, 1])
        assert float(rho2) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize("parametrization", ["centered", "noncentered"])
def test_the_best_factorised_q_loses_half_log_one_minus_rho_squared(parametrization: str) -> None:
    target = build("linear_pair", s=0.4, s_x=0.5, parametrization=parametrization)
    precision = -torch.func.jacrev(target.score)(normal(2))
    sd = precision.diagonal().rsqrt()
    q = fitted(Explicit, target, mean=tuple(target.posterior_mean.tolist()), sd=tuple(sd.tolist()))
    rho2 = float(precision[0, 1] ** 2 / (precision[0, 0] * precision[1, 1]))
    assert rho2 > 0.2
    assert KLReverseGrid()(q).value == pytest.approx(-0.5 * math.log(1 - rho2), rel=2e-3)


def test_a_ridge_too_narrow_for_the_grid_has_no_window() -> None:
    assert build("linear_pair", s=0.01).window is None
    assert build("linear_pair", s=0.01, parametrization="noncentered").window is not None
