"""Losses of the distillation methods, draw by draw, against their formulas written out; everything in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from bench.noise import DirectNoise, generator
from methods.base import Clock
from methods.cosim import CoSIM
from methods.diff_instruct import DiffInstruct
from methods.diffusion.generator import level_weight
from methods.emd import EMD
from methods.hsivi_diffusion import HSIVIDiffusion
from methods.sid import SiD
from toy_gaussian import COVARIANCE, MEAN, Gaussian

CLOCK = Clock(torch.zeros(()), 100)


def noise(name: str) -> DirectNoise:
    return DirectNoise(generator("distillation losses", name), dtype=torch.float64)


def moved(cls, **options):
    """A method whose student and critic are away from the teacher, where they start."""
    method = cls(Gaussian(), hidden=(8,), critic=(8,), **options).double()
    with torch.no_grad():
        for i, parameter in enumerate(p for p in method.parameters() if p.requires_grad):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator("move", i)))
    return method


def assert_same(found: Tensor, expected: Tensor, module: torch.nn.Module) -> None:
    """Equal values, and equal gradients with respect to the module's parameters."""
    torch.testing.assert_close(found, expected)
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters)
    torch.testing.assert_close(*gradients)
    assert max(g.abs().max() for g in gradients[0]) > 1e-3


# --- HSIVI ------------------------------------------------------------------------------------------------------------


def second_order(history: str) -> HSIVIDiffusion:
    """Three trained layers above two frozen ones, so that every trained one adds noise in a draw, too."""
    times, etas = (0, 14, 50, 130, 300, 800), (0.0, 0.0, 1.0, 1.0, 1.0)
    layers = {"nfe": 5, "grid": "explicit", "times": times, "eta": etas, "frozen": 2, "layer": "dpmpp"}
    return moved(HSIVIDiffusion, history=history, gamma="scalar", gamma_per_layer=True, **layers)


@pytest.mark.parametrize("history", ["student", "teacher", "none"])
def test_trained_transitions_are_those_of_a_draw(history):
    """On the same noise the points that are trained are the states through which a draw runs."""
    method = second_order(history)
    points, _ = method.transitions(20, noise("chain"))
    states, layer = [], method.layer

    def recorded(i, k, x, *more):
        states.append(x)
        return layer(i, k, x, *more)

    method.layer = recorded
    method.sample(20, noise("chain"))
    torch.testing.assert_close(points, torch.stack(states[1:4]))


def test_residuals_are_the_scores_of_their_layers():
    """r = -sigma_{k-1} times the gradient of log N(x_{k-1}; mean, (gamma c_k)^2 I), gamma having moved."""
    method, means = second_order("student"), []
    layer, gammas = method.layer, method.student["scale"].log_gamma.detach().exp()

    def recorded(*given):
        mean, start = layer(*given)
        means.append(mean.detach())
        return mean, start

    method.layer = recorded
    points, residuals = method.transitions(20, noise("residuals"))
    for i, k in enumerate((5, 4, 3)):
        x = points[i].detach().requires_grad_()
        density = Normal(means[i], gammas[i] * method.steps.sd[k])
        (score,) = torch.autograd.grad(density.log_prob(x).sum(), x)
        torch.testing.assert_close(residuals[i], -method.steps.sigma[k - 1] * score)


@pytest.mark.parametrize("history", ["student", "teacher", "none"])
def test_no_gradient_reaches_the_layer_above(history):
    """Neither through the state nor through the history: a transition moves its own network and factor alone."""
    method = second_order(history)
    points, residuals = method.transitions(20, noise("detached"))
    for i in range(3):
        value = (points[i] + residuals[i]).square().sum()
        grads = torch.autograd.grad(value, list(method.student.parameters()), retain_graph=True)
        reached = [{l for l in range(3) if g[l].abs().max() > 0} for g in grads]
        assert reached == [{i}] * len(grads)


@pytest.mark.parametrize("kind", ["sigma2", "gamma2", "one"])
def test_hsivi_weights_are_their_formulas(kind):
    """sigma^2_{k-1}; (c_k / sigma_{k-1})^2, the noise in r being z sigma_{k-1} / c_k; 1."""
    method = HSIVIDiffusion(Gaussian(), nfe=3, eta=(0.1, 0.2, 0.7), weight=kind, weight_critic=kind).double()
    bar = [method.teacher.schedule.alpha_bar(t) for t in method.steps.times]
    formula = {
        "sigma2": lambda k, eta: 1 - bar[k - 1],
        "gamma2": lambda k, eta: eta**2 * (1 - bar[k] / bar[k - 1]) / (1 - bar[k]),
        "one": lambda k, eta: 1.0,
    }[kind]
    expected = torch.tensor([[formula(3, 0.7)], [formula(2, 0.2)], [formula(1, 0.1)]]).double()
    torch.testing.assert_close(method.w_student, expected, rtol=1e-6, atol=0)  # kept in float32
    torch.testing.assert_close(method.w_critic, expected, rtol=1e-6, atol=0)


