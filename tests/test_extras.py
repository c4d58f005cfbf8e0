"""Options of KSIVI, SIVI-SM and SIVI beyond their first experiments: warm starts, preconditioning, regularisers."""

from __future__ import annotations

import math

import pytest
import torch

from bench.errors import UserError
from bench.fit.loop import fit
from bench.noise import DirectNoise, generator
from bench.registry import get
from methods.base import Clock
from methods.ksivi import KSIVI
from methods.parts.precondition import precondition
from methods.parts.stein import stein_discrepancy
from methods.sivi import SIVI
from methods.sivism import SIVISM, SIVISMTrick
from toy_gaussian import Gaussian


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("extras", *parts))


def clock(step: float = 0.0, total: int = 100) -> Clock:
    return Clock(torch.tensor(step), total)


class Regression(Gaussian):
    """A target with a development loss whose minimiser (3, -2) is not the posterior mean."""

    def dev_loss(self, x):
        return (x.mean(0) - torch.tensor([3.0, -2.0])).square().mean()


class TestPreconditioning:
    A = torch.tensor([[2.0, 0.0], [-1.5, 0.3]])

    def discrepancy(self, how, kernel, A):
        """Of the cloud x -> A x, whose Stein vectors are f -> A^-T f."""
        x, y, f, g = (torch.randn(40, 2, generator=generator("pre", i)) for i in range(4))
        points, vectors = torch.cat([x, y]) @ A.T, torch.cat([f, g]) @ torch.linalg.inv(A)
        points, vectors = precondition(points, vectors, points[:40], how)
        return float(stein_discrepancy(points[:40], points[40:], vectors[:40], vectors[40:], kernel=kernel))

    @pytest.mark.parametrize("kernel", ["gaussian", "imq"])
    def test_affine_is_invariant_under_affine_maps(self, kernel):
        plain = self.discrepancy("affine", kernel, torch.eye(2))
        assert self.discrepancy("affine", kernel, self.A) == pytest.approx(plain, rel=1e-3)
        assert self.discrepancy("none", kernel, self.A) != pytest.approx(
            self.discrepancy("none", kernel, torch.eye(2)), rel=0.1
        )

    def test_inverse_covariance_is_the_bilinear_form_of_the_code(self):
        x, f = torch.randn(30, 3, generator=generator("cov")), torch.randn(30, 3, generator=generator("form"))
        points, vectors = precondition(x, f, x, "inverse_covariance")
        expected = f @ torch.linalg.inv(torch.cov(x.T) + 1e-8 * torch.eye(3)) @ f.T
        torch.testing.assert_close(vectors @ vectors.T, expected, rtol=1e-4, atol=1e-4)
        assert points is x

    def test_no_gradient_flows_through_the_covariance(self):
        x = torch.randn(30, 2, generator=generator("cov")).requires_grad_()
        f = torch.randn(30, 2, generator=generator("form"))
        assert not precondition(x, f, x, "inverse_covariance")[1].requires_grad


