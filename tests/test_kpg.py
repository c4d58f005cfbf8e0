"""KPG against autograd and against SVGD's direction; KPG-IS: unbiased weights, static draws, the plain version."""

from __future__ import annotations

import gc
import math

import pytest
import torch

from bench.errors import UserError
from bench.fit.tape import Replay
from bench.noise import DirectNoise, generator
from bench.speed.plain import baselines
from largest import Largest
from methods import kpg_is
from methods.base import Clock
from methods.kpg import KPG
from methods.kpg_is import KPGIS
from methods.native import live
from methods.parts import hmc, kernels, kpg_fused
from methods.parts.kpg_direction import importance_backend
from methods.parts.proposal import MixtureProposal, prior_over_mixture, slots
from methods.parts.repulsion import stein_direction
from methods.parts.stein import stein_discrepancy
from methods.svgd import SVGD, AmortisedSVGD
from methods.uivi import UIVI
from targets.base import Target
from toy_gaussian import Gaussian


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("kpg", *parts))


def clock() -> Clock:
    return Clock(torch.zeros(()), 100)


def shaken(method):
    """The method with every parameter moved, so that no sigma is 1 and no proposal trivial."""
    g = generator("kpg", "shake")
    with torch.no_grad():
        for p in method.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g))
    return method


CASES = [
    KPG(Gaussian(), batch=20),
    KPGIS(Gaussian(), batch=20, latents=20, alpha_min=0.01),
    KPGIS(Gaussian(), batch=20, latents=60, alpha_min=0.9, alpha_max=0.95, noise_dim=6),
    KPGIS(Gaussian(), batch=7, latents=30, alpha_min=0.2, alpha_max=0.4, anneal=0.5),
    SVGD(Gaussian(), particles=20),
    SVGD(Gaussian(), particles=20, kernel="imq"),
    AmortisedSVGD(Gaussian(), batch=20),
    AmortisedSVGD(Gaussian(), batch=20, batches="two"),
]


@pytest.mark.parametrize("method", CASES, ids=lambda m: m.registered_name)
def test_gradient_equals_the_plain_autograd_version(method):
    method = shaken(method)
    if isinstance(method, KPGIS):
        method.rows = 6  # several chunks, the last one short
    plain = baselines()[method.registered_name].obj
    for player in method.players():
        owned = [p for n, p in method.named_parameters() if n.startswith(player.owns)]
        ours = player.loss(noise("plain"), clock())
        ours = ours[0] if isinstance(ours, tuple) else ours
        theirs = plain(method, player, noise("plain"), clock())
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        for a, b in zip(torch.autograd.grad(ours, owned), torch.autograd.grad(theirs, owned), strict=True):
            assert (a - b).norm() <= 2e-4 * b.norm() + 1e-7


