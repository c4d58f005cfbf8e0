"""HSIVI-SM on diffusions against closed forms on Gaussians: DDIM, DPM-Solver++ and UniPC at the start, Fisher."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench import registry
from bench.errors import UserError
from bench.noise import DirectNoise, generator
from methods.base import Clock
from methods.diffusion.games import regression
from methods.diffusion.layered import LayeredSampler
from methods.diffusion.layers import antithetic
from methods.diffusion.steps import Start, Steps
from methods.hsivi_diffusion import HSIVIDiffusion
from toy_gaussian import COVARIANCE, MEAN, Gaussian


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("diffusion methods", *parts))


def clock() -> Clock:
    return Clock(torch.zeros(()), 100)


class Linear(torch.nn.Module):
    """Stands for a network: y = x W_l' + b_l for row block l, whatever the level."""

    def __init__(self, weights: Tensor, biases: Tensor) -> None:
        super().__init__()
        self.weights, self.biases = torch.nn.Parameter(weights), torch.nn.Parameter(biases)

    def forward(self, x: Tensor, *levels: Tensor) -> Tensor:
        if self.weights.dim() == 2:
            return x @ self.weights.T + self.biases
        return torch.einsum("lnd,led->lne", x, self.weights) + self.biases.unsqueeze(1)

    def one(self, x: Tensor, l: int) -> Tensor:
        return x @ self.weights[l].T + self.biases[l]


def affine_teacher(method: HSIVIDiffusion, t: float) -> tuple[Tensor, Tensor]:
    """eps*(x, t) = A x + b of the Gaussian target."""
    zero = torch.zeros(1, 2)
    b = method.teacher.eps(zero, t)[0]
    return torch.stack([method.teacher.eps(zero + row, t)[0] - b for row in torch.eye(2)], dim=1), b


# --- HSIVI ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["per_layer", "shared"])
@pytest.mark.parametrize("gamma", ["fixed", "coordinate"])
def test_hsivi_starts_as_ddim_on_the_same_noise(network, gamma):
    """DDIM(eta = 0.2) on the quad grid, written out as in the paper, in float64."""
    method = HSIVIDiffusion(Gaussian(), nfe=5, network=network, gamma=gamma).double()
    x, schedule, times = noise("start").normal(500, 2).double(), method.teacher.schedule, (0, 32, 128, 288, 512, 800)

    class Doubled(DirectNoise):
        def normal(self, *shape: int) -> Tensor:
            return super().normal(*shape).double()

    drawn = Doubled(generator("diffusion methods", "start"))
    mine = method.sample(500, drawn)
    again = noise("start")
    x = again.normal(500, 2).double()
    for k in range(5, 0, -1):
        now, then = schedule.alpha_bar(times[k]), schedule.alpha_bar(times[k - 1])
        eps = method.teacher.eps(x, times[k])
        sd = 0.2 * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
        x0 = (x - math.sqrt(1 - now) * eps) / math.sqrt(now)
        x = math.sqrt(then) * x0 + math.sqrt(1 - then - sd**2) * eps
        if k > 1:
            x = x + sd * again.normal(500, 2).double()
    torch.testing.assert_close(mine, x, rtol=1e-6, atol=1e-6)


def gaussian_layer() -> tuple[HSIVIDiffusion, Tensor, Tensor]:
    """One layer t = 800 -> 100 whose student is off by a linear map, and mean and covariance of what it lands on."""
    method = HSIVIDiffusion(
        Gaussian(), nfe=1, grid="explicit", times=(100, 800), eta=(1.0,), weight="one", trajectories=100_000
    )
    W, c = torch.tensor([[[0.02, 0.01], [-0.03, 0.02]]]), torch.tensor([[0.05, -0.02]])
    method.student["net"] = Linear(W, c)
    A, b = affine_teacher(method, 800)
    steps = method.steps
    slope = steps.mean(1, torch.eye(2), (A + W[0]).T).T
    mean = steps.mean(1, torch.zeros(2), b + c[0])
    return method, mean.detach(), (slope @ slope.T + steps.sd[1] ** 2 * torch.eye(2)).detach()


