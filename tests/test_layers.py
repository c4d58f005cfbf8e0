"""Bridges and layered methods: HSIVI by bounds and by games, layered KSIVI."""

from __future__ import annotations

import math

import pytest
import torch

from bench.config import compose
from bench.errors import UserError
from bench.fit.group import fit_group
from bench.fit.loop import fit
from bench.fit.program import Program
from bench.noise import DirectNoise, generator
from bench.report.table import build
from bench.store import Store
from methods.base import Clock
from methods.hksivi import HKSIVI
from methods.hsivi import HSIVILB, HSIVISM
from methods.ksivi import KSIVI
from targets.bridge import GeometricBridge, geometric_ladder
from toy_gaussian import COVARIANCE, MEAN, Gaussian

METHODS = [HSIVILB, HSIVISM, HKSIVI]


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("layers", *parts))


def clock() -> Clock:
    return Clock(torch.zeros(()), 100)


class TestBridge:
    x = torch.randn(5, 2, generator=generator("bridge"))

    def test_score_is_the_gradient_of_log_prob(self):
        p = GeometricBridge(Gaussian(), 0.3, base_sd=1.7)
        x = self.x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(p.log_prob(x).sum(), x)
        torch.testing.assert_close(p.score(self.x), expected)

    def test_ends_at_the_base_and_at_the_target(self):
        base = torch.distributions.Normal(0.0, 1.7)
        start, end = (GeometricBridge(Gaussian(), weight, base_sd=1.7) for weight in (0.0, 1.0))
        torch.testing.assert_close(start.log_prob(self.x), base.log_prob(self.x).sum(-1))
        torch.testing.assert_close(end.log_prob(self.x), Gaussian().log_prob(self.x))

    def test_every_target_with_a_score_has_a_ladder_that_ends_with_itself(self):
        target = Gaussian()
        assert "bridge" in target.provides
        *rungs, last = target.bridge(4, 2.0, "quadratic")
        assert last is target
        assert [rung.weight for rung in rungs] == [1 / 16, 4 / 16, 9 / 16]

    @pytest.mark.parametrize("arguments", [(0,), (2, -1.0), (2, 1.0, "cubic")])
    def test_impossible_ladders_are_refused(self, arguments):
        with pytest.raises(UserError):
            geometric_ladder(Gaussian(), *arguments)


def linear(cls, **options):
    """Two layers without hidden units, so every marginal is Gaussian; with the covariance of x_1 and x_0."""
    torch.manual_seed(1)
    method = cls(Gaussian(), layers=2, hidden=(), log_var=math.log(0.3), base_sd=1.3, **options)
    mean, covariance, marginals = torch.zeros(2), 1.3**2 * torch.eye(2), []
    for layer in method.layers:
        weight = torch.eye(2) + layer.mean.f[0].weight.detach()
        mean = weight @ mean + layer.mean.f[0].bias.detach()
        covariance = weight @ covariance @ weight.T + 0.3 * torch.eye(2)
        marginals.append((mean, covariance))
    return method, marginals


def bridge_gaussian(weight: float, base_sd: float):
    """Mean and precision of the geometric bridge between N(0, base_sd^2 I) and the test target."""
    precision = weight * torch.linalg.inv(COVARIANCE) + (1 - weight) / base_sd**2 * torch.eye(2)
    return torch.linalg.solve(precision, weight * torch.linalg.inv(COVARIANCE) @ MEAN), precision


