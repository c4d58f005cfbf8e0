"""Batch and match, and Gaussian-mixture VI, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from bench.errors import UserError
from bench.fit.loop import fit
from bench.fit.members import initialise
from bench.noise import DirectNoise, generator
from methods.bam import BaM, match_scores
from methods.base import Clock
from methods.gmmvi import GMMVI
from targets.base import Target
from targets.mixture import GaussianMixture
from toy_gaussian import COVARIANCE, MEAN, Gaussian


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("updates", *parts))


def fitted(cls, target, iterations, **arguments):
    members = initialise(lambda: cls(target, **arguments), [0])
    return fit(members, [0], iterations).member(0, members[0])


def test_the_update_of_batch_and_match_solves_its_riccati_equation():
    """S U S + S = V, and the mean of the paper's eq. 14, in float64."""
    stream = DirectNoise(generator("riccati"), dtype=torch.float64)
    d, n, strength = 5, 8, torch.tensor(3.0, dtype=torch.float64)
    mean, tril = stream.normal(d), (stream.normal(d, d).tril(-1) + torch.eye(d))
    z, g = stream.normal(n, d), stream.normal(n, d)
    new_mean, new_tril = match_scores(mean, tril, z, g, strength)
    share = strength / (1 + strength)
    u = strength * torch.cov(g.T, correction=0) + share * torch.outer(g.mean(0), g.mean(0))
    v = tril @ tril.T + strength * torch.cov(z.T, correction=0)
    v = v + share * torch.outer(mean - z.mean(0), mean - z.mean(0))
    s = new_tril @ new_tril.T
    torch.testing.assert_close(s @ u @ s + s, v)
    torch.testing.assert_close(new_mean, (1 - share) * mean + share * (s @ g.mean(0) + z.mean(0)))


def test_without_any_weight_on_the_data_batch_and_match_stays_where_it_is():
    stream = noise("still")
    mean, tril = stream.normal(3), stream.normal(3, 3).tril(-1) + torch.eye(3)
    kept = match_scores(mean, tril, stream.normal(4, 3), stream.normal(4, 3), torch.tensor(1e-9))
    torch.testing.assert_close(kept, (mean, tril), rtol=1e-4, atol=1e-5)


def test_batch_and_match_is_exact_on_a_gaussian_in_a_few_steps():
    q = fitted(BaM, Gaussian(), 30, batch=16, scale=3.0)
    torch.testing.assert_close(q.mean.detach(), MEAN, atol=2e-3, rtol=0)
    torch.testing.assert_close((q.tril @ q.tril.T).detach(), COVARIANCE, atol=5e-3, rtol=0)


class Broken(Gaussian):
    """A score that is NaN: what an overflow in a target looks like to an update."""

    def score(self, x):
        return super().score(x) * torch.nan


@pytest.mark.parametrize("cls", [BaM, GMMVI])
def test_a_non_finite_score_is_recorded_as_divergence(cls):
    members = initialise(lambda: cls(Broken(), **cls.cheap), [0, 1])
    run = fit(members, [0, 1], 3)
    assert run.diverged_at(0) == run.diverged_at(1) == 0
    assert all(torch.isfinite(p).all() for p in run.member(0, members[0]).parameters())


def two_components() -> GaussianMixture:
    return GaussianMixture([[-3.0, 0.0], [2.0, 1.0]], [[[1.0, 0.5], [0.5, 1.0]], [[0.3, 0.0], [0.0, 2.0]]], [0.3, 0.7])


def kl(q: GMMVI, p: GaussianMixture, n: int = 4000) -> float:
    """KL(p || q) by exact draws of p."""
    with torch.no_grad():
        x = p.sample(n, generator("kl"))
        return float((p.log_prob(x) - q.log_prob(x)).mean())