def oracle(method: HSIVIDiffusion, mean: Tensor, covariance: Tensor) -> None:
    """Give the layer the best critic: f = -sigma score of N(mean, covariance), as a residual on the teacher."""
    sigma = method.steps.sigma[0]
    A, b = affine_teacher(method, 100)
    precision = torch.linalg.inv(covariance)
    weights, biases = sigma * precision - A, -sigma * precision @ mean - b
    method.critic = Linear(weights.unsqueeze(0), biases.unsqueeze(0)).requires_grad_(False)


def fisher(mean: Tensor, covariance: Tensor, alpha: float, sigma: float) -> Tensor:
    """sigma^2 E_q |score_p - score_q|^2 for Gaussians, p being N(alpha MEAN, alpha^2 COVARIANCE + sigma^2 I)."""
    p = torch.linalg.inv(alpha**2 * COVARIANCE.double() + sigma**2 * torch.eye(2, dtype=torch.float64))
    q = torch.linalg.inv(covariance.double())
    slope = q - p
    offset = p @ (alpha * MEAN.double() - mean.double())
    return sigma**2 * (torch.trace(slope @ covariance.double() @ slope.T) + offset @ offset)


def test_student_loss_with_the_best_critic_is_the_fisher_divergence():
    method, mean, covariance = gaussian_layer()
    oracle(method, mean, covariance)
    exact = float(fisher(mean, covariance, method.steps.alpha[0], method.steps.sigma[0]))
    value = float(method.fisher(noise("fisher"), clock()).detach())
    assert exact > 0.02
    # 100,000 rows: the standard error is below 1 % of the value
    assert abs(value - exact) < 0.03 * exact


def test_gradient_of_the_student_loss_is_that_of_the_divergence():
    """With the critic fixed at its optimum the total derivative is the partial one (envelope theorem)."""
    method, mean, covariance = gaussian_layer()
    oracle(method, mean, covariance)
    net = method.student["net"]
    method.fisher(noise("gradient"), clock()).backward()

    W = net.weights.detach().double()[0].requires_grad_()
    c = net.biases.detach().double()[0].requires_grad_()
    A, b = (part.double() for part in affine_teacher(method, 800))
    steps = method.steps
    slope = steps.mean(1, torch.eye(2, dtype=torch.float64), (A + W).T).T
    mean = steps.mean(1, torch.zeros(2, dtype=torch.float64), b + c)
    covariance = slope @ slope.T + steps.sd[1] ** 2 * torch.eye(2, dtype=torch.float64)
    sigma, alpha = steps.sigma[0], steps.alpha[0]
    p = torch.linalg.inv(alpha**2 * COVARIANCE.double() + sigma**2 * torch.eye(2, dtype=torch.float64))
    q = torch.linalg.inv(covariance)
    offset = p @ (alpha * MEAN.double() - mean)
    divergence = torch.trace((q - p) @ covariance @ (q - p).T) + offset @ offset
    (sigma**2 * divergence).backward()
    exact = torch.cat([W.grad.flatten(), c.grad])
    found = torch.cat([net.weights.grad.flatten(), net.biases.grad.flatten()]).double()
    assert (found - exact).norm() < 0.03 * exact.norm()


def test_critics_loss_is_least_at_minus_sigma_times_the_score():
    method, mean, covariance = gaussian_layer()
    oracle(method, mean, covariance)
    losses = []
    for change in (0.0, 0.1, -0.1):
        critic = Linear(method.critic.weights + change * torch.eye(2), method.critic.biases + change)
        x, r = method.transitions(100_000, noise("critic"))
        losses.append(float(regression(critic(x), method.teachers(x), r).mean().detach()))
    assert losses[0] < min(losses[1:])
    best = Linear(method.critic.weights.clone(), method.critic.biases.clone())
    x, r = (part.detach() for part in method.transitions(100_000, noise("critic")))
    regression(best(x), method.teachers(x), r).mean().backward()
    assert best.weights.grad.abs().max() < 0.02 and best.biases.grad.abs().max() < 0.02


