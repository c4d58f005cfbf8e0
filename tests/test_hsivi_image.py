"""HSIVI-SM as released: layers, objective, recomputation, precision, the code's schedules."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal
from torch.func import functional_call, grad, vmap

from bench.errors import UserError
from bench.noise import DirectNoise, generator
from methods.base import Clock
from methods.diffusion.recompute import evaluated
from methods.diffusion.steps import Steps
from methods.hsivi_image import HSIVIImage
from methods.parts.optim import AMSGrad
from targets.diffusion.card import TeacherCard
from targets.diffusion.files import open_teacher, publish
from targets.diffusion.grids import time_grid
from targets.diffusion.networks import make_network
from targets.diffusion.networks.image_unet import ImageUNet
from targets.diffusion.schedule import linear_schedule
from toy_gaussian import Gaussian
from toy_images import ToyImages


def noise(name: str = "test") -> DirectNoise:
    return DirectNoise(generator(name))


def exact_noise() -> DirectNoise:
    return DirectNoise(generator("exact"), dtype=torch.float64)


def moved(**options) -> HSIVIImage:
    """A method in float64 whose student, factors and critic are away from the teacher, where they start."""
    method = HSIVIImage(ToyImages(), eta=0.5, **options).double()
    with torch.no_grad():
        for i, parameter in enumerate(p for p in method.parameters() if p.requires_grad):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator("move", i)))
    return method


def test_starts_at_ddim():
    """The published start: DDIM(0.2) on the quadratic grid, on the same noise, no noise in the last layer."""
    method = HSIVIImage(ToyImages(), nfe=5)
    schedule = linear_schedule()
    steps = Steps(time_grid("quad", 5, schedule), schedule, (0.2,))
    assert steps.times == (0, 32, 128, 288, 512, 800)
    draws = noise()
    x = draws.normal(50, 2)
    for k in range(5, 0, -1):
        x = steps.mean(k, x, method.teacher.eps(x, float(steps.times[k])))
        x = x + steps.sd[k] * draws.normal(50, 2) if k > 1 else x
    torch.testing.assert_close(method.sample(50, noise()), x)


@pytest.mark.parametrize("gamma", ["scalar", "pixel"])
def test_a_transition_is_a_step_of_the_chain_with_its_conditional_score(gamma):
    """Rows land where the rollout of the chain would bring them, layers are mirrored, r = -sigma score, gamma moved."""
    method, draws = moved(nfe=4, batch=2000, gamma=gamma), exact_noise()
    half = (draws.uniform(1001) * 4).long()
    layer = torch.cat([half, 3 - half])[:2000]
    assert torch.bincount(layer).min() > 400 and torch.equal(layer[1001:], 3 - layer[:999])
    s, net, factor = method.steps, method.student["net"], method.student["scale"].log_gamma[0].detach().exp()
    assert (factor - 1).abs().min() > 0.01
    x = draws.normal(2000, 2)
    states = [x]
    for k in (4, 3, 2):
        x = s.mean(k, x, net(x, float(s.times[k]))) + factor * s.sd[k] * draws.normal(2000, 2)
        states.append(x)
    kept = torch.stack(states)[layer, torch.arange(2000)]
    z = draws.normal(2000, 2)
    found, r, t, sigma = method.transition(exact_noise(), kept=False)
    for i, k in enumerate((4, 3, 2, 1)):
        rows = layer == i
        mean = s.mean(k, kept[rows], net(kept[rows], float(s.times[k]))).detach()
        expected = (mean + factor * s.sd[k] * z[rows]).requires_grad_()
        (score,) = torch.autograd.grad(Normal(mean, factor * s.sd[k]).log_prob(expected).sum(), expected)
        torch.testing.assert_close(found[rows], expected, rtol=1e-4, atol=1e-5)  # its levels are kept in float32
        torch.testing.assert_close(r[rows], -s.sigma[k - 1] * score, rtol=1e-4, atol=1e-5)
        assert (t[rows] == s.times[k - 1]).all()
        torch.testing.assert_close(sigma[rows], torch.full_like(sigma[rows], s.sigma[k - 1]))


@pytest.mark.parametrize("gamma", ["scalar", "pixel"])
def test_a_draw_is_the_chain_with_the_learned_factor(gamma):
    method, draws = moved(nfe=3, gamma=gamma), exact_noise()
    x, s, factor = draws.normal(50, 2), method.steps, method.student["scale"].log_gamma[0].exp()
    for k in (3, 2, 1):
        x = s.mean(k, x, method.student["net"](x, float(s.times[k])))
        x = x + factor * s.sd[k] * draws.normal(50, 2) if k > 1 else x
    torch.testing.assert_close(method.sample(50, exact_noise()), x)


def test_objective_is_zero_where_critic_and_teacher_agree():
    """At the start f = eps*: the game has nothing to say, the critic's loss is sigma^2 |eps* - r|^2."""
    method = HSIVIImage(ToyImages(), nfe=3, batch=64)
    clock = Clock(torch.zeros(()), 10)
    assert method.fisher(noise(), clock) == 0
    x, r, t, sigma = method.transition(noise(), kept=False)
    expected = (sigma * (method.teacher.eps(x, t) - r)).square().sum(-1).mean()
    torch.testing.assert_close(method.regression(noise(), clock), expected)


