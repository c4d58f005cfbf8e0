"""A ReLU network as one operation: the fused passes against autograd in float64 and against the network itself."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap
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


@needs_compiler
def test_many_gradients_of_one_evaluation_are_each_its_own() -> None:
    """The hidden values are then the same tensor for all of them."""
    net, x, g = network(3, (20,), 2), normal(6, 3), normal(4, 6, 2)
    (found,) = vmap(vjp(lambda x: relu_mlp(net, x), x)[1])(g)
    (expected,) = vmap(vjp(net, x)[1])(g)
    close(found, expected)


@needs_compiler
def test_parameters_that_are_views_of_one_vector_and_points_with_gaps() -> None:
    net, S = network(3, (20, 20), 2), 3
    sizes = [p.numel() for p in net.parameters()]
    flat, x = 0.3 * normal(S, 1 + sum(sizes)), normal(S, 10, 6)[..., ::2]

    def value(flat: Tensor, x: Tensor, run: nn.Module) -> Tensor:
        pieces = flat[1:].split(sizes)
        named = zip(net.named_parameters(), pieces, strict=True)
        return functional_call(run, {f"net.{k}": v.view(p.shape) for (k, p), v in named}, (x,)).square().sum()

    found = vmap(grad(lambda f, x: value(f, x, Caller(net))))(flat, x)
    close(found, vmap(grad(lambda f, x: value(f, x, Plain(net))))(flat, x))


class Doubled(nn.Linear):
    """A linear map in name."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Plain(nn.Module):
    """The network itself, under the same name."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


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
@pytest.mark.parametrize("out", [3, 5])
def test_an_infinite_value_that_every_unit_rejects_leaves_no_trace(out: int) -> None:
    """Nor in the lanes that only fill a vector."""
    net = network(2, (20,), out)
    with torch.no_grad():
        net[0].weight[:, 0] = -net[0].weight[:, 0].abs()
    x = normal(6, 2)
    x[1, 0] = math.inf
    assert net(x).isfinite().all()
    close(relu_mlp(net, x), net(x))


@needs_compiler
def test_second_derivatives_are_refused() -> None:
    net, x = network(2, (8,), 1), normal(4, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(relu_mlp(net, x).sum(), [x], create_graph=True)
    with pytest.raises(NotImplementedError, match="call the network itself"):
        gradient.square().sum().backward()


def test_what_the_passes_do_not_cover_is_left_to_the_network() -> None:
    """Double precision, other networks and other shapes: exactly the network's values, or its error."""
    x = normal(5, 3)
    assert torch.equal(relu_mlp(network(3, (8,), 2).double(), x.double()), network(3, (8,), 2).double()(x.double()))
    tanh = mlp(3, (8,), 2, "tanh")
    assert torch.equal(relu_mlp(tanh, x), tanh(x))
    bare = nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 2))
    assert torch.equal(relu_mlp(bare, x), bare(x))
    net = network(3, (8,), 2)
    closed = nn.Sequential(*net, nn.ReLU())
    assert torch.equal(relu_mlp(closed, x), closed(x))
    other = nn.Sequential(Doubled(3, 8), nn.ReLU(), nn.Linear(8, 2))
    assert torch.equal(relu_mlp(other, x), other(x))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        relu_mlp(nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(9, 4)), x)
    for odd in (x[0], normal(4, 5, 3), x[:0]):
        assert torch.equal(relu_mlp(net, odd), net(odd))
    for wrong in (normal(5, 4), x.double()):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            relu_mlp(net, wrong)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        relu_mlp(network(3, (8,), 2).double(), x)


@needs_compiler
def test_scratch_memory_is_of_the_size_of_the_network() -> None:
    """Multinomial regression has critics of thousands of inputs and outputs around hidden layers of 128 units."""
    code = """
import resource, torch
from methods.parts.families import mlp
from methods.parts.relu_mlp import relu_mlp

net, x = mlp(8000, (64, 64), 8000), torch.randn(32, 8000)
net(x).sum().backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
relu_mlp(net, x).sum().backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    grown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert int(grown.stdout) < 64  # MiB; the parameters are 4


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
