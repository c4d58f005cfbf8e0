"""Two-sided bounds on log q as metrics: brackets of closed forms, and every kind of q they accept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from bench.errors import UserError
from bench.metrics.base import Fitted
from bench.metrics.elbo import BoundMetric, ElboError
from bench.metrics.log_q_bounds import LogQ, Protocol, log_q_bounds
from bench.metrics.pairs import pairs
from bench.noise import DirectNoise, generator
from bench.registry import get
from methods.base import Method, Noise
from methods.scale_mixture import IWHVIScaleMixture
from methods.sivi import SIVI
from metric_fakes import Explicit, GaussianTarget, Implicit, fitted
from targets.laplace_scale import LaplaceScaleMixture

NAMES = ["elbo_lower", "elbo_upper", "elbo_error", "log_q_gap", "kl_reverse_lower", "kl_reverse_upper",
         "entropy_lower", "entropy_upper"]  # fmt: skip
QUICK = {"n": 500, "inner": 100, "steps": 60, "batch": 64, "width": 16, "components": 2}


def protocol(**changes: float) -> Protocol:
    return Protocol(**{**vars(BoundMetric()), **QUICK, **changes})


class Linear(Method):
    """x | z ~ N(W z, v I), z ~ N(0, I_k), in d dimensions; ``hidden`` says nothing about q(z)."""

    def __init__(self, target, d: int = 2, k: int = 3, hidden: bool = False) -> None:
        super().__init__(target)
        weight = torch.randn(d, k, generator=generator("weight")) / math.sqrt(k)
        self.weight, self.variance, self.hidden = torch.nn.Parameter(weight), 0.04, hidden

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self.conditional(self.mixing(n, noise)).mean + math.sqrt(self.variance) * noise.normal(n, self.d)

    @property
    def d(self) -> int:
        return len(self.weight)

    def mixing(self, n: int, noise: Noise) -> Tensor:
        return noise.normal(n, self.weight.shape[1])

    def mixing_log_prob(self, z: Tensor) -> Tensor | None:
        return None if self.hidden else Normal(0.0, 1.0).log_prob(z).sum(-1)

    def conditional(self, z: Tensor):
        mean = z @ self.weight.T
        return Independent(Normal(mean, math.sqrt(self.variance)), 1)

    def entropy(self) -> float:
        covariance = self.weight @ self.weight.T + self.variance * torch.eye(self.d)
        return float(MultivariateNormal(torch.zeros(self.d), covariance.detach()).entropy())


class Uniform(Linear):
    """The same with z uniform on the cube: proposals outside it have weight zero."""

    def mixing(self, n: int, noise: Noise) -> Tensor:
        return noise.uniform(n, self.weight.shape[1])

    def mixing_log_prob(self, z: Tensor) -> Tensor:
        return torch.where(((z >= 0) & (z <= 1)).all(-1), 0.0, -math.inf)


def linear(d: int = 2, cls: type[Linear] = Linear, **arguments: object) -> Fitted:
    target = GaussianTarget((0.0,) * d, (1.0,) * d)
    return Fitted(cls(target, d=d, **arguments), target, 0)


def ends(bounds: LogQ) -> tuple[float, float, float]:
    """Means of both ends, and the Monte Carlo error of their middle."""
    middle = 0.5 * (bounds.lower + bounds.upper)
    return float(bounds.lower.mean()), float(bounds.upper.mean()), float(middle.std() / math.sqrt(len(middle)))


@pytest.mark.parametrize("d, k", [(2, 3), (20, 10)])
def test_bounds_hold_the_entropy_of_a_gaussian(d: int, k: int) -> None:
    q = linear(d, k=k)
    low, high, error = ends(log_q_bounds(q, protocol(n=1000)))
    exact = -q.method.entropy()
    assert low - 4 * error < exact < high + 4 * error
    assert high - low < 0.1


def test_without_a_density_of_z_they_are_the_bounds_of_sivi() -> None:
    """Valid but wide; the same as a share of one."""
    hidden, all_mixing = linear(hidden=True, k=6, d=6), linear(k=6, d=6)
    wide = log_q_bounds(hidden, protocol())
    same = log_q_bounds(all_mixing, protocol(share=1.0))
    torch.testing.assert_close(wide.lower, same.lower)
    torch.testing.assert_close(wide.upper, same.upper)
    low, high, error = ends(wide)
    assert low - 4 * error < -hidden.method.entropy() < high + 4 * error
    narrow_low, narrow_high, _ = ends(log_q_bounds(all_mixing, protocol()))
    assert high - low > 10 * (narrow_high - narrow_low)


def test_a_bad_reverse_model_still_gives_bounds() -> None:
    """No training, and so hot a start that tau is far off: the share of q(z) keeps the interval at SIVI's width."""
    q = linear(k=3)
    low, high, error = ends(log_q_bounds(q, protocol(steps=20, lr=3.0, share=0.2)))
    assert low - 4 * error < -q.method.entropy() < high + 4 * error
    alone = ends(log_q_bounds(q, protocol(inner=20, share=1.0)))  # share * inner draws of q(z)
    assert high - low < 1.5 * (alone[1] - alone[0])