@pytest.mark.parametrize("fused", ["0", "1"])
def test_uivi_equals_its_plain_version(fused, monkeypatch):
    """At steps that are taken: with none accepted both sides would be the start's score.  The plain one adapts none."""
    accepted = []
    transition = hmc.transition

    def seen(*arguments):
        chain, accept = transition(*arguments)
        accepted.append(float(accept.mean()))
        return chain, accept

    monkeypatch.setenv("SIVIBENCH_FUSED", "0")
    monkeypatch.setattr(hmc, "RATE", 0.0)
    monkeypatch.setattr(hmc, "transition", seen)
    method = shaken(UIVI(Gaussian(), outer=8, step_size=0.01))
    (player,) = method.players()
    owned = list(method.q.parameters())
    with torch.no_grad():
        method.step_size.fill_(0.01)
    ours = player.loss(noise("plain"), clock())[0]
    assert min(accepted) > 0.5
    if fused == "1":
        monkeypatch.delenv("SIVIBENCH_FUSED")
        ours = player.loss(noise("plain"), clock())[0]
    theirs = baselines()["uivi"].obj(method, player, noise("plain"), clock())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for a, b in zip(torch.autograd.grad(ours, owned), torch.autograd.grad(theirs, owned), strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


FUSED = [
    {},
    {"latents": 33, "alpha_min": 0.8, "alpha_max": 0.85, "noise_dim": 6},
    {"own": 7},
    {"bandwidth": "bisection", "anneal": 0.5, "hidden": (17, 5, 9)},
    {"hidden": (), "alpha_min": 0.999, "alpha_max": 0.9999},  # hardly a Gaussian draw
]


@pytest.mark.skipif(importance_backend(KPGIS(Gaussian())) != "fused", reason="no C++ compiler")
@pytest.mark.parametrize("options", FUSED, ids=lambda o: "-".join(o) or "default")
def test_fused_direction_equals_the_dense_one(options, monkeypatch):
    """Same draws, same numbers; alone, and under vmap beside another seed with other parameters."""
    make = lambda: shaken(KPGIS(Gaussian(), **{"batch": 40, "latents": 50, **options}))  # noqa: E731
    first, second = make(), shaken(make())
    monkeypatch.setattr(kpg_fused, "BLOCK", 700)  # several blocks, the last one short
    stacked = {n: torch.stack([a, dict(second.named_parameters())[n]]) for n, a in first.named_parameters()}

    class Call(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.method = first

        def forward(self, x, source):
            return self.method.delta(x, source, clock())

    def one(parameters, x, normals, uniforms):
        values = {f"method.{n}": p for n, p in parameters.items()}
        return torch.func.functional_call(Call(), values, (x, Replay(normals, uniforms)))

    x, draws = noise("fused").normal(2, 40, 2), (noise("n").normal(2, 40_000), noise("u").uniform(2, 2000))
    with torch.no_grad():
        fused = torch.vmap(one)(stacked, x, *draws)
        alone = [m.delta(x[i], Replay(draws[0][i], draws[1][i]), clock()) for i, m in enumerate((first, second))]
        monkeypatch.setenv("SIVIBENCH_FUSED", "0")
        assert first.operations() == {"kpg_direction": "torch"}
        dense = torch.vmap(one)(stacked, x, *draws)
    assert torch.equal(fused, torch.stack(alone))
    # sums of 50 terms in float32; scaled by the largest, since small components are differences of large ones
    assert (fused - dense).abs().max() < 1e-5 * dense.abs().max()


@pytest.mark.skipif(importance_backend(KPGIS(Gaussian())) != "fused", reason="no C++ compiler")
def test_fused_direction_shows_divergence_and_passes_by_what_it_cannot_call():
    method = KPGIS(Gaussian(), batch=10, latents=10)
    with torch.no_grad():
        x = noise("x").normal(10, 2)
        x[3, 1] = math.nan
        assert method.delta(x, noise("nan"), clock()).isnan().all()
        method.q.log_var.fill_(math.nan)
        assert method.delta(noise("x").normal(10, 2), noise("nan"), clock()).isnan().all()

    class ByAutograd(Gaussian):
        score = Target.score

    assert importance_backend(KPGIS(ByAutograd())) == "torch" == importance_backend(method.double())


def test_the_direction_in_torch_holds_no_layer_for_all_draws(monkeypatch):
    """At the paper's sizes a layer of 50 for all 500 x 500 latents would have 12.5 million numbers."""
    monkeypatch.setenv("SIVIBENCH_FUSED", "0")
    method = KPGIS(Gaussian())
    with torch.no_grad(), Largest() as largest:
        method.delta(noise("x").normal(500, 2), noise("delta"), clock())
    assert largest.numel <= kpg_is.CHUNK


def test_numbers_of_live_objects_are_reused_only_after_their_end():
    gc.collect()
    first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    numbers = live.number(first), live.number(second)
    assert numbers[0] != numbers[1] and live.number(first) == numbers[0] and live.module(numbers[1]) is second
    del second
    gc.collect()
    with pytest.raises(KeyError):
        live.module(numbers[1])
    assert live.number(torch.nn.Linear(1, 1)) == numbers[1]


def test_kpg_and_svgd_directions_agree_in_expectation():
    """E k(x, y) s_c(y | z) = -E grad_y k(x, y) (Stein's identity, y given z), so the two differ by noise only."""
    method = shaken(KPG(Gaussian(), batch=20))
    x = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 1.5], [-1.0, 0.5]])
    differences, size = [], []
    with torch.no_grad():
        for repeat in range(60):
            y, u = method.q.draw(4000, noise("stein", repeat))
            score = method.target.score(y)
            # -Delta_k as the loss has it: the derivative of the pair block in its third argument
            anchor = x.clone().requires_grad_()
            with torch.enable_grad():
                block = stein_discrepancy(x, y, anchor, score + u, bandwidth="detached")
            (smoothed,) = torch.autograd.grad(block, anchor)
            phi = stein_direction(x, y, score)
            differences.append(smoothed * len(x) - phi)
            size.append(phi)
    d = torch.stack(differences)
    error = d.std(0) / math.sqrt(len(d))
    assert (d.mean(0).abs() < 4.5 * error).all()
    assert error.max() < 0.02 * torch.stack(size).mean(0).abs().max()  # the test can tell