class TestLayers:
    def test_sampling_goes_down_all_layers(self):
        method, marginals = linear(HSIVISM)
        x1, x0 = method.mixing(40_000, noise("x1")), method.sample(40_000, noise("x0"))
        for x, (mean, covariance) in zip((x1, x0), marginals, strict=True):
            # four standard errors of entries of size ~3
            torch.testing.assert_close(x.mean(0).detach(), mean, rtol=0, atol=0.05)
            torch.testing.assert_close(torch.cov(x.T).detach(), covariance, rtol=0, atol=0.1)

    def test_conditional_is_the_last_layer(self):
        method, _ = linear(HSIVISM)
        z = torch.randn(4, 2, generator=generator("z"))
        declared = method.conditional(z)
        x, u = method.layers[-1](z, torch.randn(4, 2, generator=generator("xi")))
        x = x.detach().requires_grad_()
        (score,) = torch.autograd.grad(declared.log_prob(x).sum(), x)
        torch.testing.assert_close(-score, u)

    @pytest.mark.parametrize("cls", METHODS)
    def test_no_gradient_reaches_the_layers_above(self, cls):
        method, _ = linear(cls, batch=20)
        method.objective(1, noise("stop"), clock()).backward()
        assert all(p.grad is None for p in method.layers[0].parameters())
        assert all(p.grad is not None for p in method.layers[1].parameters())

    @pytest.mark.parametrize("cls", METHODS)
    def test_joint_is_the_sum_of_the_layers(self, cls):
        torch.manual_seed(0)
        method = cls(Gaussian(), layers=3, batch=20, hidden=(4,))
        parts = sum(method.objective(i, noise("sum"), clock()) for i in range(3))
        torch.testing.assert_close(method.objective(None, noise("sum"), clock()), parts)

    @pytest.mark.parametrize("cls", METHODS)
    def test_sequential_equals_joint_for_one_layer(self, cls):
        states = []
        for training in ("joint", "sequential"):
            torch.manual_seed(0)
            method = cls(Gaussian(), layers=1, batch=20, hidden=(4,), training=training)
            program = Program(method, 10)
            state = program.initial_state([method])
            draws = program.draws_per_iteration
            tape = torch.randn(1, 1, draws.normals, generator=generator("tape")), torch.zeros(1, 1, draws.uniforms)
            for _ in range(3):
                state = program.iteration(state, *tape)
            states.append({k.replace(".0", ""): v for k, v in state.items() if k.startswith("theta")})
        assert states[0].keys() == states[1].keys()
        for key, value in states[0].items():
            assert torch.equal(value, states[1][key])

    def test_sequential_windows_follow_each_other(self):
        method = HSIVISM(Gaussian(), layers=3, training="sequential", stage=7)
        windows = {p.name: (p.start, p.until) for p in method.players()}
        assert windows == {
            **{f"{owner}.{i}": (7 * i, 7 * i + 7) for owner in ("layers", "critics") for i in (0, 1)},
            **{f"{owner}.2": (14, None) for owner in ("layers", "critics")},
        }