def test_uniform_mixing_noise() -> None:
    q = linear(d=1, k=1, cls=Uniform)
    low, high, error = ends(log_q_bounds(q, protocol(n=1000)))
    w, v = float(q.method.weight), q.method.variance
    axis = torch.linspace(-3, 3, 4001, dtype=torch.float64)
    cdf = Normal(torch.tensor(0.0, dtype=torch.float64), math.sqrt(v)).cdf
    density = (cdf(axis) - cdf(axis - w)) / w
    exact = float(torch.special.xlogy(density, density).sum() * 6 / 4000)
    assert low - 4 * error < exact < high + 4 * error
    assert high - low < 0.1


def test_bounds_hold_the_entropy_of_the_laplace_scale_mixture() -> None:
    """D = 10 here for speed; q is the target, so the ELBO's interval must hold log Z = 0 as well."""
    target = LaplaceScaleMixture(dim=10)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        q = Fitted(IWHVIScaleMixture(target, train_q=False), target, 0)
    bounds = log_q_bounds(q, protocol(inner=50, steps=200, n=1000))
    low, high, error = ends(bounds)
    assert low - 4 * error < -target.entropy < high + 4 * error
    assert 0 < high - low < 0.1
    ratio = bounds.log_p - 0.5 * (bounds.lower + bounds.upper)
    slack = 4 * float(ratio.std()) / math.sqrt(1000)
    assert float((bounds.log_p - bounds.upper).mean()) - slack < 0 < float((bounds.log_p - bounds.lower).mean()) + slack
    sivi_low, sivi_high, _ = ends(log_q_bounds(q, protocol(inner=50, share=1.0)))
    assert sivi_high - sivi_low > 5 * (high - low)


def test_an_explicit_q_has_equal_ends_at_its_exact_elbo() -> None:
    q = fitted(Explicit, GaussianTarget(), mean=(0.3, 0.0))
    values = {name: get("metric", name).obj(n=4000)(q).value for name in NAMES}
    assert values["elbo_lower"] == values["elbo_upper"] and values["log_q_gap"] == 0
    kl, log_z = 0.5 * 0.3**2, q.target.log_z
    assert abs(values["kl_reverse_lower"] - kl) < 4 * values["elbo_error"]
    assert abs(values["elbo_lower"] - (log_z - kl)) < 4 * values["elbo_error"]
    # log q / p is linear in x with slope 0.3, so its standard deviation is 0.3
    assert abs(values["elbo_error"] - 0.3 / math.sqrt(4000)) < 3e-4
    assert abs(values["entropy_lower"] - (1 + math.log(2 * math.pi))) < 5 / math.sqrt(4000)


def test_the_metrics_agree_with_each_other_and_share_one_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    q = linear()
    v = {name: get("metric", name).obj(**QUICK)(q).value for name in NAMES}
    assert len([key for key in q.cache if key[0] == "log_q_bounds"]) == 1
    assert v["elbo_upper"] - v["elbo_lower"] == pytest.approx(v["log_q_gap"])
    assert v["entropy_upper"] - v["entropy_lower"] == pytest.approx(v["log_q_gap"])
    assert v["kl_reverse_lower"] == pytest.approx(q.target.log_z - v["elbo_upper"])
    assert v["kl_reverse_upper"] == pytest.approx(q.target.log_z - v["elbo_lower"])
    assert get("metric", "elbo_lower").obj(**QUICK)(q).floor == q.target.log_z


def test_the_same_seed_gives_the_same_bounds_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = (log_q_bounds(linear(), protocol()) for _ in range(2))
    assert torch.equal(first.lower, again.lower) and torch.equal(torch.get_rng_state(), before)


def test_chunks_do_not_change_what_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ends(log_q_bounds(linear(), protocol()))
    monkeypatch.setattr("bench.metrics.log_q_bounds.NUMBERS_PER_CHUNK", 100_000)
    parts = ends(log_q_bounds(linear(), protocol()))
    assert whole != parts  # other draws of z
    assert abs(whole[1] - parts[1]) < 0.02 and abs(whole[0] - parts[0]) < 0.02


@pytest.mark.parametrize("family", [{"log_var": -1.0}, {"covariance": "full", "entry": 0.4}], ids=["diagonal", "full"])
def test_pairs_follow_the_conditional(family: dict) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = SIVI(GaussianTarget(), noise_dim=2, hidden=(5,), **family)
        with torch.no_grad():
            x, z = pairs(method, 40_000, DirectNoise(generator("pairs")))
            log_q = method.conditional(z).log_prob(x)
            single = method.conditional(z[:1])
    # E log q(x|z) is minus the entropy of the conditional, whatever z
    entropy = float(single.entropy())
    assert abs(float(log_q.mean()) + entropy) < 5 / math.sqrt(40_000)


def test_what_cannot_be_bounded_says_why() -> None:
    metric = get("metric", "elbo_lower").obj()
    implicit = fitted(Implicit)
    assert "neither log_prob nor mixing" in str(metric.applies(implicit.method, implicit.target))
    q = linear()
    q.target.log_z = None
    assert metric.applies(q.method, q.target) is None
    assert "normaliser" in str(get("metric", "kl_reverse_lower").obj().applies(q.method, q.target))
    with pytest.raises(UserError, match="share"):
        get("metric", "elbo_lower").obj(share=0.0)(q)


def test_the_error_of_the_elbo_is_that_of_the_middle_of_its_interval() -> None:
    log_p, lower, upper = torch.randn(3, 50, dtype=torch.float64, generator=generator("ends"))
    found = ElboError().read(LogQ(log_p, lower, upper), GaussianTarget())
    middle = log_p - (lower + upper) / 2
    torch.testing.assert_close(found, middle.std() / math.sqrt(50))
