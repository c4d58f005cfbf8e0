"""PVI: the mixture's density and score, its gradients against autograd of the free energy, Langevin steps."""

from __future__ import annotations

import pytest
import torch

from bench.errors import UserError
from bench.fit.loop import fit
from bench.noise import DirectNoise, generator
from methods.base import Clock
from methods.parts.symmetric import symmetric_exp
from methods.parts.unit_mixture import mixture_backend, unit_mixture_score
from methods.pvi import PVI
from targets.base import Target
from toy_gaussian import Gaussian


class Normal10(Target):
    dim = 10

    def log_prob(self, x):
        return -0.5 * x.square().sum(-1)


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("pvi", *parts), dtype=torch.float64)


def clock(step: float = 0.0) -> Clock:
    return Clock(torch.tensor(step), 100)


def make(kernel: str = "skip", covariance: str = "diagonal", **options) -> PVI:
    torch.manual_seed(0)
    network = {} if kernel == "const" else {"hidden": (7,)}
    method = PVI(Gaussian(), particles=6, samples=5, kernel=kernel, covariance=covariance, **network, **options)
    with torch.no_grad():
        if covariance != "network":
            method.k.log_cov.add_(0.3 * torch.randn(method.k.log_cov.shape))
    return method.double()


def drawn(method: PVI, particles: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """x of every particle's draws eps [M, L, d], in one batch."""
    return method.k.draw(tuple(m.unsqueeze(1) for m in method.k.moments(particles)), eps).flatten(0, 1)


def test_the_conditional_of_a_large_full_covariance_is_one():
    """exp(A) is symmetric up to rounding only, which is more than torch allows once its entries are large."""
    method = PVI(Normal10(), particles=3, samples=2, hidden=(4,), covariance="full")
    for _ in range(10):
        with torch.no_grad():
            method.k.log_cov.copy_(4 * torch.eye(10) + torch.randn(10, 10))
        C = symmetric_exp((method.k.log_cov + method.k.log_cov.T) / 2)
        found = method.conditional(method.particles)
        torch.testing.assert_close(found.covariance_matrix[0], C, rtol=1e-3, atol=1e-3 * float(C.detach().abs().max()))


VARIANTS = [("const", "diagonal"), ("push", "diagonal"), ("skip", "full"), ("lskip", "full"), ("lskip", "network")]


@pytest.mark.parametrize("kernel, covariance", VARIANTS)
class TestMixture:
    def test_log_prob_is_the_mean_of_the_conditionals(self, kernel, covariance):
        method = make(kernel, covariance)
        x = torch.randn(2, 3, 2, generator=generator("x"), dtype=torch.float64)
        components = method.conditional(method.particles).log_prob(x.unsqueeze(-2))
        expected = torch.logsumexp(components, -1) - torch.log(torch.tensor(6.0))
        torch.testing.assert_close(method.log_prob(x), expected, rtol=1e-6, atol=1e-6)

    def test_exact_score_is_the_gradient_of_log_prob(self, kernel, covariance):
        method = make(kernel, covariance)
        x = torch.randn(9, 2, generator=generator("x"), dtype=torch.float64).requires_grad_()
        (expected,) = torch.autograd.grad(method.log_prob(x).sum(), x)
        score = method.k.score(x, method.k.moments(method.particles))
        torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-6)

    def test_theta_follows_the_gradient_of_the_free_energy(self, kernel, covariance):
        """The path gradient plus the score term, whose mean is 0, is autograd's gradient on the same draws."""
        method = make(kernel, covariance)
        parameters = list(method.k.parameters())
        eps = noise("theta").normal(6, 5, 2)
        x = drawn(method, method.particles, eps)
        full = torch.autograd.grad(
            (method.log_prob(x) - method.target.log_prob(x)).mean(), parameters, retain_graph=True
        )
        fixed = x.detach()
        explicit = torch.autograd.grad(method.log_prob(fixed).mean(), parameters)
        loss, _ = method.step(noise("theta"), clock())
        path = torch.autograd.grad(loss, parameters)
        for p, f, e in zip(path, full, explicit, strict=True):
            torch.testing.assert_close(p, f - e, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(mixture_backend(torch.zeros(1)) != "fused", reason="no C++ compiler for the fused pass")
@pytest.mark.parametrize(
    "n, M, d", [(1, 1, 2), (130, 9, 1), (64, 100, 2), (200, 33, 3), (77, 20, 7), (70, 12, 65), (97, 700, 4)]
)
def test_the_fused_score_of_a_mixture_equals_the_formula(n, M, d):
    x, centres = (torch.stack([noise(d, s, m).normal(m, d) for s in range(3)]) for m in (n, M))
    x, centres = (4 * x).float(), centres.float()
    x[0, 0, 0] = 60.0  # far from all of them: no term may vanish
    found = torch.func.vmap(unit_mixture_score)(x, centres)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), unit_mixture_score(x.double(), centres.double()), rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("order", ["falling", "rising", "one far tile"])