def test_hsivis_default_weights():
    default, named = (HSIVIDiffusion(Gaussian(), **w) for w in ({}, {"weight": "sigma2", "weight_critic": "gamma2"}))
    assert torch.equal(default.w_student, named.w_student) and torch.equal(default.w_critic, named.w_critic)


def test_hsivi_weighs_every_layers_share_of_both_losses():
    """Each loss by its own weight: the defaults, which differ."""
    method = moved(HSIVIDiffusion, nfe=3, alpha=0.8, trajectories=16)
    x, r = method.transitions(16, noise("hsivi"))
    eps = method.teachers(x)
    game = 2 * (method.critic(x) * (r - eps)).sum(-1) - 1.6 * method.critic(x).square().sum(-1)
    expected = (method.w_student[:, 0] * game.mean(-1)).sum()
    assert_same(method.fisher(noise("hsivi"), CLOCK), expected, method.student)
    fit = (eps.detach() + method.critic(x.detach()) - r).square().sum(-1)
    expected = (method.w_critic[:, 0] * fit.mean(-1)).sum()
    assert_same(method.regression(noise("hsivi"), CLOCK), expected, method.critic)


# --- one-layer methods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", ["paper", "x0", "eps"])
def test_sid_is_its_published_loss(weight):
    """<f - y, f - x_0> - alpha |f - y|^2 with the x_0 predicted by the teacher, f, and by the critic, y.

    So the released code writes it, over the mean of |f - x_0|, which has no gradient.
    """
    method, again = moved(SiD, alpha=1.2, weight=weight, batch=64), noise("sid")
    x0 = method.generate(method.latents(64, again))
    s, level, alpha, sigma = method.levels(again)
    x = alpha * x0 + sigma * again.normal(64, 2)
    f = method.teacher.x0(x, s)
    y = f - sigma / alpha * method.critic(x, level)
    value = ((f - y) * (f - x0)).sum(-1) - 1.2 * (f - y).square().sum(-1)
    if weight == "paper":
        error = (f - x0).abs().mean(-1).detach()
        assert error.min() > 1e-3  # the method's floor
        value = value / error
    if weight == "eps":
        value = value / (sigma / alpha).square().squeeze(-1)
    assert_same(method.distil(noise("sid"), CLOCK), value.mean(), method.student)


def test_sid_defaults_to_the_papers_weight():
    found = [moved(SiD, **given).distil(noise("sid"), CLOCK) for given in ({}, {"weight": "paper"})]
    assert torch.equal(*found)


@pytest.mark.parametrize("weight", ["eps", "x0"])
def test_cosims_losses_are_the_game_and_the_regression_of_its_regulariser(weight):
    """jump = 1 lets s reach the levels at which the weight's bound of 100 holds."""
    method = moved(CoSIM, regulariser=0.3, alpha=0.7, weight=weight, jump=1.0, batch=256)
    x, eps, s, t, _ = method.transition(noise("cosim"))
    schedule = method.teacher.schedule
    levels, teacher = (schedule.half_log_snr(s), schedule.half_log_snr(t)), method.teacher.eps(x, s)
    g = method.critic(x, *levels)
    value = 2 * (g * (eps - teacher)).sum(-1) - 1.4 * 1.3 * g.square().sum(-1)
    if weight == "x0":
        ratio = 1 / schedule.alpha_bar(s) - 1  # (sigma / alpha)^2
        assert ratio.max() > 200
        value = value * ratio.clamp(max=100)
    assert_same(method.distil(noise("cosim"), CLOCK), value.mean(), method.student)

    g = method.critic(x.detach(), *levels)
    pulled = (teacher.detach() + g - eps).square().sum(-1) + 0.3 * g.square().sum(-1)
    assert_same(method.regression(noise("cosim"), CLOCK), pulled.mean(), method.critic)


def test_cosims_chain_noises_the_predicted_x0_to_the_next_time():
    times, again = (0, 60, 300, 800), noise("chain")
    method = moved(CoSIM, nfe=3, grid="explicit", times=times)
    z, bar = again.normal(3, 20, 2), [method.teacher.schedule.alpha_bar(t) for t in times]
    x = z[0]
    for k in (3, 2):
        x = bar[k - 1] ** 0.5 * method.x0(x, times[k]) + (1 - bar[k - 1]) ** 0.5 * z[4 - k]
    torch.testing.assert_close(method.sample(20, noise("chain")), method.x0(x, 60))