class TestKSIVI:
    def losses(self, step, **options):
        torch.manual_seed(0)
        method = KSIVI(Gaussian(), batch=20, **options)
        return float(method.loss(noise("ksivi"), clock(step)).detach()), method

    @pytest.mark.parametrize("statistic", ["vanilla", "ustat"])
    def test_loss_is_the_discrepancy_written_out(self, statistic):
        N = 12
        method = KSIVI(Gaussian(), batch=N, noise_dim=2, hidden=(5,), log_var=-1.0, statistic=statistic)
        loss, draws = method.loss(noise("ksivi"), clock(0.0)), noise("ksivi")
        rows = N if statistic == "ustat" else 2 * N
        components, xi = method.conditional(draws.normal(rows, 2)), draws.normal(rows, 2)
        x = (components.mean + components.stddev * xi).detach().requires_grad_()
        log_ratio = method.target.log_prob(x) - components.log_prob(x)
        (f,) = torch.autograd.grad(log_ratio.sum(), x)  # s_p - s_c
        x, y, f, g = x[:N].detach(), x[-N:].detach(), f[:N], f[-N:]
        squares = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
        pairs = torch.exp(-squares * math.log(N + 1) / squares.median()) * (f @ g.T)
        if statistic == "ustat":
            pairs = pairs.fill_diagonal_(0.0) * N / (N - 1)
        torch.testing.assert_close(loss, pairs.mean(), rtol=1e-4, atol=1e-5)

    def test_regulariser_adds_the_energy_until_its_end(self):
        plain, method = self.losses(5.0)
        with torch.no_grad():
            x, _ = method.q.draw(40, noise("ksivi"))
            energy = float(method.target.log_prob(x[:20]).mean())
        assert self.losses(5.0, regulariser=0.5)[0] == pytest.approx(plain - 0.5 * energy, rel=1e-5)
        assert self.losses(5.0, regulariser=0.5, regulariser_until=6)[0] == pytest.approx(
            plain - 0.5 * energy, rel=1e-5
        )
        assert self.losses(6.0, regulariser=0.5, regulariser_until=6)[0] == pytest.approx(plain, rel=1e-5)

    def test_conditional_variance_declares_the_density_it_draws_from(self):
        method = KSIVI(Gaussian(), variance="conditional", noise_dim=2, hidden=(5,))
        x, u = method.q.draw(6, noise("sigma"))
        components = method.conditional(noise("sigma").normal(6, 2))
        assert components.base_dist.scale.std(0).min() > 0
        x = x.detach().requires_grad_()
        (score,) = torch.autograd.grad(components.log_prob(x).sum(), x)
        torch.testing.assert_close(-score, u, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("options", [{"precondition": "affine"}, {"variance": "conditional", "regulariser": 0.1}])
    def test_options_trace(self, options):
        run = fit([KSIVI(Gaussian(), batch=20, hidden=(4,), clip=1.0, **options)], [0], 2)
        assert run.diverged_at(0) is None

    def test_a_runaway_conditional_variance_is_recorded_as_divergence(self):
        members = [KSIVI(Gaussian(), batch=20, hidden=(4,), variance="conditional", lr=1e4) for _ in range(2)]
        run = fit(members, [0, 1], 40)
        assert run.diverged_at(0) is not None and run.diverged_at(1) is not None
        assert all(torch.isfinite(p).all() for p in run.member(0, members[0]).parameters())

    def test_average_starts_where_the_warm_start_ends(self):
        torch.manual_seed(0)
        method = KSIVI(Regression(), batch=20, warm_start=250, warm_lr=0.05, ema=0.999, lr=1e-9)
        run = fit([method], [0], 252)
        state = run.state
        torch.testing.assert_close(state["ema/q"], state["theta/q"], rtol=0, atol=1e-5)
        mean = run.member(0, method).sample(4000, noise("ema")).mean(0)
        torch.testing.assert_close(mean.detach(), torch.tensor([3.0, -2.0]), rtol=0, atol=0.3)


class TestWarmStart:
    @pytest.mark.parametrize("cls", [KSIVI, SIVISM, SIVI])
    def test_needs_a_development_loss(self, cls):
        with pytest.raises(UserError, match="warm_start=3"):
            cls(Gaussian(), warm_start=3).players()

    @pytest.mark.parametrize("cls", [KSIVI, SIVI])
    def test_main_loss_rests_until_then(self, cls):
        players = cls(Regression(), warm_start=3).players()
        assert sorted((p.start, p.until) for p in players) == [(0, 3), (3, None)]
        assert next(p for p in players if p.name == "q").start == 3

    def test_critic_moves_alone_between_the_warm_start_and_the_game(self):
        method = SIVISM(Regression(), batch=20, warm_start=3, critic_warm=4)
        windows = {p.name: (p.start, p.until) for p in method.players()}
        assert windows == {"warm": (0, 3), "critic_warm": (3, 7), "q": (7, None), "critic": (7, None)}
        states = [fit([method], [0], n).state for n in (3, 7)]
        assert torch.equal(states[0]["theta/q"], states[1]["theta/q"])
        assert not torch.equal(states[0]["theta/critic"], states[1]["theta/critic"])

    def test_sivi_moves_to_the_development_optimum_first(self):
        torch.manual_seed(0)
        method = SIVI(Regression(), outer=20, auxiliary=5, warm_start=200, warm_lr=0.05, learn_var=True)
        mean = fit([method], [0], 200).member(0, method).sample(4000, noise("sivi")).mean(0)
        torch.testing.assert_close(mean.detach(), torch.tensor([3.0, -2.0]), rtol=0, atol=0.3)


class TestTrick:
    def test_options_of_the_parent_are_listed_and_passed_on(self):
        parameters = get("method", "sivism_trick").parameters
        assert {"batch", "lr_critic", "trick_rate", "optimiser"} <= set(parameters)
        assert parameters["critic"].default == (128, 128)
        method = SIVISMTrick(Gaussian(), critic=(7,), trick_rate=1.5, optimiser="rmsprop")
        assert method.critic[0].out_features == 7
        assert {type(p.optimiser).__name__ for p in method.players()} == {"RMSprop"}

    @pytest.mark.parametrize("step, exponent", [(0.0, 0), (9.0, 1), (26.0, 2)])
    def test_score_weight_decays_per_epoch(self, step, exponent):
        method = SIVISMTrick(Gaussian(), trick_rate=1.5, trick_every=9)
        x, score = torch.randn(2, 5, 2, generator=generator("trick"))
        weight = (method.f(x, score, clock(step)) - method.critic(x)) / score
        torch.testing.assert_close(weight, torch.full((5, 2), 1.5**-exponent), rtol=1e-4, atol=1e-4)

    def test_rate_must_be_positive(self):
        with pytest.raises(UserError, match="trick_rate"):
            SIVISMTrick(Gaussian(), trick_rate=0.0)


@pytest.mark.parametrize("options", [{"clip": -1.0}, {"ema": 2.0}, {"regulariser": -1.0}, {"warm_start": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        KSIVI(Gaussian(), **options)


def test_one_draw_makes_no_pair():
    with pytest.raises(UserError, match=r"(?s)method\.batch=1.*method\.statistic=vanilla") as caught:
        KSIVI(Gaussian(), statistic="ustat", batch=1)
    assert "method.statistic=ustat" in str(caught.value)
    KSIVI(Gaussian(), statistic="ustat", batch=3)
    KSIVI(Gaussian(), statistic="vanilla", batch=1)


@pytest.mark.parametrize("how", ["inverse_covariance", "affine"])
def test_a_singular_covariance_is_refused(how):
    """Gaussian has two dimensions."""
    with pytest.raises(UserError, match=rf"(?s)method\.precondition={how}.*method\.batch=2.*method\.batch=3 or more"):
        KSIVI(Gaussian(), precondition=how, batch=2)
    KSIVI(Gaussian(), precondition=how, batch=3)
    KSIVI(Gaussian(), precondition="none", batch=2)


def test_sigma_of_the_prior_family_is_unchanged():
    """The global-variance family still starts at the declared variance."""
    assert KSIVI(Gaussian(), log_var=math.log(0.25)).q.sigma.tolist() == pytest.approx([0.5, 0.5])


def test_sivi_bound_in_many_dimensions_is_the_mixture_density():
    """Beyond ``PAIRWISE_DIM`` the distances come from products."""

    class Wide(Gaussian):
        dim = 70

    torch.manual_seed(0)
    method = SIVI(Wide(), noise_dim=2, hidden=(5,), log_var=-1.0)
    x, log_q = method.bound(3, 4, noise("wide"))
    z = noise("wide").normal(7, 2)
    for j in range(3):
        components = method.conditional(torch.cat([z[j : j + 1], z[3:]])).log_prob(x[j])
        torch.testing.assert_close(log_q[j], torch.logsumexp(components, 0) - math.log(5), rtol=1e-4, atol=1e-3)


def loss_of(step, **options):
    torch.manual_seed(0)
    return float(KSIVI(Gaussian(), batch=20, **options).loss(noise("ksivi"), clock(step)).detach())


def test_the_regulariser_is_annealed_and_its_end_counts_from_the_end_of_the_warm_start():
    torch.manual_seed(0)
    method = KSIVI(Gaussian(), batch=20)
    with torch.no_grad():
        energy = float(method.target.log_prob(method.q.draw(40, noise("ksivi"))[0][:20]).mean())
    annealed = {"anneal": 1.0, "regulariser": 0.5}
    assert loss_of(5.0, **annealed) == pytest.approx(loss_of(5.0, anneal=1.0) - 0.5 * 0.16 * energy, rel=1e-4)
    ends = {"regulariser": 0.5, "regulariser_until": 6, "warm_start": 4}
    assert loss_of(9.0, **ends) == pytest.approx(loss_of(9.0) - 0.5 * energy, rel=1e-5)
    assert loss_of(10.0, **ends) == pytest.approx(loss_of(10.0), rel=1e-5)


def test_the_covariance_of_the_preconditioner_is_that_of_the_first_batch():
    N, method = 12, KSIVI(Gaussian(), batch=12, precondition="affine")
    x, u = method.q.draw(2 * N, noise("pre"))
    y, g = precondition(x, method.target.score(x) + u, x[:N], "affine")
    expected = stein_discrepancy(y[:N], y[N:], g[:N], g[N:])
    torch.testing.assert_close(method.loss(noise("pre"), clock()), expected)


def test_epochs_of_the_trick_count_from_the_start_of_the_game():
    method = SIVISMTrick(Gaussian(), trick_rate=1.5, trick_every=9, warm_start=4, critic_warm=5)
    x, score = torch.randn(2, 5, 2, generator=generator("trick"))
    for step, exponent in ((3.0, 0), (17.0, 0), (18.0, 1)):
        weight = (method.f(x, score, clock(step)) - method.critic(x)) / score
        torch.testing.assert_close(weight, torch.full((5, 2), 1.5**-exponent), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variance", ["global", "conditional"])
def test_log_variances_are_clamped_below(variance):
    method = KSIVI(Gaussian(), log_var=-9.0, log_var_min=-6.0, variance=variance)
    torch.testing.assert_close(method.q.conditional(torch.zeros(4, 3)).stddev, torch.full((4, 2), math.exp(-3.0)))