class TestHSIVI:
    @pytest.mark.parametrize("i", [0, 1])
    def test_best_critic_of_a_layer_gives_its_fisher_divergence(self, i):
        """With f = s_{p_t} - s_{q_t} of the Gaussian marginal, the game's value is E|f|^2 and f is stationary."""
        method, marginals = linear(HSIVISM, batch=100_000, critic=(3,))
        mean, covariance = marginals[i]
        p_mean, p_precision = bridge_gaussian((i + 1) / 2, 1.3)
        q_precision = torch.linalg.inv(covariance)
        slope, constant = q_precision - p_precision, p_precision @ p_mean - q_precision @ mean
        critic = torch.nn.Linear(2, 2)
        with torch.no_grad():
            critic.weight.copy_(slope)
            critic.bias.copy_(constant)
        method.critics[i] = critic
        value = method.objective(i, noise("game"), clock())
        at_mean = slope @ mean + constant
        divergence = torch.trace(slope @ covariance @ slope.T) + at_mean @ at_mean
        assert float(value.detach()) == pytest.approx(float(divergence), rel=0.05)
        value.backward()
        # the gradient is a mean of 100,000 terms of a few units
        assert max(float(p.grad.abs().max()) for p in critic.parameters()) < 0.1

    def test_surrogate_bound_of_a_layer_approaches_the_exact_one(self):
        """With many auxiliary draws layer 1 minimises KL(q(x_0) | p) up to the target's constant."""
        method, marginals = linear(HSIVILB, batch=2000, auxiliary=3000)
        mean, covariance = marginals[1]
        precision = torch.linalg.inv(COVARIANCE)
        energy = -0.5 * (torch.trace(precision @ covariance) + (mean - MEAN) @ precision @ (mean - MEAN))
        exact = -float(energy + 0.5 * torch.logdet(covariance) + 1 + math.log(2 * math.pi))
        with torch.no_grad():
            value = float(method.objective(1, noise("bound"), clock()))
        assert value == pytest.approx(exact, abs=0.15)  # 2000 energies with a standard deviation of about 2

    @torch.no_grad()
    def test_surrogate_bound_written_with_conditional_densities(self):
        """log 1/(K+1) sum_k q(x_j | z_k) over the z behind x_j and the K auxiliary ones, by torch's distributions."""
        J, K = 5, 3
        method = HSIVILB(Gaussian(), layers=1, batch=J, auxiliary=K, hidden=(4,), base_sd=1.3)
        draws = noise("written")
        components = method.conditional(1.3 * draws.normal(J + K, 2))
        x = (components.mean + components.stddev * draws.normal(J + K, 2))[:J]
        log_pairs = components.log_prob(x.unsqueeze(1))  # [J, J + K]: of the first J only the own one counts
        log_pairs[:, :J][~torch.eye(J, dtype=torch.bool)] = -math.inf
        expected = (log_pairs.logsumexp(1) - math.log(K + 1) - method.target.log_prob(x)).mean()
        torch.testing.assert_close(method.objective(None, noise("written"), clock()), expected, rtol=1e-4, atol=1e-4)

    def test_games_recover_a_gaussian(self):
        torch.manual_seed(0)
        # critics that answer fast and little momentum: the game then turns little around its solution
        rates = {"lr": 1e-2, "lr_critic": 5e-2, "beta1": 0.5, "decay": 0.5, "decay_every": 150, "log_var": -1.0}
        method = HSIVISM(Gaussian(), layers=2, batch=100, hidden=(), critic=(), **rates)
        x = fit([method], [0], 600).member(0, method).sample(20_000, noise("fit")).detach()
        torch.testing.assert_close(x.mean(0), MEAN, rtol=0, atol=0.1)
        torch.testing.assert_close(torch.cov(x.T), COVARIANCE, rtol=0, atol=0.15)


def test_one_layer_of_hksivi_is_ksivi():
    torch.manual_seed(0)
    ksivi = KSIVI(Gaussian(), batch=30, noise_dim=2, hidden=(4,))
    layered = HKSIVI(Gaussian(), layers=1, batch=30, hidden=(4,), residual=False, log_var_min=-20.0)
    layered.layers[0].load_state_dict(ksivi.q.state_dict())
    torch.testing.assert_close(
        layered.objective(None, noise("one"), clock()), ksivi.loss(noise("one"), clock()), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("iterations", "named"), [(1, []), (3, ["layers.1", "layers.2"]), (15, [])])
def test_a_run_too_short_for_its_later_layers_says_so(tmp_path, caplog, iterations, named):
    arguments = ["method=hsivi_lb", "target=banana", "tuned=none", "method.training=sequential", "method.stage=5"]
    short = ["method.layers=3", "method.batch=8", f"train.iterations={iterations}", "eval.curve_points=0"]
    config = compose([*arguments, *short, "eval.metrics=[marginal_mean_error]", f"paths.results={tmp_path}"])
    (record,) = fit_group(config, [0], Store(tmp_path))
    told = [record.getMessage() for record in caplog.records if "never moves" in record.getMessage()]
    assert [message.split()[1] for message in told] == record["idle"] == named
    (row,) = build([record]).sections[0].boards[0].rows
    assert all(name in row.reason for name in named) and bool(row.reason) == bool(named)