def test_cosims_transition_goes_from_one_forward_noising_to_any_lower_level():
    """In the scale t^(1/p), t is the root of a uniform between the ends and s uniform between the low one and jump t.

    x_0 is a constant, though it comes from the student.
    """
    method, again = moved(CoSIM, nfe=2, jump=0.6, level_low=20.0, level_power=3.0, batch=64), noise("kernel")
    x0, low, top = method.sample(64, again).detach(), 20 ** (1 / 3), 800 ** (1 / 3)
    root = low + (top - low) * again.uniform(64) ** 0.5
    below = torch.where(0.6 * root > low, 0.6 * root - low, 0.0)
    assert (below == 0).any()
    t, s = root**3, (low + below * again.uniform(64)) ** 3
    bar_t, bar_s = (method.teacher.schedule.alpha_bar(level)[:, None] for level in (t, s))
    x_t = bar_t.sqrt() * x0 + (1 - bar_t).sqrt() * again.normal(64, 2)
    eps = again.normal(64, 2)
    x_s = bar_s.sqrt() * method.x0(x_t, t) + (1 - bar_s).sqrt() * eps
    found = method.transition(noise("kernel"))
    torch.testing.assert_close(found, (x_s, eps, s, t, (1 / bar_s - 1).sqrt().squeeze(-1)))
    assert_same(found[0].square().sum(), x_s.square().sum(), method.student)


@pytest.mark.parametrize("cls", [SiD, EMD, DiffInstruct])
def test_critics_regress_the_noise_from_the_teachers(cls):
    """|eps* + critic - eps|^2 at noised draws of the student, which are constants."""
    method, again = moved(cls, batch=64), noise("critic")
    x0 = method.sample(64, again).detach()
    s, level, alpha, sigma = method.levels(again)
    eps = again.normal(64, 2)
    x = alpha * x0 + sigma * eps
    error = method.teacher.eps(x, s) + method.critic(x, level) - eps
    assert_same(method.regression(noise("critic"), CLOCK), error.square().sum(-1).mean(), method.critic)


def test_langevin_steps_of_emd_follow_the_density_they_name():
    """x' = x + h grad log rho + sqrt(2 h) n for eps and z, rho = p_s(x) / q_s(x) N(eps) N(z), by autograd.

    q_s is the mixture of the batch that the method draws, so that both densities are known; the step sizes are the
    defaults, and a chain of two evaluations makes the generator depend on z in every way it can.
    """
    options = {"student_score": "mixture", "cancel": "none", "batch": 16}
    method, again = moved(EMD, langevin=2, nfe=2, eta=(0.5,), **options), noise("E")
    z, eps = method.latents(16, again), again.normal(16, 2)
    _, _, alpha, sigma = method.levels(again)
    others = method.generate(method.latents(16, again)).detach()
    covariance = alpha[..., None] ** 2 * COVARIANCE.double() + sigma[..., None] ** 2 * torch.eye(2).double()
    p, standard = MultivariateNormal(alpha * MEAN, covariance), Normal(0.0, 1.0)
    components = Normal(alpha[:, None] * others, sigma[:, None])

    def log_rho(z: Tensor, eps: Tensor) -> Tensor:
        x = alpha * method.generate(z) + sigma * eps
        log_q = torch.logsumexp(components.log_prob(x[:, None]).sum(-1), dim=1)
        return (p.log_prob(x) - log_q).sum() + standard.log_prob(eps).sum() + standard.log_prob(z).sum()

    h, h_z = method.step_eps, method.step_z
    assert (h, h_z) == (0.1, 0.01)
    for _ in range(2):
        z, eps = z.detach().requires_grad_(), eps.detach().requires_grad_()
        of_z, of_eps = torch.autograd.grad(log_rho(z, eps), [z, eps])
        eps = eps + h * of_eps + (2 * h) ** 0.5 * again.normal(16, 2)
        z = z + h_z * of_z + (2 * h_z) ** 0.5 * again.normal(2, 16, 2)
    found = method.e_step(noise("E"))
    torch.testing.assert_close(found, (z.detach(), eps.detach(), alpha, sigma))


def test_level_weights_are_their_formulas():
    """sigma / alpha turns scores of x_s into eps seen from x_0, its square into x_0; scores times alpha are as is."""
    alpha, sigma = torch.tensor([[0.8], [0.28]]), torch.tensor([[0.6], [0.96]])
    for kind, expected in {"eps": (0.75, 0.96 / 0.28), "x0": (0.5625, (0.96 / 0.28) ** 2), "score": (1.0, 1.0)}.items():
        torch.testing.assert_close(level_weight(kind, alpha, sigma), torch.tensor(expected))