@pytest.mark.parametrize(
    "bounds, own", [((0.01, 0.9), 0), ((0.8, 0.9), 0), ((0.01, 0.9), 40)], ids=["l", "slots", "own"]
)
def test_importance_weights_are_unbiased(monkeypatch, bounds, own):
    """With a constant bandwidth the weighted estimate has the mean of the direct one."""
    monkeypatch.setenv("SIVIBENCH_FUSED", "0")  # whose median can be replaced; the fused one equals it (above)
    monkeypatch.setattr(kernels, "median", lambda D, bandwidth: torch.full_like(D[..., :1, :1], 8.0))
    latents = 200
    low, high = bounds
    method = shaken(KPGIS(Gaussian(), latents=latents, hidden=(8,), alpha_min=low, alpha_max=high, own=own))
    x = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 1.5]])
    with torch.no_grad():
        values = torch.stack([method.delta(x, noise("is", bounds, own, r), clock()) for r in range(150)])
        y, u = method.q.draw(400_000, noise("direct"))
        k = torch.exp(-kernels.statistic("gaussian", x, y) * math.log(latents + 1) / 8.0)
        terms = k.unsqueeze(-1) * -(u + method.target.score(y))
    error = (values.var(0) / len(values) + terms.var(1) / terms.shape[1]).sqrt()
    assert ((values.mean(0) - terms.mean(1)).abs() < 4.5 * error).all()
    assert (error < 0.1 * terms.mean(1).abs().max()).all()


@pytest.mark.parametrize("latents, alpha", [(100, 0.99), (100, 0.999), (500, 0.5), (30, 0.01), (1, 0.5), (128, 1e-9)])
def test_number_of_slots_is_the_binomial_quantile(latents, alpha):
    from scipy.stats import binom

    c = slots(latents, alpha)
    assert 1 <= c <= latents
    assert binom.sf(c, latents, 1 - alpha) < 1e-12
    assert c == 1 or binom.sf(c - 1, latents, 1 - alpha) > 0.99e-12


def test_proposal_is_normalised_and_its_ratio_is_bounded():
    proposal = MixtureProposal(2, 1, (8,), 0.05, 0.6).double()
    x = torch.tensor([[0.4, -1.0]], dtype=torch.float64)
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64).unsqueeze(-1)
    log_tau = proposal.log_prob(z, x.expand(len(z), 2))
    torch.testing.assert_close(
        torch.trapezoid(log_tau.exp(), z[:, 0]), torch.ones((), dtype=torch.float64), rtol=1e-6, atol=0
    )
    m, s, alpha = proposal(x)
    log_prior = -0.5 * z[:, 0].square()
    log_odds = -0.5 * ((z - m) / s)[:, 0].square() - s.log().sum() - log_prior
    ratio = prior_over_mixture(log_odds, alpha[0])
    torch.testing.assert_close(ratio, (log_prior - 0.5 * math.log(2 * math.pi) - log_tau).exp())
    assert (ratio <= 1 / 0.05 + 1e-9).all()
    assert prior_over_mixture(torch.tensor(1e4), torch.tensor(0.3)) == 0  # an overflow is the right limit


def test_the_proposal_learns_the_reverse_conditional_of_a_linear_gaussian():
    """x = W z + sigma xi: q(z | x) is Gaussian, so a trained proposal beats the prior by the mutual information."""
    torch.manual_seed(0)
    method = KPGIS(Gaussian(), batch=128, hidden=(), noise_dim=2, proposal=(32,), log_var=math.log(0.25))
    W = torch.tensor([[1.0, 0.2], [-0.3, 0.8]])
    with torch.no_grad():
        method.q.mean[0].weight.copy_(W)
    adam, source = torch.optim.Adam(method.proposal.parameters(), 5e-3), noise("train")
    for _ in range(500):
        adam.zero_grad()
        method.likelihood(source, clock()).backward()
        adam.step()
    information = 0.5 * torch.logdet(torch.eye(2) + W @ W.T / 0.25)
    with torch.no_grad():
        z = noise("z").normal(20_000, 2)
        x, _ = method.q(z, noise("xi").normal(20_000, 2))
        gain = method.proposal.log_prob(z, x) + 0.5 * z.square().sum(-1) + math.log(2 * math.pi)
    # alpha >= 0.01 costs at most 0.01 nats; the rest is training
    assert 0.9 * information < gain.mean() < information + 4 * gain.std() / math.sqrt(20_000)


@pytest.mark.parametrize("bounds", [(0.0, 0.5), (0.5, 0.5), (0.2, 1.0)])
def test_impossible_bounds_of_alpha_are_refused(bounds):
    with pytest.raises(UserError, match="alpha_min"):
        KPGIS(Gaussian(), alpha_min=bounds[0], alpha_max=bounds[1])
