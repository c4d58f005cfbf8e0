"""One-layer students of diffusions against closed forms on Gaussians: DDIM at the start, Fisher, KL, Langevin."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench.noise import DirectNoise, generator
from methods.base import Clock
from methods.cosim import CoSIM
from methods.diff_instruct import DiffInstruct
from methods.diffusion.games import game, regression
from methods.diffusion.steps import Steps
from methods.emd import EMD
from methods.sid import SiD
from targets.diffusion.grids import time_grid
from targets.diffusion.schedule import linear_schedule
from toy_gaussian import MEAN, Drawless, Gaussian

ONE_LAYER = [CoSIM, DiffInstruct, EMD, SiD]


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("diffusion methods", *parts))


def clock() -> Clock:
    return Clock(torch.zeros(()), 100)


def one_layer(cls: type, **options: object):
    """A method whose generator and critic have been moved off their start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method = cls(Gaussian(), hidden=(8,), critic=(8,), **options)
    with torch.no_grad():
        for i, parameter in enumerate(method.parameters()):
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator("move", i)))
    return method


def gradient(method, loss) -> Tensor:
    parameters = [p for p in method.student.parameters()]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("cls", ONE_LAYER)
@pytest.mark.parametrize("nfe", [1, 2, 4])
def test_a_draw_costs_nfe_evaluations(cls, nfe):
    from bench.metrics.nfe import counted_rows

    method = cls(Gaussian(), nfe=nfe, hidden=(4,), critic=(4,))
    with counted_rows(method.networks()) as found:
        method.sample(7, noise("count"))
    assert found.rows == 7 * nfe


@pytest.mark.parametrize("nfe, eta", [(1, (0.0,)), (3, (0.0,)), (3, (0.0, 0.5, 0.7))])
def test_chain_starts_as_ddim(nfe, eta):
    """The x_0 that DDIM(eta) predicts in its last step."""
    method = SiD(Gaussian(), nfe=nfe, eta=eta, hidden=(4,), critic=(4,))
    x, *fresh = noise("chain").normal(nfe, 50, 2)
    steps = Steps(time_grid("quad", nfe, linear_schedule()), linear_schedule(), eta)
    for k, z in zip(range(nfe, 1, -1), fresh, strict=True):
        x = steps.mean(k, x, method.teacher.eps(x, steps.times[k])) + steps.sd[k] * z
    expected = method.teacher.x0(x, steps.times[1])
    torch.testing.assert_close(method.sample(50, noise("chain")), expected, rtol=1e-3, atol=1e-3)


def test_one_langevin_step_on_eps_gives_the_gradient_of_diff_instruct():
    """With step_z = 0 and the damped noise taken out, EMD at K = 1 is step_eps times Diff-Instruct, draw by draw."""
    emd = one_layer(EMD, langevin=1, step_eps=0.3, step_z=0.0, cancel="decayed", batch=64)
    plain = one_layer(DiffInstruct, batch=64)
    plain.load_state_dict(emd.state_dict())

    class Reordered(DirectNoise):
        """EMD draws z, eps, levels; Diff-Instruct z, levels, eps: normals and uniforms come from separate streams."""

        def uniform(self, *shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator("levels"))

    mine = gradient(emd, emd.distil(Reordered(generator("emd")), clock()))
    other = gradient(plain, plain.distil(Reordered(generator("emd")), clock()))
    torch.testing.assert_close(mine, 0.3 * other, rtol=1e-4, atol=1e-5)


def test_noise_cancellation_does_not_bias_one_step():
    """For K = 1 on eps alone, every kind of cancellation has the same expected gradient."""
    found = []
    for cancel in ("sum", "decayed", "none"):
        method = one_layer(
            EMD, langevin=1, step_eps=0.3, step_z=0.0, cancel=cancel, batch=200_000, level_low=100.0, nfe=1
        )
        with torch.no_grad():
            method.critic.layers[-1].bias.add_(2.0)  # a gradient well above its sampling error
        found.append(gradient(method, method.distil(noise("cancel"), clock())))
    scale = found[1].norm()
    assert (found[0] - found[1]).norm() < 0.05 * scale
    assert (found[2] - found[1]).norm() < 0.15 * scale  # the noise that is left in makes it the least precise


class GaussianGenerator:
    """Mixed into a method: G(z) = m + s z, z ~ N(0, I_2), with the exact critic of q at every level."""

    def make(self, cls: type, **options: object):
        method = cls(Gaussian(), hidden=(4,), critic=(4,), batch=100_000, level_low=100.0, level_high=700.0, **options)
        self.m = torch.tensor([0.4, -0.2], requires_grad=True)
        self.s = torch.tensor(0.7, requires_grad=True)
        schedule, teacher = method.teacher.schedule, method.teacher
        method.generate = lambda z: self.m + self.s * z[0]

        def times(level: Tensor) -> Tensor:
            """alpha_bar = sigmoid(2 lambda); the time by search."""
            table = schedule.half_log_snr(torch.arange(1000.0)).flip(0)
            index = torch.searchsorted(table, level.clamp(table[0], table[-1])).clamp(1, 999)
            low, high = table[index - 1], table[index]
            return 999 - (index - 1 + (level - low) / (high - low))

        class Best(torch.nn.Module):
            def forward(critic, x: Tensor, level: Tensor, *more: Tensor) -> Tensor:
                t = times(level)
                alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
                variance = (alpha * self.s.detach()) ** 2 + sigma**2
                return sigma * (x - alpha * self.m.detach()) / variance - teacher.eps(x, t)

        method.critic = Best()
        return method

    def divergence(self, method, kind: str) -> Tensor:
        """E over levels of KL(q_s | p_s), or of sigma^2 times the Fisher divergence, by a midpoint rule in u."""
        u = (torch.arange(400.0) + 0.5) / 400
        low, high = (bound ** (1 / method.level_power) for bound in method.level_range)
        s = (low + (high - low) * u) ** method.level_power
        alpha, sigma = method.teacher.schedule.alpha(s), method.teacher.schedule.sigma(s)
        axes = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)  # of COVARIANCE
        p = alpha[:, None] ** 2 * torch.tensor([1.6, 0.4]) + sigma[:, None] ** 2
        q = ((alpha * self.s) ** 2 + sigma**2).unsqueeze(1)
        offset = alpha[:, None] * (axes @ (self.m - MEAN))
        if kind == "kl":
            value = 0.5 * (q / p + offset**2 / p - 1 - torch.log(q / p))
        else:
            value = sigma[:, None] ** 2 * ((1 / p - 1 / q) ** 2 * q + (offset / p) ** 2)
        return value.sum(1).mean()