def test_components_may_come_in_any_order(order):
    """The fused pass meets them in tiles: the nearest one first, last, or where the others' distances overflow."""
    centres = torch.linspace(0.0, 30.0, 1000).unsqueeze(1).expand(-1, 3).clone()
    centres = centres.flip(0) if order == "falling" else centres
    if order == "one far tile":
        centres[:300] = 1e20
    x = torch.tensor([[0.1, 0.0, 0.2], [12.0, 12.1, 11.9], [31.0, 30.0, 30.0]])
    squared = (x.double().unsqueeze(1) - centres.double()).square().sum(-1)
    expected = torch.softmax(-0.5 * squared, -1) @ centres.double() - x.double()
    torch.testing.assert_close(unit_mixture_score(x, centres).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("leading", [(), (2,)])
def test_what_is_mapped_is_another_dimension_than_those_of_the_arguments(leading):
    x, centres = torch.randn(2, *leading, 5, 3), torch.randn(2, 2, 7, 3)
    found = torch.func.vmap(unit_mixture_score)(x, centres)
    for i in range(2):
        torch.testing.assert_close(found[i], unit_mixture_score(x[i], centres[i]))


def test_many_components_far_from_zero_leave_the_rounding_of_a_few():
    """The weighted sum of the centres and that of the weights are of thousands, and their quotient is large."""
    source = noise("many")
    centres, x = (100 + 3 * source.normal(m, 2) for m in (90_000, 20))
    found = unit_mixture_score(x.float(), centres.float()).double()
    expected = unit_mixture_score(x.float().double(), centres.float().double())
    assert float((found - expected).abs().max()) < 5e-4


def test_one_mixture_serves_all_seeds_and_other_precisions_are_refused():
    x, centres = torch.randn(3, 5, 2), torch.randn(4, 2)
    torch.testing.assert_close(unit_mixture_score(x, centres)[2], unit_mixture_score(x[2], centres))
    with pytest.raises(ValueError, match="centres has dtype torch.float64"):
        unit_mixture_score(x, centres.double())
    with pytest.raises(ValueError, match="do not match"):
        unit_mixture_score(x, centres[:, :1])


def test_a_mixture_that_diverged_stays_visible():
    x, centres = torch.randn(3, 5, 2), torch.randn(3, 4, 2)
    x[1, 2, 0], x[1, 3], centres[2, 1, 1] = torch.nan, 1e20, torch.nan  # whose squared distances overflow
    found = unit_mixture_score(x, centres)
    assert found[0].isfinite().all() and found[1, 2:4].isnan().all() and found[2].isnan().any()


@pytest.mark.parametrize("covariance", ["diagonal", "network"])
def test_particles_follow_the_first_variation(covariance):
    """Langevin at temperature 0: the drift is d/dz of E_eps[(log q - log p)(mu(z) + S eps)] with q fixed."""
    method = make("skip", covariance, lr_particles=0.1, temperature=0.0)
    eps = noise("particles").normal(6, 5, 2)
    Z = method.particles.clone().requires_grad_()
    x = drawn(method, Z, eps)
    (drift,) = torch.autograd.grad((method.log_prob(x) - method.target.log_prob(x)).view(6, 5).mean(1).sum(), Z)
    _, new = method.step(noise("particles"), clock())
    scale = drift.square().mean(0).sqrt()
    torch.testing.assert_close(new["particles"], method.particles - 0.1 * drift / scale, rtol=1e-5, atol=1e-5)


def test_langevin_noise_has_the_temperature_of_the_step():
    method = make("skip", temperature=0.5, lr_particles=0.1)
    drift = torch.ones(6, 2, dtype=torch.float64)
    xi = torch.randn(6, 2, dtype=torch.float64)
    moved = method._langevin(drift, xi, clock())["particles"] - method.particles
    torch.testing.assert_close(moved, -0.1 + (2 * 0.5 * 0.1) ** 0.5 * xi, rtol=1e-6, atol=1e-6)


def test_symmetric_exponential_equals_the_eigendecomposition():
    A = torch.randn(22, 22, generator=generator("A"))
    A = A + A.T
    values, vectors = torch.linalg.eigh(A.double())
    expected = vectors @ values.exp().diag() @ vectors.T
    assert float(values.abs().max()) > 8
    torch.testing.assert_close(symmetric_exp(A).double(), expected, rtol=1e-4, atol=1e-4 * float(values.max().exp()))


def test_fits_a_gaussian_with_one_particle_and_full_covariance():
    """One particle makes q a Gaussian, so the optimum is the target itself."""
    torch.manual_seed(0)
    steps = {"lr": 0.02, "lr_particles": 0.02, "decay": 0.1, "decay_every": 200}
    method = PVI(Gaussian(), particles=1, samples=32, hidden=(4,), covariance="full", **steps)
    q = fit([method], [0], 500).member(0, method)
    declared = q.conditional(q.particles)
    torch.testing.assert_close(declared.mean[0].detach(), torch.ones(2), rtol=0, atol=0.1)
    torch.testing.assert_close(
        declared.covariance_matrix[0].detach(), torch.tensor([[1.0, 0.6], [0.6, 1.0]]), rtol=0, atol=0.1
    )


def test_scores_keep_their_precision_where_all_components_are_narrow_and_far_from_zero():
    k = make("lskip", "network").k
    mean = (20 + 0.001 * noise("narrow").normal(9, 2)).float()
    s = (0.01 * (1 + noise("widths").uniform(9, 2))).float()
    x = (20 + 0.01 * noise("x").normal(20, 2)).float()
    exact = (mean.double(), s.double())
    torch.testing.assert_close(k.score(x, (mean, s)).double(), k.score(x.double(), exact), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(k.log_prob(x, (mean, s)).double(), k.log_prob(x.double(), exact), rtol=0, atol=1e-3)


def test_a_constant_mean_has_no_network_for_the_scale():
    with pytest.raises(UserError, match="kernel=const"):
        PVI(Gaussian(), kernel="const", covariance="network")


def test_skip_needs_particles_of_the_dimension_of_x():
    with pytest.raises(UserError, match="dimension 5"):
        PVI(Gaussian(), latent_dim=5)
    assert PVI(Gaussian(), latent_dim=5, kernel="lskip").particles.shape == (100, 5)


def test_the_prior_of_the_particles_pulls_them_by_lambda_z():
    drifts = []
    for temperature in (0.0, 0.3):
        method = make(temperature=temperature)
        method._langevin = lambda drift, xi, clock: drifts.append(drift) or {}
        method.step(noise("prior"), clock())
    torch.testing.assert_close(drifts[1] - drifts[0], 0.3 * method.particles, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step, expected", [(0.0, 4.0), (1.0, 0.7 + 0.3 * 4.0), (3.0, 0.7 + 0.3 * 4.0)])
def test_the_mean_square_of_the_drift_is_remembered(step, expected):
    """All but the first step weight the past by ``smoothing``, as theta's rule does."""
    method = make(smoothing=0.7, lr_particles=0.1, temperature=0.0)
    method.mean_square.fill_(1.0)
    ones = torch.ones(6, 2, dtype=torch.float64)
    new = method._langevin(2 * ones, 0 * ones, clock(step))
    torch.testing.assert_close(new["mean_square"], torch.full((2,), expected, dtype=torch.float64))
    torch.testing.assert_close(new["particles"], method.particles - 0.1 * 2 / expected**0.5)
    assert method.players()[0].optimiser.alpha == 0.7
