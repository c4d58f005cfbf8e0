"""BSIVI, AISIVI and the reverse model: estimates of grad log q against the closed form of a uniform mixing law."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal

import methods.aisivi
import methods.bsivi
from bench.errors import UserError
from bench.fit.loop import fit
from bench.fit.members import initialise
from bench.fit.tape import Replay
from bench.noise import DirectNoise, generator
from bench.speed.plain import baselines
from largest import Largest
from methods.aisivi import AISIVI
from methods.base import Clock
from methods.bsivi import BSIVI
from methods.native.seedwise import seedwise
from methods.parts.conditional_flow import ConditionalRealNVP
from methods.parts.uniform_mixing import gaussian_mixture_score, merge, pieces
from methods.parts.unit_mixture import mixture_backend
from toy_gaussian import Gaussian

WIDTH = torch.tensor([2.0, 1.5])
LEFT = torch.tensor([-1.0, 0.3])
NORMAL = Normal(0.0, 1.0)


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("path", *parts))


def box(cls, **arguments):
    """A method whose mean is left + width * z: q is a uniform law blurred by N(0, sigma^2), per coordinate."""
    method = cls(Gaussian(), hidden=(), alpha=0.3, **arguments)
    with torch.no_grad():
        method.q.mean[0].weight.copy_(WIDTH.diag())
        method.q.mean[0].bias.copy_(LEFT)
    return method


def shaken(method):
    """Its parameters moved at random: a flow starts as the identity."""
    with torch.no_grad():
        for i, parameter in enumerate(method.parameters()):
            parameter.add_(0.2 * noise("shaken", i).normal(*parameter.shape))
    return method


def exact(x, sigma):
    """log q(x) and its gradient for ``box``."""
    low, high = (x - LEFT) / sigma, (x - LEFT - WIDTH) / sigma
    mass = NORMAL.cdf(low) - NORMAL.cdf(high)
    density = NORMAL.log_prob(low).exp() - NORMAL.log_prob(high).exp()
    return (mass / WIDTH).log().sum(-1), density / (sigma * mass)


def draws(method, n, *parts):
    stream = noise("draws", *parts)
    z = method.q.mixing(n, stream)
    return method.q(z, stream.normal(n, 2))[0], z


@torch.no_grad()
def root_mean_square_error(method, *parts):
    x, z = draws(method, method.batch, *parts)
    error = method.mixture_score(x, z, noise("inner", *parts)) - exact(x, method.q.sigma)[1]
    return float(error.square().mean().sqrt())


def test_score_of_a_weighted_mixture_equals_autograd():
    stream = noise("mixture")
    x, sigma = stream.normal(5, 3), torch.tensor([0.5, 1.0, 2.0])
    for means in (stream.normal(7, 3), stream.normal(7, 5, 3)):
        log_weights = stream.normal(7, 5)

        def log_sum(x, means=means, log_weights=log_weights):
            apart = x - (means.unsqueeze(1) if means.dim() == 2 else means)
            return torch.logsumexp(log_weights - 0.5 * (apart / sigma).square().sum(-1), 0)

        value, score = gaussian_mixture_score(x, means, sigma, log_weights)
        torch.testing.assert_close(value, log_sum(x))
        torch.testing.assert_close(score, torch.func.grad(lambda x: log_sum(x).sum())(x), rtol=1e-4, atol=1e-5)  # noqa: B023


def test_non_finite_weights_count_as_zero_and_a_part_without_weights_changes_nothing():
    stream = noise("weights")
    x, means, sigma = stream.normal(4, 2), stream.normal(6, 2), torch.ones(2)
    good = stream.normal(6, 4)
    bad = good.clone()
    bad[3], bad[4], bad[5] = torch.nan, -torch.inf, torch.inf
    expected = gaussian_mixture_score(x, means[:3], sigma, good[:3])
    found = gaussian_mixture_score(x, means, sigma, bad)
    nothing = gaussian_mixture_score(x, means, sigma, torch.full((6, 4), torch.nan))
    for value, other, merged in zip(found, expected, merge(nothing, found), strict=True):
        torch.testing.assert_close(value, other)
        torch.testing.assert_close(merged, other)


def test_pieces_cover_the_whole():
    assert pieces(10, 4) == [4, 4, 2] and pieces(8, 4) == [4, 4] and pieces(3, 0) == [1, 1, 1] and pieces(0, 5) == []


def test_bsivi_error_falls_like_one_over_root_k():
    """The standard deviation of a self-normalised mean of k draws; 64-fold k: 8-fold smaller."""
    errors = [
        sum(root_mean_square_error(box(BSIVI, batch=16, inner=k), k, repeat) for repeat in range(30)) / 30
        for k in (64, 4096)
    ]
    assert 5 < errors[0] / errors[1] < 13


def test_bsivi_mean_error_shrinks_with_k():
    """Bias: with fresh components alone the log of a mean is biased, and its gradient with it, by O(1 / k)."""

    def bias(k: int) -> float:
        method = box(BSIVI, batch=1, inner=k)
        x = torch.tensor([[1.3, 0.1]])  # near an edge of the box, where the relative variance changes fastest
        with torch.no_grad():
            log_q, score = exact(x, method.q.sigma)
            n = 40_000
            means = method.q.mean(method.q.mixing(n * k, noise("bias", k))).view(k, n, 2)
            estimates = gaussian_mixture_score(x.expand(n, 2), means, method.q.sigma, torch.zeros(1, 1))[1]
        return float((estimates.mean(0) - score).norm())

    # standard error of the mean of 40 000 estimates: about 0.01
    small, large = bias(2), bias(32)
    assert small > 0.2 and large < 0.15 * small + 0.03


class ExactReverse(AISIVI):
    """AISIVI with tau(z | x) = q(z | x), a normal law cut to the unit cube."""

    def propose(self, eps, x):
        centre, sd = (x - LEFT) / WIDTH, self.q.sigma / WIDTH
        low, high = NORMAL.cdf(-centre / sd), NORMAL.cdf((1 - centre) / sd)
        z = centre + sd * NORMAL.icdf(low + NORMAL.cdf(eps) * (high - low))
        log_tau = NORMAL.log_prob((z - centre) / sd) - (sd * (high - low)).log()
        return z, log_tau.sum(-1)


def test_with_the_exact_reverse_model_every_weight_is_q_and_the_score_is_exact():
    method = box(ExactReverse, batch=64, inner=1, noise_dim=2)
    x, _ = draws(method, 64)
    with torch.no_grad():
        z, log_tau = method.propose(noise("exact").normal(3, *x.shape), x)
        log_joint = method.q.conditional(z).log_prob(x)
        # q(z) q(x | z) / tau(z | x) = q(x), whatever z was drawn
        torch.testing.assert_close(log_joint - log_tau, exact(x, method.q.sigma)[0].expand(3, -1), rtol=0, atol=2e-3)
    errors = [root_mean_square_error(box(ExactReverse, batch=64, inner=k), k) for k in (100, 10_000)]
    assert 7 < errors[0] / errors[1] < 14 and errors[1] < 0.05


def test_any_reverse_model_is_consistent_and_a_fitted_one_is_better():
    arguments = {"batch": 64, "inner": 64, "layers": 2, "pretrain": 150, "decay_every": 10**6}
    members = initialise(lambda: box(AISIVI, **arguments), [0])
    (poor,) = members
    with torch.no_grad():
        # off-centre, but wider than the standard normal: its tails behind the sigmoid would be too thin to check a rate
        poor.flow.couplings[1].shift.add_(0.5)
        poor.flow.couplings[1].log_scale.add_(0.7)
    error = root_mean_square_error(poor, "tau")
    poor.inner = 64 * 100
    assert root_mean_square_error(poor, "many") < 0.2 * error
    poor.inner = 64
    run = fit(members, [0], 150)
    good = run.member(0, members[0])
    assert root_mean_square_error(good, "tau") < 0.7 * error
    # q does not move while tau is pretrained
    torch.testing.assert_close(good.q.mean[0].bias.detach(), LEFT)


@pytest.mark.parametrize("cls, module, limit", [(BSIVI, methods.bsivi, "PAIRS"), (AISIVI, methods.aisivi, "ROWS")])
def test_pieces_of_any_size_give_the_same_score(cls, module, limit, monkeypatch):
    monkeypatch.setenv("SIVIBENCH_FUSED", "0")
    method = box(cls, batch=8, inner=50)
    flat = {kind: torch.rand(2000, generator=generator(kind)) for kind in ("normal", "uniform")}
    x, z = draws(method, 8)
    found = []
    for size in (10**6, 8 * 7, 1):
        monkeypatch.setattr(module, limit, size)
        with torch.no_grad():
            found.append(method.mixture_score(x, z, Replay(flat["normal"], flat["uniform"])))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(mixture_backend(torch.zeros(1)) != "fused", reason="no C++ compiler for the fused pass")
@torch.no_grad()
def test_the_fused_score_of_bsivi_is_that_of_torch(monkeypatch):
    """From the same draws; which implementation was taken is in the record."""
    method = box(BSIVI, batch=8, inner=3000)
    x, z = draws(method, 8)
    monkeypatch.setattr(methods.bsivi, "PAIRS", 8 * 1000)
    assert method.operations() == {"mixture_score": "fused"}
    found = method.mixture_score(x, z, noise("inner"))
    monkeypatch.setenv("SIVIBENCH_FUSED", "0")
    torch.testing.assert_close(found, method.mixture_score(x, z, noise("inner")), rtol=1e-4, atol=1e-4)
    assert method.operations() == {"mixture_score": "torch"}


@torch.no_grad()
def test_more_inner_draws_need_no_larger_tensors():
    """Of AISIVI: a layer of 128.  A chunk of it has 2^19 numbers; for 128 x 2048 draws it would have 2^25."""
    method = AISIVI(Gaussian())
    x, eps = noise("x").normal(128, 2), noise("eps").normal(2048, 128, 2)
    with Largest() as largest:
        method.estimate(x, eps)
    assert largest.numel <= methods.aisivi.ROWS * 128


@pytest.mark.parametrize("fused", ["0", ""])
@torch.no_grad()
def test_more_components_need_no_larger_tensors(fused, monkeypatch):
    """Of BSIVI: a matrix of pairs, and of 128 activations for as many components."""
    monkeypatch.setenv("SIVIBENCH_FUSED", fused)
    method = BSIVI(Gaussian(), inner=20_000)
    x, z = draws(method, 128)
    with Largest() as largest:
        method.mixture_score(x, z, noise("inner"))
    assert largest.numel <= methods.bsivi.PAIRS


@pytest.mark.parametrize("make", [lambda: AISIVI(Gaussian(), **AISIVI.cheap), lambda: box(BSIVI, batch=8, inner=40)])
def test_gradient_equals_the_plain_autograd_version(make):
    method = shaken(make())
    clock = Clock(torch.zeros(()), 10)
    for player in method.players():
        owned = [p for n, p in method.named_parameters() if n.startswith(player.owns)]
        ours = player.loss(noise("plain"), clock)
        theirs = baselines()[method.registered_name].obj(method, player, noise("plain"), clock)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        for a, b in zip(torch.autograd.grad(ours, owned), torch.autograd.grad(theirs, owned), strict=True):
            assert (a - b).norm() <= 2e-4 * b.norm() + 1e-7


SHAPES = [
    {"inner": 1},
    {"inner": 500, "noise_dim": 3},  # two strips and an odd number of coordinates
    {"noise_dim": 1, "hidden": ()},
    {"noise_dim": 8, "layers": 5, "hidden": (17, 5, 9)},
]


@pytest.mark.skipif(AISIVI(Gaussian()).backend() != "fused", reason="no C++ compiler")
@pytest.mark.parametrize("options", SHAPES, ids=lambda o: "-".join(o))
def test_fused_estimate_equals_the_one_in_torch(options):
    method = shaken(AISIVI(Gaussian(), **AISIVI.cheap | options))
    k, source = method.q.noise_dim, noise("fused")
    x, eps = source.normal(7, 2), source.normal(method.inner, 7, k)
    eps[0, 1] = math.inf  # of no weight
    x[6, 1] = math.nan
    with torch.no_grad():
        fused, dense = method.fused(x, eps), method.double().estimate(x.double(), eps.double())
    assert fused[6].isnan().all() and dense[6].isnan().all()
    if method.inner == 1:  # the second point is left without a weight
        assert fused[1].isnan().all()
        fused, dense = fused[[0, 2, 3]], dense[[0, 2, 3]]
    assert (fused[:6] - dense[:6]).abs().max() < 1e-5 * dense[:6].abs().max()


def test_each_seed_sees_its_own_parameters():
    members = initialise(lambda: AISIVI(Gaussian(), **AISIVI.cheap | {"inner": 300}), [0, 1])  # more than one piece
    members = [shaken(member) for member in members]
    x, eps = noise("x").normal(2, 32, 2), noise("eps").normal(2, 300, 32, 2)
    stacked = {n: torch.stack([p, dict(members[1].named_parameters())[n]]) for n, p in members[0].named_parameters()}

    class Call(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.method = members[0]

        def forward(self, x, eps):
            return seedwise(self.method, "estimate", x, eps)

    def one(parameters, x, eps):
        return torch.func.functional_call(Call(), {f"method.{n}": p for n, p in parameters.items()}, (x, eps))

    with torch.no_grad():
        together = torch.vmap(one)(stacked, x, eps)
        alone = torch.stack([m.estimate(x[i], eps[i]) for i, m in enumerate(members)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("dim", [1, 2])
def test_reverse_model_integrates_to_one_and_knows_the_density_of_its_draws(dim):
    torch.manual_seed(0)
    flow = ConditionalRealNVP(dim, 3, layers=4)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        x = torch.randn(2, 3)
        z, log_tau = flow.push(torch.randn(5, 2, dim), x)
        torch.testing.assert_close(flow.log_prob(z, x), log_tau, rtol=1e-3, atol=1e-3)
        axis = (torch.arange(400) + 0.5) / 400
        grid = torch.cartesian_prod(*[axis] * dim).view(-1, 1, dim)
        mass = flow.log_prob(grid.expand(-1, 2, -1), x).exp().mean(0)
    torch.testing.assert_close(mass, torch.ones(2), atol=0.01, rtol=0)


def test_mixing_law_and_conditional_describe_the_draws():
    method = box(BSIVI)
    z, xi = method.mixing(50, noise("z")), noise("xi").normal(50, 2)
    x, u = method.q(z, xi)
    score = torch.func.grad(lambda x: method.conditional(z).log_prob(x).sum())(x)
    torch.testing.assert_close(score, -u, rtol=1e-4, atol=1e-4)
    outside = torch.cat([z[:2], z[:1] + 1.5, z[:1] - 1.5])
    assert method.mixing_log_prob(outside).tolist() == [0.0, 0.0, -math.inf, -math.inf]


def test_a_runaway_reverse_model_is_recorded_as_divergence():
    members = initialise(lambda: AISIVI(Gaussian(), **AISIVI.cheap | {"lr_flow": 1e9}), [0, 1])
    run = fit(members, [0, 1], 40)
    assert run.diverged_at(0) is not None and run.diverged_at(1) is not None
    assert all(torch.isfinite(p).all() for p in run.member(0, members[0]).parameters())


@pytest.mark.parametrize("arguments", [{"inner": 0}, {"alpha": -1.0}, {"pretrain": -3}, {"lr_flow": 0.0}])
def test_impossible_hyper_parameters_are_refused(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(UserError, match=rf"method\.{name}={value} must"):
        AISIVI(Gaussian(), **arguments)
