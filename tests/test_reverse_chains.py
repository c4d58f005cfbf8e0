"""The fused HMC chains of UIVI against the same chains in torch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from bench.errors import UserError
from bench.fit.members import initialise
from bench.noise import DirectNoise, generator
from methods.base import Clock
from methods.native.reverse_chains import LIBRARY
from methods.parts.families import mlp
from methods.parts.reverse_chains import average_mean, chains_backend
from methods.uivi import UIVI
from toy_gaussian import Gaussian

needs_compiler = pytest.mark.skipif(
    chains_backend(mlp(2, (), 2), torch.zeros(1, 2)) != "fused", reason="no C++ compiler for the fused chains"
)
CHAINS = {"burn_in": 3, "samples": 2, "leapfrog": 3, "accept": 0.9}

# k, hidden widths, d, chains: parts of lines and vectors, one linear map, narrow and wide ends, more than one strip
SHAPES = [(2, (50, 50), 2, 16), (3, (64, 33), 21, 7), (10, (17,), 5, 1), (2, (), 2, 40), (7, (16, 16, 16), 3, 700)]


def problem(k: int, hidden: tuple[int, ...], d: int, n: int, seed: int = 0) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network and chains that start where they are in equilibrium."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, z = mlp(k, hidden, d), torch.randn(n, k)
        sigma = 0.5 + torch.rand(d)
        x = (net(z) + sigma * torch.randn(n, d)).detach()
    return net, {"sigma": sigma, "x": x, "z": z, "step": torch.tensor(0.3)}


def run(net: nn.Module, tensors: dict[str, Tensor], noise: DirectNoise | None = None) -> tuple[Tensor, Tensor]:
    return average_mean(net, **tensors, noise=noise or DirectNoise(generator("chains")), **CHAINS)


def without_library(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> tuple[Tensor, Tensor]:
    with monkeypatch.context() as patched:
        patched.setenv("SIVIBENCH_FUSED", "0")
        return run(*arguments)


@needs_compiler
@pytest.mark.parametrize("k, hidden, d, n", SHAPES)
def test_fused_chains_are_those_of_torch(k, hidden, d, n, monkeypatch):
    """With proposals both taken and refused, and steps that the adaptation changed."""
    net, tensors = problem(k, hidden, d, n)
    tensors["step"] = torch.tensor(0.8 if n > 1 else 0.3)
    (mean, step), (expected, adapted) = run(net, tensors), without_library(monkeypatch, net, tensors)
    torch.testing.assert_close(mean, expected, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(step, adapted, rtol=1e-6, atol=0)
    start = net(tensors["z"]).detach()
    if n > 1:
        assert float(step) != pytest.approx(float(tensors["step"]), rel=1e-4)
        stayed = (expected == start).all(1).float().mean()
        assert float(stayed) < 0.9


@needs_compiler
def test_seeds_have_their_own_networks_steps_and_draws(monkeypatch):
    """Under vmap, in one node of a traced program; what is the same for all seeds may be given once."""
    problems = [problem(3, (20, 20), 4, 12, seed) for seed in range(3)]
    nets = [net for net, _ in problems]
    stacked = {
        name: torch.stack([dict(net.named_parameters())[name] for net in nets])
        for name, _ in nets[0].named_parameters()
    }
    tensors = {name: torch.stack([given[name] for _, given in problems]) for name in ("x", "z", "step")}
    tensors["step"] = torch.tensor([0.1, 0.3, 0.9])
    sigma, T = problems[0][1]["sigma"], CHAINS["burn_in"] + CHAINS["samples"]
    source = DirectNoise(generator("seeds"))
    normals, uniforms = source.normal(3, T, 12, 3), source.uniform(3, T, 12)

    class Replay:
        """Draws that were made before."""

        def __init__(self, normals: Tensor, uniforms: Tensor) -> None:
            self.normals, self.uniforms = list(normals), list(uniforms)

        def normal(self, *shape: int) -> Tensor:
            return self.normals.pop(0)

        def uniform(self, *shape: int) -> Tensor:
            return self.uniforms.pop(0)

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nets[0]

        def forward(self, x, z, step, normals, uniforms):
            return run(self.net, {"sigma": sigma, "x": x, "z": z, "step": step}, Replay(normals, uniforms))

    def one(parameters, *arguments):
        return functional_call(Caller(), {f"net.{name}": p for name, p in parameters.items()}, arguments)

    arguments = (stacked, tensors["x"], tensors["z"], tensors["step"], normals, uniforms)
    mean, step = vmap(one)(*arguments)
    for seed, net in enumerate(nets):
        own = {"sigma": sigma, **{name: t[seed] for name, t in tensors.items()}}
        expected, adapted = without_library(monkeypatch, net, own, Replay(normals[seed], uniforms[seed]))
        torch.testing.assert_close(mean[seed], expected, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(step[seed], adapted, rtol=1e-6, atol=0)
    targets = [str(node.target) for node in make_fx(vmap(one))(*arguments).graph.nodes]
    assert targets.count("sivibench.reverse_chains.default") == 1
    assert not any("mm" in target for target in targets)


@needs_compiler
def test_a_trajectory_that_explodes_is_rejected_in_both(monkeypatch):
    net, tensors = problem(2, (20,), 2, 5)
    tensors["step"] = torch.tensor(1e30)
    for mean, step in (run(net, tensors), without_library(monkeypatch, net, tensors)):
        torch.testing.assert_close(mean, net(tensors["z"]).detach())
        assert float(step) == pytest.approx(1e30 * (1 - 0.01) ** CHAINS["burn_in"], rel=1e-5)


@needs_compiler
def test_a_chain_without_a_density_takes_no_step_and_the_others_do(monkeypatch):
    net, tensors = problem(2, (20,), 2, 5)
    tensors["x"][1, 0] = math.nan
    (mean, step), (expected, adapted) = run(net, tensors), without_library(monkeypatch, net, tensors)
    torch.testing.assert_close((mean, step), (expected, adapted), rtol=2e-5, atol=2e-5, equal_nan=True)


def test_what_the_chains_do_not_cover_is_left_to_torch():
    net, tensors = problem(2, (8,), 2, 4)
    double = {name: t.double() for name, t in tensors.items()}
    noise = DirectNoise(generator("double"), dtype=torch.float64)
    assert chains_backend(net.double(), double["z"]) == "torch"
    assert run(net, double, noise)[0].dtype == torch.float64
    tanh = mlp(2, (8,), 2, "tanh")
    assert chains_backend(tanh, tensors["z"]) == "torch"
    assert run(tanh, tensors)[0].shape == (4, 2)


@needs_compiler
@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"x": torch.zeros(1, 2)}, "do not fit"),
        ({"sigma": torch.ones(())}, "do not fit"),
        ({"step": torch.full((4, 1), 0.1)}, "do not fit"),
        ({"step": torch.tensor(0.1, dtype=torch.float64)}, "step has dtype"),
        ({"x": torch.zeros(4, 2, dtype=torch.float64)}, "x has dtype"),
    ],
)
def test_what_native_code_would_misread_is_refused(wrong, match):
    net, tensors = problem(2, (8,), 2, 4)
    with pytest.raises(ValueError, match=match):
        run(net, tensors | wrong)


def test_chains_without_a_step_are_refused():
    net, tensors = problem(2, (8,), 2, 4)
    for none in ("samples", "leapfrog"):
        with pytest.raises(UserError, match=none):
            average_mean(net, **tensors, noise=DirectNoise(generator("none")), **CHAINS | {none: 0})


@needs_compiler
def test_a_loss_of_uivi_has_the_same_gradients_without_the_library(monkeypatch):
    """Which implementation was taken is in the record."""

    def gradients() -> list[Tensor]:
        method = initialise(lambda: UIVI(Gaussian(), outer=30, step_size=0.05), [0])[0]
        (player,) = method.players()
        assert player.loss is not None
        loss, _ = player.loss(DirectNoise(generator("test")), Clock(torch.tensor(3.0), 10))
        return list(torch.autograd.grad(loss, list(method.q.parameters())))

    assert UIVI(Gaussian()).operations() == {"reverse_chains": "fused"}
    fused = gradients()
    monkeypatch.setenv("SIVIBENCH_FUSED", "0")
    assert UIVI(Gaussian()).operations() == {"reverse_chains": "torch"}
    for a, b in zip(fused, gradients(), strict=True):
        assert float((a - b).norm()) <= 2e-5 * float(b.norm())


def test_demanded_chains_without_a_compiler_are_an_error(monkeypatch):
    monkeypatch.setenv("SIVIBENCH_FUSED", "1")
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    LIBRARY.forget()
    try:
        with pytest.raises(UserError, match="SIVIBENCH_FUSED=1"):
            run(*problem(2, (8,), 2, 4))
    finally:
        LIBRARY.forget()
