"""HSIVI-SM as released: layers, objective, recomputation, precision, the code's schedules."""

from __future__ import annotations

import pytest
import torch
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


def test_a_transition_is_a_step_of_the_chain_with_its_conditional_score():
    """Rows land where the rollout of the chain would bring them, layers are mirrored, r = sigma z / sd."""
    method = HSIVIImage(ToyImages(), nfe=4, batch=2000, gamma="scalar", eta=0.5)
    draws = noise()
    half = (draws.uniform(1001) * 4).long()
    layer = torch.cat([half, 3 - half])[:2000]
    assert torch.bincount(layer).min() > 400 and torch.equal(layer[1001:], 3 - layer[:999])
    x, kept = draws.normal(2000, 2), None
    states = [x]
    for k in (4, 3, 2):
        eps = method.teacher.eps(x, float(method.steps.times[k]))
        x = method.steps.mean(k, x, eps) + method.steps.sd[k] * draws.normal(2000, 2)
        states.append(x)
    kept = torch.stack(states)[layer, torch.arange(2000)]
    z = draws.normal(2000, 2)
    found, r, t, sigma = method.transition(noise(), kept=False)
    for i, k in enumerate((4, 3, 2, 1)):
        rows, s = layer == i, method.steps
        expected = s.mean(k, kept[rows], method.teacher.eps(kept[rows], float(s.times[k]))) + s.sd[k] * z[rows]
        torch.testing.assert_close(found[rows], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(r[rows], z[rows] * s.sigma[k - 1] / s.sd[k], rtol=1e-4, atol=1e-5)
        assert (t[rows] == s.times[k - 1]).all()
        torch.testing.assert_close(sigma[rows], torch.full_like(sigma[rows], s.sigma[k - 1]))


def test_objective_is_zero_where_critic_and_teacher_agree():
    """At the start f = eps*: the game has nothing to say, the critic's loss is sigma^2 |eps* - r|^2."""
    method = HSIVIImage(ToyImages(), nfe=3, batch=64)
    clock = Clock(torch.zeros(()), 10)
    assert method.fisher(noise(), clock) == 0
    x, r, t, sigma = method.transition(noise(), kept=False)
    expected = (sigma * (method.teacher.eps(x, t) - r)).square().sum(-1).mean()
    torch.testing.assert_close(method.regression(noise(), clock), expected)


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
