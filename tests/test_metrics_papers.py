"""The protocols of the papers against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import linprog
from torch.distributions import Independent, MultivariateNormal, Normal

from bench.metrics import mixture, score_error, sliced, sliced_pot, target_draws, truncated_wasserstein, two_sample
from bench.metrics.base import Fitted
from bench.metrics.pairs import pairs
from bench.noise import DirectNoise
from metric_fakes import Explicit, GaussianTarget, Implicit, SemiImplicit, fitted
from targets.base import Unsupported


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---- truncated Wasserstein


@pytest.mark.parametrize("scale, shift", [((1.0, 1.0), 0.0), ((5.0, 0.2), 3.0), ((0.0, 1.0), -1.0)])
def test_the_assignment_is_the_optimal_plan_of_a_linear_programme(scale: tuple[float, float], shift: float) -> None:
    x, y = normal(7, 2), normal(7, 2, seed=1) * torch.tensor(scale) + shift
    cost = torch.cdist(x, y).square().numpy().ravel()
    rows = [[float(i // 7 == k) for i in range(49)] for k in range(7)]
    columns = [[float(i % 7 == k) for i in range(49)] for k in range(7)]
    plan = linprog(cost, A_eq=rows + columns, b_eq=[1 / 7] * 14)
    assert truncated_wasserstein.wasserstein2_squared(x, y) == pytest.approx(plan.fun)


def test_truncation_keeps_the_open_box() -> None:
    x = torch.tensor([[0.0, 4.9], [5.0, 0.0], [-4.9, -4.9], [0.0, -7.0]])
    assert truncated_wasserstein.inside(x, 5.0).tolist() == [x[0].tolist(), x[2].tolist()]


def test_truncated_wasserstein_of_a_shift_and_of_heavy_tails() -> None:
    metric = truncated_wasserstein.TruncatedW10(n=200, repeats=3)
    near, far = metric(fitted()), metric(fitted(mean=(3.0, 0.0)))
    # W2^2 of a shift is its square; both sets of 200 points carry a bias of about the floor
    assert far.value == pytest.approx(9.0, abs=1.0) and near.value < 3 * near.floor
    narrow = metric(fitted(target=GaussianTarget(sd=(8.0, 8.0))))  # 62 % of p lies inside, all of it is used
    assert narrow.value > 5 and math.isfinite(narrow.floor)


def test_a_box_without_mass_is_said_to_be_one() -> None:
    metric = truncated_wasserstein.TruncatedW5(n=20, repeats=1)
    with pytest.raises(Unsupported, match="lies inside"):
        metric(fitted(target=GaussianTarget(mean=(50.0, 0.0))))
    assert math.isnan(metric(fitted(mean=(50.0, 0.0))).value)
    assert metric.applies(Explicit(GaussianTarget()), GaussianTarget()) is None


def test_draws_that_are_no_numbers_are_not_outside_the_box() -> None:
    q = fitted()
    sample = q.method.sample
    q.method.sample = lambda n, noise: torch.cat((sample(n - 1, noise), torch.full((1, 2), math.nan)))
    assert math.isnan(truncated_wasserstein.TruncatedW5(n=20, repeats=1)(q).value)


def test_edges_are_in_the_protocol() -> None:
    ids = {m().protocol_id() for m in (truncated_wasserstein.TruncatedW5, truncated_wasserstein.TruncatedW8)}
    assert len(ids) == 2 and truncated_wasserstein.TruncatedW5().protocol()["edge"] == 5.0


# ---- sliced Wasserstein with POT's defaults


def test_pots_sliced_distance_of_a_shift() -> None:
    value = sliced_pot.SlicedWassersteinPOT(n=2000, repeats=4)(fitted(mean=(3.0, 0.0)))
    # mean of cos^2 over the circle is 1/2; 400 directions leave 2 % of error
    assert value.value == pytest.approx(3 / math.sqrt(2), rel=0.06)
    assert value.floor < 0.1


# ---- log q, and what it says of draws of p


@pytest.mark.parametrize("way", ["fused", "plain", "double", "general"])
@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("d", [1, 2, 5, 9])
def test_log_q_of_a_mixture_is_the_direct_sum(monkeypatch: pytest.MonkeyPatch, way: str, varied: bool, d: int) -> None:
    monkeypatch.setenv("SIVIBENCH_FUSED", "1" if way == "fused" else "0")
    means, x = normal(3001, d), 2 * normal(151, d, seed=1)
    scale = 0.3 + normal(3001, d, seed=2).abs() if varied else torch.linspace(0.3, 0.7, d).double().expand(3001, d)
    direct = torch.logsumexp(Independent(Normal(means, scale), 1).log_prob(x[:, None, :]), 1) - math.log(3001)
    dtype = torch.float32 if way in ("fused", "plain") else torch.float64
    means, scale = means.to(dtype), scale.to(dtype)
    x = x if way == "fused" else x.to(dtype)  # points of the other precision are converted, not misread
    conditional = Independent(Normal(means, scale), 1)
    if way == "general":
        conditional = MultivariateNormal(means, scale_tril=scale.diag_embed())
    found = mixture.log_mixture_density(conditional, x)
    torch.testing.assert_close(found, direct, rtol=0, atol=2e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize("fused", ["0", "1"])
def test_log_q_far_from_every_component_does_not_underflow(monkeypatch: pytest.MonkeyPatch, fused: str) -> None:
    monkeypatch.setenv("SIVIBENCH_FUSED", fused)
    conditional = Independent(Normal(torch.zeros(3, 2), torch.full((3, 2), 0.01)), 1)
    found = mixture.log_mixture_density(conditional, torch.tensor([[5.0, 0.0]]))
    expected = -0.5 * 500.0**2 - math.log(2 * math.pi * 0.01**2)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_log_q_is_nan_where_a_component_is() -> None:
    means = torch.tensor([[0.0, 0.0], [math.nan, 0.0]])
    assert mixture.log_mixture_density(
        Independent(Normal(means, torch.ones(2, 2), validate_args=False), 1), means[:1]
    ).isnan()


@pytest.mark.parametrize("method", [Explicit, SemiImplicit])
def test_likelihood_of_target_draws_between_gaussians(method: type) -> None:
    """E_p[-log q] = log 2 pi + sum log s + sum (1 + m^2) / (2 s^2), with p standard normal."""
    q = fitted(method, mean=(0.5, 0.0), sd=(1.2, 0.8))
    expected = math.log(2 * math.pi) + math.log(1.2 * 0.8) + 1.25 / (2 * 1.44) + 1 / (2 * 0.64)
    value = target_draws.NLLTargetDraws(n=10_000, latents=10_000)(q)
    entropy = 1 + math.log(2 * math.pi)
    # the standard error over 10,000 draws is .01; the mixture adds a little
    assert value.value == pytest.approx(expected, abs=0.05) and value.floor == pytest.approx(entropy, abs=0.04)
    divergence = target_draws.KLForwardMC(n=10_000, latents=10_000)(q)
    assert divergence.value == pytest.approx(expected - entropy, abs=0.04)
    assert 0 < divergence.floor < 0.03


def test_the_divergence_of_a_q_with_a_density_takes_it_once_and_no_latents() -> None:
    q = fitted(mean=(0.5, 0.0))
    density, rows = q.method.log_prob, []
    q.method.log_prob = lambda x: rows.append(len(x)) or density(x)
    value = target_draws.KLForwardMC(n=5000, latents=3)(q)
    assert sum(rows) == 5000 and value.value == pytest.approx(0.125, abs=5 * value.floor)
    with pytest.raises(Unsupported, match="even"):
        target_draws.KLForwardMC(n=5000, latents=3)(fitted(SemiImplicit))


def test_implicit_families_and_unknown_normalisers_are_left_out() -> None:
    target = GaussianTarget()
    assert "implicit" in str(target_draws.NLLTargetDraws().applies(Implicit(target), target))
    target.log_z = None
    assert "normaliser" in str(target_draws.KLForwardMC().applies(Explicit(target), target))
    assert target_draws.NLLTargetDraws(n=100)(fitted(target=target)).floor is None


# ---- the two-sample test


def test_a_collapsed_sample_is_told_from_p() -> None:
    """Distances of 0 give no bandwidth of 0: they count as the median, or as 1 where that is 0 as well."""
    x, y = normal(40, 2), torch.zeros(40, 2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    assert two_sample.fused_p_value(x, y, 19, 3, generator) == pytest.approx(0.05)
    assert two_sample.fused_p_value(y, y, 19, 3, generator) == 1.0
    assert min(two_sample.bandwidths(torch.tensor([0.0, 0.0, 0.0, 2.0, 3.0, 4.0, 4.0]), 3)) == 1.0


def test_fused_statistic_is_the_double_loop(monkeypatch) -> None:
    monkeypatch.setattr(two_sample, "BLOCK", 4)  # several blocks, the last one short
    z = normal(10, 2)
    kernels = two_sample.Kernels.of(z, 2)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    signs = -torch.ones(10, 1, dtype=torch.float64)
    signs[order[:5]] = 1
    x, y = order[:5].tolist(), order[5:].tolist()
    powers = []
    for k in kernels.between(z, z):
        within = sum(k[i, j] for s in (x, y) for i in s for j in s if i != j) / 20
        across = sum(k[i, j] for i in x for j in y) / 25
        size = sum(k[i, j] ** 2 for i in range(10) for j in range(10) if i != j) ** 0.5
        powers.append((within - 2 * across) * 20**1.5 / size)
    expected = torch.stack(powers).exp().mean().log()
    torch.testing.assert_close(two_sample.fused_statistics(z, signs, kernels)[0], expected)


def test_bandwidths_span_the_quantiles() -> None:
    distances = torch.pdist(normal(60, 2))
    pairs = distances.sort().values
    found = two_sample.bandwidths(distances, 5)
    assert found[0] == pytest.approx(float(pairs[int(0.05 * len(pairs))]) / 2)
    assert found[-1] == pytest.approx(float(pairs[int(0.95 * len(pairs))]) * 2)


def test_looking_at_the_first_permutations_first_decides_as_all_of_them() -> None:
    decided_early = 0
    for i in range(30):
        x, y = normal(30, 2, seed=2 * i), normal(30, 2, seed=2 * i + 1) + 0.2
        full, quick = (
            two_sample.fused_p_value(x, y, 99, 2, torch.Generator().manual_seed(i), level) for level in (1.0, 0.05)
        )
        assert quick == full if quick <= 0.05 else full > 0.05
        decided_early += quick < full
    assert 5 < decided_early < 30


def test_p_values_are_uniform_for_equal_laws_and_small_for_others() -> None:
    generator = torch.Generator().manual_seed(0)
    equal = [
        two_sample.fused_p_value(normal(40, 2, seed=2 * i), normal(40, 2, seed=2 * i + 1), 19, 3, generator)
        for i in range(60)
    ]
    # p takes the values 1/20 ... 1; its mean over 60 tests is .525 with standard error .037
    assert abs(sum(equal) / 60 - 0.525) < 0.13 and min(equal) >= 0.05
    assert two_sample.fused_p_value(normal(40, 2), normal(40, 2, seed=1) + 1.5, 19, 3, generator) == pytest.approx(0.05)


def test_rejection_rates() -> None:
    metric = two_sample.MMDRejectionRate(tests=10, n=100, permutations=19, number=3)
    assert metric(fitted(mean=(2.0, 0.0))).value == 1.0
    equal = metric(fitted())
    assert equal.value <= 0.3 and equal.floor == 0.05  # four or more of ten at level .05 happen once in a thousand


# ---- score error


class WithDensity(SemiImplicit):
    """x | z ~ N(mean + 0.8 sd z, (0.6 sd)^2): grad log q is that of N(mean, sd^2)."""

    def mixing_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        return -0.5 * z.square().sum(-1)


def test_the_long_chain_finds_the_score_of_a_gaussian() -> None:
    method = WithDensity(GaussianTarget(), mean=(1.0, -1.0), sd=(1.0, 2.0))
    noise = DirectNoise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        x, z = pairs(method, 100, noise)
        first, second = score_error.chain_score(method, x, z, noise, burn_in=30, samples=140, leapfrog=5)
        exact = (method.mean - x) / method.sd.square()
        error = float(((first + second) / 2 - exact).square().sum(1).mean())
        spread = float(((first - second) / 2).square().sum(1).mean())
        one = float((score_error.conditional_score(method, x, z) - exact).square().sum(1).mean())
    # the squared error of the average is what its halves say it is, and far below that of one conditional score
    assert error < 4 * spread and error < 0.03 * one


def test_score_error_of_own_and_fallback_estimators() -> None:
    class Perfect(WithDensity):
        def mixture_score(self, x: torch.Tensor, z: torch.Tensor, noise: DirectNoise) -> torch.Tensor:
            return (self.mean - x) / self.sd.square()

    metric = score_error.ScoreError(n=60, inner=20, burn_in=20, samples=100)
    with torch.no_grad():
        perfect, prior = metric(fitted(Perfect)), metric(fitted(WithDensity))
    assert perfect.value < 4 * perfect.floor < prior.value
    assert metric.applies(Explicit(GaussianTarget()), GaussianTarget()) is not None
    assert isinstance(fitted(Perfect), Fitted)


def test_the_floor_of_the_forward_divergence_is_half_the_gap_and_the_standard_error(monkeypatch):
    monkeypatch.setattr(target_draws, "log_q", lambda q, x, latents, name: x.new_full((len(x),), float(name[-1])))
    q = fitted(SemiImplicit)
    value = target_draws.KLForwardMC(n=50, latents=4)(q)
    ratio = target_draws._log_p(q, q.truth(50, "kl draws")) - math.log((1 + math.e) / 2)
    assert value.value == pytest.approx(float(ratio.mean()), rel=1e-5)
    assert value.floor == pytest.approx(math.hypot(0.5, float(ratio.std()) / math.sqrt(50)), rel=1e-5)


def test_every_comparison_of_pots_distance_has_directions_of_its_own(monkeypatch):
    seen = []
    plain = sliced_pot.directions
    monkeypatch.setattr(sliced_pot, "directions", lambda *args: seen.append(plain(*args)) or seen[-1])
    sliced_pot.SlicedWassersteinPOT(n=20, projections=3, repeats=4)(fitted(Explicit))
    assert len({tuple(along.flatten().tolist()) for along in seen}) == 4


DISTANCES = {
    sliced.SlicedW2: (sliced, "sliced_wasserstein"),
    sliced_pot.SlicedWassersteinPOT: (sliced_pot, "sliced_wasserstein"),
    truncated_wasserstein.TruncatedW10: (truncated_wasserstein, "wasserstein2_squared"),
}


@pytest.mark.parametrize("metric", DISTANCES)
def test_every_comparison_has_draws_of_its_own(monkeypatch, metric):
    seen = []
    monkeypatch.setattr(*DISTANCES[metric], lambda *pair: seen.append(pair[:2]) or 0.0)
    metric(n=20, repeats=4)(fitted(Explicit))
    # q and p, then the other half of the same draw of p for the floor
    draws = [x for x, _ in seen] + [truth for _, truth in seen[::2]]
    assert [len(x) for x in draws] == [20] * 12
    assert len({tuple(x.flatten().tolist()) for x in draws}) == 12
