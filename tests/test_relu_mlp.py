"""A ReLU network as one operation: the fused passes against autograd in float64 and against the network itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from bench.errors import UserError
from bench.fit.members import initialise
from bench.noise import DirectNoise, generator
from methods.base import Clock
from methods.native.relu_mlp import LIBRARY
from methods.parts.families import mlp
from methods.parts.relu_mlp import mlp_backend, relu_mlp
from methods.sivism import SIVISMTrick
from toy_gaussian import Gaussian

needs_compiler = pytest.mark.skipif(mlp_backend() != "fused", reason="no C++ compiler for the fused pass")

# d, hidden widths, d', rows: whole lines and vectors, parts of them, one linear map, more rows than one strip
SHAPES = [
    (2, (128, 128), 2, 500),
    (3, (50, 50), 2, 77),
    (21, (64, 33), 21, 130),
    (5, (), 4, 10),
    (1, (7,), 1, 1200),
    (6, (16, 16, 16), 5, 3),
]


def network(d: int, hidden: tuple[int, ...], out: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(d)
        return mlp(d, hidden, out)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def close(found: Tensor, expected: Tensor, tolerance: float = 3e-6) -> None:
    found, expected = found.detach(), expected.detach()
    assert found.shape == expected.shape
    assert float((found - expected).double().norm()) <= tolerance * float(expected.double().norm())


@needs_compiler
@pytest.mark.parametrize("d, hidden, out, n", SHAPES)
def test_values_and_gradients_are_those_of_autograd(d: int, hidden: tuple[int, ...], out: int, n: int) -> None:
    """All gradients at once, and each kind alone: what a loss does not need is not computed."""
    net, x, g = network(d, hidden, out), normal(n, d).requires_grad_(), normal(n, out)
    parameters = list(net.parameters())
    exact = network(d, hidden, out).double()
    expected = exact(x.double())
    gradients = torch.autograd.grad((expected * g).sum(), [x, *exact.parameters()])
    found = relu_mlp(net, x)
    close(found, expected)
    for a, b in zip(torch.autograd.grad((found * g).sum(), [x, *parameters]), gradients, strict=True):
        close(a, b)
    (alone,) = torch.autograd.grad((relu_mlp(net.requires_grad_(False), x) * g).sum(), [x])
    close(alone, gradients[0])
    net.requires_grad_()
    of_weights = torch.autograd.grad((relu_mlp(net, x.detach()) * g).sum(), parameters)
    for a, b in zip(of_weights, gradients[1:], strict=True):
        close(a, b)


@needs_compiler
def test_seeds_have_their_own_weights_and_a_traced_program_holds_one_node_per_pass() -> None:
    S, n, net = 3, 40, network(4, (20, 20), 2)
    stacked = {k: normal(S, *v.shape) / math.sqrt(v.shape[-1]) for k, v in net.named_parameters()}
    x, g = normal(S, n, 4), normal(n, 2)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return (functional_call(Caller(net), {f"net.{k}": v for k, v in parameters.items()}, (x,)) * g).sum()

    def plain(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return (functional_call(net, parameters, (x,)) * g).sum()

    batched = vmap(grad(loss, argnums=(0, 1)))
    (of_weights, of_x), (expected, expected_x) = batched(stacked, x), vmap(grad(plain, argnums=(0, 1)))(stacked, x)
    close(of_x, expected_x)
    for name, value in expected.items():
        close(of_weights[name], value)
    shared = vmap(grad(loss), in_dims=(0, None))(stacked, x[0])  # the same points for all
    for name, value in vmap(grad(plain), in_dims=(0, None))(stacked, x[0]).items():
        close(shared[name], value)
    targets = [str(node.target) for node in make_fx(batched)(stacked, x).graph.nodes]
    assert targets.count("sivibench.relu_mlp.default") == 1
    assert targets.count("sivibench.relu_mlp_backward.default") == 1
    assert not any("bmm" in target for target in targets)


class Caller(nn.Module):
    """``relu_mlp`` of a network whose parameters are replaced."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return relu_mlp(self.net, x)


@needs_compiler
def test_a_value_that_is_not_finite_shows_where_it_shows_in_torch() -> None:
    net = network(2, (20, 20), 3)
    x = normal(6, 2)
    x[1, 0], x[3, 1] = math.nan, math.inf
    x.requires_grad_()
    found, expected = relu_mlp(net, x), net(x)
    assert torch.equal(found.isfinite(), expected.isfinite())
    (gx,), (expected_gx,) = (torch.autograd.grad(y.sum(), [x]) for y in (found, expected))
    assert torch.equal(gx.isfinite(), expected_gx.isfinite())


@needs_compiler
def test_second_derivatives_are_refused() -> None:
    net, x = network(2, (8,), 1), normal(4, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(relu_mlp(net, x).sum(), [x], create_graph=True)
    with pytest.raises(NotImplementedError, match="call the network itself"):
        gradient.square().sum().backward()


def test_what_the_passes_do_not_cover_is_left_to_the_network() -> None:
    """Double precision, other activations and maps without bias: exactly the network's values."""
    x = normal(5, 3)
    assert torch.equal(relu_mlp(network(3, (8,), 2).double(), x.double()), network(3, (8,), 2).double()(x.double()))
    tanh = mlp(3, (8,), 2, "tanh")
    assert torch.equal(relu_mlp(tanh, x), tanh(x))
    bare = nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 2))
    assert torch.equal(relu_mlp(bare, x), bare(x))


@needs_compiler
def test_without_the_library_a_loss_of_sivi_sm_has_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both players of the game; which implementation was taken is in the record."""

    def gradients() -> list[Tensor]:
        method = initialise(lambda: SIVISMTrick(Gaussian(), batch=64), [0])[0]
        found = []
        for player in method.players():
            noise = DirectNoise(generator("test"))
            loss = player.loss(noise, Clock(torch.tensor(3.0), 10))
            wanted = [p for name, p in method.named_parameters() if name.startswith(player.owns)]
            found += torch.autograd.grad(loss, wanted)
        return found

    assert SIVISMTrick(Gaussian()).operations() == {"relu_mlp": "fused"}
    fused = gradients()
    monkeypatch.setenv("SIVIBENCH_FUSED", "0")
    assert SIVISMTrick(Gaussian()).operations() == {"relu_mlp": "torch"}
    for a, b in zip(fused, gradients(), strict=True):
        close(a, b, 1e-5)


def test_demanded_passes_without_a_compiler_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIVIBENCH_FUSED", "1")
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    LIBRARY.forget()
    try:
        with pytest.raises(UserError, match="SIVIBENCH_FUSED=1"):
            relu_mlp(network(2, (8,), 1), normal(4, 2))
    finally:
        LIBRARY.forget()