def test_best_layer_on_gaussian_data_recovers_mean_and_standard_deviation():
    """Gradient descent against the oracle critic, recomputed at every step, ends at the marginal of the teacher."""
    method = HSIVIDiffusion(
        Gaussian(), nfe=1, grid="explicit", times=(100, 800), eta=(1.0,), weight="one", gamma="scalar", trajectories=256
    )
    method.student["net"] = Linear(torch.zeros(1, 2, 2), torch.zeros(1, 2))
    A, b = affine_teacher(method, 800)
    steps, net = method.steps, method.student["net"]

    def law() -> tuple[Tensor, Tensor]:
        slope = steps.mean(1, torch.eye(2), (A + net.weights[0]).T).T
        noise_sd = steps.sd[1] * method.gamma(0).reshape(())
        mean = steps.mean(1, torch.zeros(2), b + net.biases[0])
        return mean.detach(), (slope @ slope.T + noise_sd**2 * torch.eye(2)).detach()

    optimiser = torch.optim.Adam(method.student.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.985)
    for step in range(200):
        oracle(method, *law())
        optimiser.zero_grad()
        method.fisher(noise("recover", step), clock()).backward()
        optimiser.step()
        schedule.step()
    mean, covariance = law()
    alpha, sigma = steps.alpha[0], steps.sigma[0]
    torch.testing.assert_close(mean, alpha * MEAN, atol=0.03, rtol=0)
    torch.testing.assert_close(covariance, alpha**2 * COVARIANCE + sigma**2 * torch.eye(2), atol=0.06, rtol=0)


def test_antithetic_rows_give_every_layer_its_share():
    method = HSIVIDiffusion(Gaussian(), nfe=4, eta=(1.0,), rows="antithetic", trajectories=4000)
    chosen = method.chosen(noise("rows"))
    torch.testing.assert_close(chosen.sum(0), torch.ones(4000))
    assert torch.equal(chosen.argmax(0), antithetic(4000, 4, noise("rows")))


@pytest.mark.parametrize("n, count", [(40_000, 5), (4_001, 2), (2, 3), (1, 3)])
def test_antithetic_layers_are_uniform_and_mirrored(n, count):
    """The drawn rows are uniform (a pair is one draw, hence the 4.5 standard errors of half the rows)."""
    layer, half = antithetic(n, count, noise("antithetic", n)), n // 2 + 1
    assert layer.shape == (n,) and layer.dtype == torch.int64 and 0 <= layer.min() and layer.max() < count
    assert torch.equal(layer[half:], count - 1 - layer[: n - half])
    share = torch.bincount(layer, minlength=count) / n
    error = math.sqrt((count - 1) / count**2 / half)
    torch.testing.assert_close(share, torch.full((count,), 1 / count), atol=4.5 * error, rtol=0)


def test_frozen_layers_have_no_networks_and_step_as_the_teacher():
    """Three layers, the two lowest frozen: after the trained one, DDIM's steps."""
    method = HSIVIDiffusion(Gaussian(), nfe=3, frozen=2, hidden=(4,), eta=(0.2, 0.2, 1.0))
    assert len(method.student["net"].weights[0]) == 1
    with torch.no_grad():
        method.student["net"].biases[-1].add_(0.1)
    found, again, steps = method.sample(5, noise("frozen")), noise("frozen"), method.steps
    x = again.normal(5, 2)
    for k, shift in ((3, 0.1), (2, 0.0), (1, 0.0)):
        x = steps.mean(k, x, method.teacher.eps(x, steps.times[k]) + shift)
        x = x + steps.sd[k] * again.normal(5, 2) if k > 1 else x
    torch.testing.assert_close(found, x)


