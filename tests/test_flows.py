"""Every flow: draws and densities agree, mass one, and the families differ in what they are said to differ in."""

from __future__ import annotations

import pytest
import torch

from bench.errors import UserError
from bench.noise import DirectNoise, generator
from bench.registry import entries
from methods.flows import IAF, NSF, FlowMethod, RealNVP
from targets.base import Target
from toy_gaussian import Gaussian

FLOWS = sorted(name for name, entry in entries("method").items() if issubclass(entry.obj, FlowMethod))


class Standard(Target):
    """N(0, I_d), unnormalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def log_prob(self, x):
        return -0.5 * x.square().sum(-1)


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("flows", *parts))


@torch.no_grad()
def shaken(name: str, target: Target, **arguments) -> FlowMethod:
    """An instance whose parameters are far enough from the start for a wrong Jacobian to show."""
    torch.manual_seed(0)
    method = entries("method")[name].obj(target, transforms=2, hidden=(16,), **arguments)
    for parameter in method.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    return method


@pytest.mark.parametrize("name", FLOWS)
@torch.no_grad()
def test_density_integrates_to_one_and_is_that_of_the_draws(name):
    method = shaken(name, Gaussian())
    x, log_q = method._push(noise(name).normal(200, 2))
    torch.testing.assert_close(method.log_prob(x), log_q, rtol=1e-3, atol=2e-3)
    assert method.log_prob(x.view(4, 50, 2)).shape == (4, 50)
    axis = torch.linspace(-12, 12, 481)
    mass = method.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(float(mass) - 1) < 0.01


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("dim", [1, 5])
@torch.no_grad()
def test_density_of_draws_in_other_dimensions(name, dim):
    method = shaken(name, Standard(dim), **({"coupling_above": 3} if name == "nsf" else {}))
    x, log_q = method._push(noise(name, dim).normal(50, dim))
    torch.testing.assert_close(method.log_prob(x), log_q, rtol=1e-3, atol=2e-3)


def jacobian_pattern(method: FlowMethod, dim: int) -> torch.Tensor:
    """[d, d] of bools: does x_i react to eps_j, for a flow of one step."""
    eps = noise("jacobian").normal(1, dim)
    return torch.func.jacrev(lambda e: method._push(e)[0][0])(eps)[:, 0].abs() > 1e-7


@torch.no_grad()
def one_step(cls, dim: int, **arguments) -> FlowMethod:
    torch.manual_seed(0)
    method = cls(Standard(dim), transforms=1, hidden=(16,), **arguments)
    for parameter in method.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return method


def test_couplings_let_one_half_pass_and_autoregressive_steps_are_triangular():
    below = torch.ones(4, 4, dtype=torch.bool).tril()
    half = torch.eye(4, dtype=torch.bool)
    half[2:, :2] = True
    for cls, arguments, expected in (
        (IAF, {}, below),
        (RealNVP, {}, half),
        (NSF, {"coupling_above": 3}, half),
        (NSF, {}, below),
    ):
        assert torch.equal(jacobian_pattern(one_step(cls, 4, **arguments), 4), expected), cls


def test_splines_move_mass_that_lies_far_from_the_origin():
    """The shift and scale before the splines bring a distant target into [-5, 5]."""
    method = one_step(NSF, 2)
    eps = noise("far").normal(100, 2)
    with torch.no_grad():
        here, _ = method._push(eps)
        shift, log_scale = (p for n, p in method.flow.named_parameters() if n.startswith("transform.transforms.0."))
        shift.sub_(30 * log_scale.exp())
        there, _ = method._push(eps)
    spread = (there - here).std(0) / here.std(0)
    assert (there.mean(0) - here.mean(0)).min() > 15 and spread.max() < 1e-3


@pytest.mark.parametrize("arguments", [{"transforms": 0}, {"bins": 1}, {"lr": -1.0}, {"clip": 0.0}])
def test_impossible_hyper_parameters_are_refused(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(UserError, match=rf"method\.{name}={value} must be"):
        NSF(Gaussian(), **arguments)