def test_mixture_recovers_two_components_with_their_weights():
    p = two_components()
    q = fitted(GMMVI, p, 400, components=2, batch=64, spread=2.0)
    order = q.means[:, 0].argsort()
    torch.testing.assert_close(q.log_weights[order].exp().detach(), p.weights, atol=0.02, rtol=0)
    torch.testing.assert_close(q.means[order].detach(), p.means, atol=0.05, rtol=0)
    covariances = (q.trils @ q.trils.mT)[order].detach()
    torch.testing.assert_close(covariances, p.cholesky @ p.cholesky.mT, atol=0.1, rtol=0)
    assert kl(q, p) < 0.003


def test_more_components_than_modes_still_give_the_density():
    assert kl(fitted(GMMVI, two_components(), 400, components=6, batch=32), two_components()) < 0.02


@torch.no_grad()
def test_mixture_density_score_and_draws_agree_with_the_closed_form():
    p = two_components()
    q = GMMVI(p, components=2)
    q.means.copy_(p.means)
    q.trils.copy_(p.cholesky)
    q.log_weights.copy_(p.weights.log())
    x = noise("points").normal(3, 4, 2)
    torch.testing.assert_close(q.log_prob(x), p.log_prob(x))
    torch.testing.assert_close(q._density(x)[1], p.score(x), rtol=1e-4, atol=1e-5)
    draws = q.sample(40_000, noise("draws"))
    assert abs(float((draws[:, 0] > -0.5).float().mean()) - 0.7) < 0.02
    torch.testing.assert_close(draws.mean(0), p.weights @ p.means, atol=0.05, rtol=0)
    # at the optimum h is constant, so no step is taken, whatever the draws
    still = q.natural_step(noise("still"), type("C", (), {"progress": torch.tensor(0.0)})())
    for name, value in still.items():
        torch.testing.assert_close(value, q.get_parameter(name), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_one_full_step_of_a_single_component_follows_the_natural_gradient():
    """For N(0, I) and a Gaussian p: dm = b S grad, precision = I - b (S - P) + b^2 (...)^2 / 2, up to Monte Carlo."""
    q = GMMVI(Gaussian(), components=1, batch=20_000, step=0.1, trust=100.0)
    q.means.zero_()
    clock = type("C", (), {"progress": torch.tensor(0.0)})()
    new = q.natural_step(noise("one"), clock)
    precision = torch.linalg.inv(COVARIANCE)
    hessian = torch.eye(2) - precision
    expected = torch.eye(2) - 0.1 * hessian + 0.005 * hessian @ hessian
    torch.testing.assert_close(new["means"][0], 0.1 * precision @ MEAN, atol=0.005, rtol=0)
    torch.testing.assert_close(torch.linalg.inv(new["trils"][0] @ new["trils"][0].T), expected, atol=0.02, rtol=0)


def test_the_precision_stays_positive_definite_however_large_the_step():
    """I - b H + b^2 H^2 / 2 has eigenvalues (1 + (1 - b h)^2) / 2, whatever the sign of the curvature h."""
    curvatures = torch.tensor([-50.0, 0.3, 1.0, 40.0])
    axes = torch.linalg.qr(noise("axes").normal(4, 4)).Q
    moved = GMMVI._retract((axes * curvatures @ axes.T).unsqueeze(0), torch.tensor([2.0]))[0]
    expected = (1 + (1 - 2 * curvatures).square()) / 2
    torch.testing.assert_close(torch.linalg.eigvalsh(moved), expected.sort().values, rtol=1e-4, atol=0.05)
    assert torch.linalg.eigvalsh(moved).min() > 0.4


@torch.no_grad()
def test_the_trust_region_bounds_the_step_of_a_component_far_away():
    """KL(before || after) per component; the quadratic bound is exact to higher order in the step."""

    class Steep(Target):
        dim = 2

        def log_prob(self, x):
            return -500.0 * (x - 30.0).square().sum(-1)

    q = GMMVI(Steep(), components=4, step=1.0, trust=0.02)
    new = q.natural_step(noise("trust"), type("C", (), {"progress": torch.tensor(0.0)})())
    for k in range(4):
        before, after = (
            torch.distributions.MultivariateNormal(m[k], scale_tril=L[k])
            for m, L in ((q.means, q.trils), (new["means"], new["trils"]))
        )
        moved = float(torch.distributions.kl_divergence(before, after))
        assert 0.01 < moved < 0.04


@pytest.mark.parametrize("cls, arguments", [(BaM, {"batch": 0}), (GMMVI, {"components": 0}), (GMMVI, {"trust": 0.0})])
def test_impossible_hyper_parameters_are_refused(cls, arguments):
    with pytest.raises(UserError, match=next(iter(arguments))):
        cls(Gaussian(), **arguments)


def test_one_draw_has_no_covariance():
    with pytest.raises(UserError, match=r"method\.batch=1 must be at least 2"):
        GMMVI(Gaussian(), batch=1)


def test_log_weights_stay_normalised():
    q = fitted(GMMVI, two_components(), 5, components=5, batch=8)
    assert math.isclose(float(q.log_weights.detach().exp().sum()), 1.0, rel_tol=1e-5)


def test_the_strength_of_a_match_falls_as_in_the_paper(monkeypatch):
    seen = []
    monkeypatch.setattr("methods.bam.match_scores", lambda m, L, z, g, strength: seen.append(float(strength)) or (m, L))
    q = BaM(Gaussian(), batch=8, rate=0.5)
    for step in (0.0, 3.0):
        q.match(noise("strength"), Clock(torch.tensor(step), 100))
    assert seen == pytest.approx([0.5 * 8 * 2, 0.5 * 8 * 2 / 4])


def test_one_step_of_the_mixture_written_out():
    """Whitened gradient and Hessian by Stein's lemma on the same draws, trust region, falling step, weights."""
    p = GaussianMixture([[-3.0, 0.0], [2.0, 1.0]], [[[1.0, 0.5], [0.5, 1.0]], [[0.3, 0.0], [0.0, 2.0]]], [0.3, 0.7])
    K, B = 3, 6
    torch.manual_seed(0)
    q = GMMVI(p, components=K, batch=B, step=0.2, trust=0.05, step_weights=0.5, spread=1.0)
    with torch.no_grad():
        q.trils.add_(0.3 * noise("L").normal(K, 2, 2).tril())
        q.log_weights.copy_(torch.log_softmax(noise("w").normal(K), 0))
    state = Clock(torch.tensor(25.0), 100)
    with torch.no_grad():
        new = q.natural_step(noise("step"), state)
    eps, h, steps = noise("step").normal(K, B, 2), [], []
    for k in range(K):
        m, L = q.means[k].detach(), q.trils[k].detach()
        x = (m + eps[k] @ L.T).requires_grad_()
        ratio = p.log_prob(x) - q.log_prob(x)
        (slope,) = torch.autograd.grad(ratio.sum(), x)
        slope = slope @ L
        gradient = slope.mean(0)
        H = torch.cov(torch.cat([eps[k], slope], 1).T)[:2, 2:]
        H = (H + H.T) / 2
        speed = float(gradient @ gradient + 0.5 * (H @ H).trace())  # KL of a step b is b^2 speed / 2
        steps.append(min(0.15, math.sqrt(2 * 0.05 / speed)))
        b = steps[-1]
        torch.testing.assert_close(new["means"][k], m + b * L @ gradient, rtol=1e-4, atol=1e-5)
        precision = torch.linalg.inv(new["trils"][k] @ new["trils"][k].T)
        expected = torch.linalg.inv(L).T @ (torch.eye(2) - b * H + 0.5 * b * b * H @ H) @ torch.linalg.inv(L)
        torch.testing.assert_close(precision, expected, rtol=1e-3, atol=1e-3)
        h.append(ratio.mean().detach())
    assert min(steps) < 0.15 == max(steps)  # some are bounded by the trust region, some by the step
    h, w = torch.stack(h), q.log_weights.detach()
    move = (0.15 * 0.5 * (h - w.exp() @ h)).clamp(-1, 1)
    torch.testing.assert_close(new["log_weights"], torch.log_softmax(w + move, 0), rtol=1e-4, atol=1e-5)