def dpm_solver_pp(k: int, x: Tensor, x0: Tensor, before: Tensor | None, steps: Steps, sde: bool) -> Tensor:
    """Mean of a step of DPM-Solver++(2M) or SDE-DPM-Solver++(2M) as its paper writes it, in h = lambda' - lambda."""
    lam, h = steps.half_log_snr, steps.half_log_snr[k - 1] - steps.half_log_snr[k]
    if before is not None and k > 1:
        x0 = x0 + h / (2 * (lam[k] - lam[k + 1])) * (x0 - before)
    decay = 2 * h if sde else h
    ratio = steps.sigma[k - 1] / steps.sigma[k] * (math.exp(-h) if sde else 1.0)
    return ratio * x - steps.alpha[k - 1] * math.expm1(-decay) * x0


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_second_order_layers_start_as_dpm_solver_pp(eta):
    """The variant ``layer=dpmpp``, but for one trained layer that needs noise: the published steps, noise included."""
    times = (0, 14, 50, 130, 300, 800)
    etas = (*[eta] * 4, 1.0)
    method = HSIVIDiffusion(Gaussian(), nfe=5, grid="explicit", times=times, eta=etas, frozen=4, layer="dpmpp")
    found, again, steps, before = method.sample(50, noise("2M")), noise("2M"), method.steps, None
    x = again.normal(50, 2)
    for k in range(5, 0, -1):
        x0, sde = method.teacher.x0(x, times[k]), etas[k - 1] == 1.0
        x, before = dpm_solver_pp(k, x, x0, before, steps, sde), x0
        if sde:
            h = steps.half_log_snr[k - 1] - steps.half_log_snr[k]
            assert steps.sd[k] == pytest.approx(steps.sigma[k - 1] * math.sqrt(-math.expm1(-2 * h)), rel=1e-6)
        x = x + steps.sd[k] * again.normal(50, 2) if k > 1 else x
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("history", ["student", "teacher", "none"])
def test_layers_below_a_trained_one_extrapolate_from_the_history_named(history, corrector):
    """As the records have it: a student that has moved, noise above, the solver below."""
    times, etas = (0, 14, 50, 130, 300, 800), (0, 0, 0, 1, 1)
    options = {"frozen": 3, "layer": "dpmpp", "history": history, "corrector": corrector}
    method = HSIVIDiffusion(Gaussian(), nfe=5, grid="explicit", times=times, eta=etas, **options)
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(0.1)  # away from the teacher
    found, again, steps, before, above = method.sample(50, noise("H")), noise("H"), method.steps, None, None
    x, net = again.normal(50, 2), method.student["net"]
    for i, k in enumerate(range(5, 0, -1)):
        teacher = method.teacher.eps(x, times[k])
        eps = teacher + net.one(x, i) if i < 2 else teacher
        before = None if history == "none" and i == 2 else before
        if corrector and i > 2:
            x, eps = steps.corrected(k, x, eps, above)
            teacher = eps
        correction, x0 = steps.extrapolation(k, x, teacher if history == "teacher" else eps, before)
        above = Start(x, x0, before)
        x, before = steps.mean(k, x, eps + correction), x0
        x = x + steps.sd[k] * again.normal(50, 2) if k > 1 else x
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("above", [1, 2])
def test_frozen_layers_with_the_corrector_are_unipc(above):
    """From the state that the upper layers (of one step or two, without noise here) have made."""
    pytest.importorskip("diffusers")
    times = (0, 14, 50, 130, 300, 800)
    grid = {"nfe": 5, "grid": "explicit", "times": times}
    layers = LayeredSampler(Gaussian(), layer="dpmpp", eta=(0.0,), frozen=5 - above, corrector=True, **grid)
    solver = registry.get("method", "solver_unipc").obj(Gaussian(), **grid)
    solver.options = lambda: {**type(solver).options(solver), "disable_corrector": list(range(above))}
    torch.testing.assert_close(layers.sample(50, noise("U")), solver.sample(50, noise("U")), rtol=1e-4, atol=1e-4)
    without = LayeredSampler(Gaussian(), layer="dpmpp", eta=(0.0,), frozen=5 - above, **grid)
    assert (layers.sample(50, noise("U")) - without.sample(50, noise("U"))).abs().max() > 1e-2


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"history": "teacher"}, "layer=dpmpp"),
        ({"corrector": True, "frozen": 2, "eta": (0.0, 0.0, 1.0, 1.0, 1.0)}, "layer=ddim and frozen=2"),
        ({"corrector": True, "frozen": 1, "layer": "dpmpp", "eta": (0.0, 1.0, 1.0, 1.0, 1.0)}, "frozen=1"),
        ({"corrector": True, "frozen": 2, "layer": "dpmpp", "eta": (0.0, 0.2, 1.0, 1.0, 1.0)}, "without noise"),
        ({"history": "none", "frozen": 1}, "layer=dpmpp"),
        ({"history": "none", "layer": "dpmpp"}, "frozen > 0"),
        ({"eta": (0.2, 0.2)}, "eta"),
        ({"eta": (1.5,)}, "eta"),
        ({"eta": (0.0,)}, "eta=0"),
        ({"frozen": 5}, "frozen"),
        ({"grid": "explicit", "times": (0, 5)}, "times"),
        ({"alpha": 0.0}, "alpha"),
        ({"ema": 1.5}, "ema"),
    ],
)
def test_impossible_options_are_refused(arguments, named):
    with pytest.raises(UserError, match=named):
        HSIVIDiffusion(Gaussian(), **arguments)