def test_the_students_loss_is_the_weighted_game():
    """sigma^2 (2 <g, r - eps*> - 2 alpha |g|^2), g = f - eps*, with its gradient through x, r and both networks."""
    method, clock = moved(nfe=3, batch=64, alpha=0.8), Clock(torch.zeros(()), 10)
    x, r, t, sigma = method.transition(exact_noise(), kept=True)
    eps = method.teacher(x, t)
    g = method.critic(x, t) - eps
    expected = (sigma.squeeze(-1) ** 2 * (2 * (g * (r - eps)).sum(-1) - 1.6 * (g * g).sum(-1))).mean()
    found = method.fisher(exact_noise(), clock)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, list(method.student.parameters())) for loss in (found, expected)]
    torch.testing.assert_close(*gradients)
    assert min(g.abs().max() for g in gradients[0]) > 1e-3


def test_options_reach_their_players():
    rates = {"lr": 0.01, "lr_critic": 0.02, "clip": 3.0, "ema": 0.4, "critic_steps": 7}
    critic, student = HSIVIImage(ToyImages(), **rates).players()
    assert (critic.name, critic.owns, critic.optimiser) == ("critic", ("critic",), AMSGrad(0.02))
    assert (critic.steps, critic.clip, critic.ema) == (7, 3.0, None)
    assert (student.name, student.owns, student.optimiser) == ("student", ("student",), AMSGrad(0.01))
    assert (student.steps, student.clip, student.ema, student.ema_warm_up) == (1, 3.0, 0.4, True)


def unet(seed: int) -> ImageUNet:
    torch.manual_seed(seed)
    return ImageUNet((1, 4, 4), width=32, multipliers=(1,), blocks=1, attention=())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recomputation_changes_no_gradient(precision):
    """Two networks in a row under vmap(grad): of the first the parameters move, through the second only x."""
    first, second = unet(0), unet(1).requires_grad_(False)
    x, t = torch.randn(3, 16), torch.tensor([0.0, 301.0, 799.0])
    pair = torch.nn.ModuleList([first, second])

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.recompute = pair, False

        def forward(self, x, t):
            for net in self.pair:
                x = x + evaluated(net, x, t, precision=precision, recompute=self.recompute)
            return x.square().sum()

    loss = Loss()
    theta = {f"pair.0.{n}": p.detach().unsqueeze(0) for n, p in first.named_parameters()}
    gradients = []
    for loss.recompute in (False, True):
        gradients.append(vmap(grad(lambda values, t: functional_call(loss, values, (x, t))))(theta, t.unsqueeze(0)))
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-3, atol=1e-4)
        assert value.abs().max() > 0


def test_half_precision_keeps_times_and_is_near():
    net, x, t = unet(0), torch.randn(4, 16), torch.tensor([0.0, 3.0, 501.0, 799.0])
    near = evaluated(net, x, t, precision="bfloat16", recompute=False)
    exact = net(x, t)
    assert near.dtype == torch.float32 and not torch.equal(near, exact)
    assert (near - exact).norm() / exact.norm() < 0.02


def test_schedules_of_the_code():
    """Rates at some of the code's iterations, 20 to one of ours: warm-up 2500, then 0.9 per 3000 or a cosine to it."""
    for decay, at_100k, at_end in (("staircase", 0.9**33, 0.9**66), ("cosine", (1 + 0.9**66) / 2, 0.9**66)):
        factor = HSIVIImage(ToyImages(), decay=decay).players()[0].schedule
        values = [float(factor(Clock(torch.tensor(float(i // 20 - 1)), 10_000))) for i in (500, 100_000, 200_000)]
        assert values == pytest.approx([0.2, at_100k, at_end], rel=1e-4)


def test_amsgrad_is_torchs():
    theta = torch.tensor([1.0, -2.0, 3.0])
    parameter = torch.nn.Parameter(theta.clone())
    reference, rule = torch.optim.Adam([parameter], 0.1, amsgrad=True), AMSGrad(0.1)
    slots = {slot: torch.zeros(3) for slot in rule.slots}
    for i in range(20):
        gradient = torch.sin(theta * (i + 1)) / (i + 1)
        parameter.grad = torch.sin(parameter.detach() * (i + 1)) / (i + 1)
        reference.step()
        direction, slots = rule.step(gradient, slots, torch.tensor(i + 1.0))
        theta = theta - rule.lr * direction
    torch.testing.assert_close(theta, parameter.detach())


def test_an_exact_teacher_has_no_network():
    class Exact(Gaussian):
        @property
        def provides(self):
            return super().provides | {"images"}

    with pytest.raises(UserError, match="no network to copy"):
        HSIVIImage(Exact(), schedule="linear")


def test_a_start_of_another_noise_schedule_is_refused(tmp_path):
    """The same times would be other noise levels to it than to the teacher."""
    for name in ("linear", "cosine"):
        card = TeacherCard("film_mlp", {"hidden": 8, "blocks": 1}, ToyImages.shape, "toy", {"name": name}, "", run=name)
        publish(make_network(card.network, card.shape, card.arguments), card, tmp_path)
    linear, cosine = (str(tmp_path / f"{name}.safetensors") for name in ("linear", "cosine"))

    class Trained(ToyImages):
        def teacher(self, schedule=None):
            return open_teacher(linear, shape=self.shape, data="toy", schedule=schedule, make="")

    HSIVIImage(Trained(), start=linear)
    HSIVIImage(ToyImages(), start=linear)
    with pytest.raises(
        UserError, match=r"(?s)method\.start=.*'cosine'.*another noise schedule.*'linear'.*target\.teacher"
    ):
        HSIVIImage(Trained(), start=cosine)
    with pytest.raises(UserError, match="another noise schedule"):
        HSIVIImage(ToyImages(), start=cosine)