def test_diff_instruct_follows_the_gradient_of_the_integral_kl():
    setting = GaussianGenerator()
    method = setting.make(DiffInstruct, weight="score")
    found = torch.autograd.grad(method.distil(noise("kl"), clock()), [setting.m, setting.s])
    exact = torch.autograd.grad(setting.divergence(method, "kl"), [setting.m, setting.s])
    # the standard error of the gradient over 100,000 rows is below 1 %
    for mine, other in zip(found, exact, strict=True):
        torch.testing.assert_close(mine, other, rtol=0.05, atol=0.01)


def test_sid_at_alpha_one_half_is_half_the_fisher_divergence_value_and_gradient():
    setting = GaussianGenerator()
    method = setting.make(SiD, weight="eps", alpha=0.5)
    value = method.distil(noise("sid"), clock())
    exact = 0.5 * setting.divergence(method, "fisher")
    assert abs(float(value) - float(exact)) < 0.03 * float(exact)
    found = torch.autograd.grad(value, [setting.m, setting.s])
    for mine, other in zip(found, torch.autograd.grad(exact, [setting.m, setting.s]), strict=True):
        torch.testing.assert_close(mine, other, rtol=0.05, atol=0.02)


def test_regularised_critic_scales_the_game_only():
    """With the best critic for each lambda the game's value is that at lambda = 0 over 1 + lambda (Theorem 3.1)."""
    draws = noise("game")
    eps, r = draws.normal(1000, 2), draws.normal(1000, 2)
    gap = draws.normal(2)
    r = r - r.mean(0) + eps.mean(0) + gap  # E[r] - E[eps] = gap, exactly, if both are constants of x
    eps = eps.mean(0).expand_as(eps)
    for strength in (0.0, 0.5, 3.0):
        g = (gap / (1 + strength)).expand(1000, 2).clone().requires_grad_()
        value = game(g, eps, r, 0.5, strength).mean()
        torch.testing.assert_close(value, gap.square().sum() / (1 + strength), rtol=1e-4, atol=1e-5)
        (slope,) = torch.autograd.grad(regression(g, eps, r, strength).mean(), g)
        assert slope.sum(0).abs().max() < 1e-4  # and that g minimises the critic's loss


def test_cosim_names_its_training_data():
    assert CoSIM(Gaussian(), hidden=(4,), critic=(4,)).operations()["training_data"] == "none"
    with pytest.raises(Exception, match="exact"):
        CoSIM(Drawless(), hidden=(4,), critic=(4,), draws="reference")  # this target has no draws


def test_a_student_without_a_critic_waits_for_none():
    """Alone it moves from the first iteration, and its cosine spans the run; with a critic it waits for it."""
    options = {"hidden": (4,), "critic": (4,), "critic_first": 40, "warm_up": 0}
    (alone,) = EMD(Gaussian(), student_score="mixture", **options).players()
    critic, student = EMD(Gaussian(), **options).players()
    assert (alone.start, critic.start, student.start) == (0, 0, 40)
    for step, factor in ((0.0, 1.0), (50.0, 0.5), (100.0, 0.0)):
        assert float(alone.schedule(Clock(torch.tensor(step), 100))) == pytest.approx(factor, abs=1e-6)
    assert float(student.schedule(Clock(torch.tensor(30.0), 100))) == pytest.approx(0.5)  # half of the last 60


def test_mixture_score_of_emd_is_that_of_the_batch():
    method = EMD(Gaussian(), hidden=(4,), student_score="mixture", batch=5)
    draws = noise("mixture")
    x, others = draws.normal(5, 2), draws.normal(5, 2)
    s = torch.full((5,), 200.0)
    schedule = method.teacher.schedule
    alpha, sigma = schedule.alpha(s).unsqueeze(-1), schedule.sigma(s).unsqueeze(-1)
    gap = method.gap(x, s, schedule.half_log_snr(s), others, alpha, sigma)
    x = x.requires_grad_()
    components = torch.distributions.Normal(alpha[0] * others, sigma[0])
    log_q = torch.logsumexp(components.log_prob(x.unsqueeze(1)).sum(-1), dim=1)
    (score,) = torch.autograd.grad(log_q.sum(), x)
    expected = -sigma * score - method.teacher.eps(x, s)
    torch.testing.assert_close(gap, expected.detach(), rtol=1e-3, atol=1e-4)
