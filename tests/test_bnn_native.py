"""The ReLU net's log likelihood and score as one operation: fused pass against autograd and against plain torch."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from bench.errors import UserError
from targets import relu_net
from targets import relu_net_native as native
from targets.bnn import NeuralRegression
from targets.relu_net import fused, net_backend, plain_misfit, plain_score
from targets.uci import Split

GAMMA = 0.6
needs_compiler = pytest.mark.skipif(net_backend() != "fused", reason="no C++ compiler for the fused pass")


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def case(n: int, B: int, p: int, H: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [n, d], inputs [B, p] with a last column of ones, outputs [B]."""
    x = normal(n, p * H + H + 1) / math.sqrt(p)
    inputs = torch.cat((normal(B, p - 1), torch.ones(B, 1, dtype=torch.float64)), 1)
    return x.to(dtype), inputs.to(dtype), normal(B).to(dtype)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    found, expected = found.detach(), expected.detach()
    assert found.shape == expected.shape
    assert float((found.double() - expected.double()).norm()) <= tolerance * float(expected.double().norm())


# rows and units that fill whole vectors and blocks, that do not, and more rows than are held at once
SHAPES = [(3, 100, 7, 50), (2, 131, 14, 50), (2, 300, 10, 33), (4, 5, 2, 3), (1, 1, 1, 1), (2, 9, 3, 64)]


@needs_compiler
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 3e-6)], ids=["64", "32"])
@pytest.mark.parametrize("n, B, p, H", SHAPES)
def test_value_score_and_second_derivative_are_those_of_autograd(
    n: int, B: int, p: int, H: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Autograd in float64 of the written-out likelihood, at the same (rounded) arguments."""
    given = case(n, B, p, H, dtype)
    x, inputs, outputs = (t.double() for t in given)
    v = normal(*x.shape).to(dtype)
    x.requires_grad_()
    value = plain_misfit(x, inputs, outputs, H, GAMMA)
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((gradient * v).sum(), x)
    w = given[0].clone().requires_grad_()
    found = fused(w, *given[1:], H, GAMMA)
    value, gradient = value.detach(), gradient.detach()
    close(found[0].detach(), value, tolerance)
    close(found[1].detach(), gradient, tolerance)
    close(plain_score(given[0], *given[1:], H, GAMMA), gradient, tolerance)
    close(torch.autograd.grad((found[1] * v).sum(), w, retain_graph=True)[0], second, tolerance)
    # both outputs in one scalar, as in a loss with E log p in it
    mixed = torch.autograd.grad((found[1] * v).sum() - 0.3 * found[0].sum(), w)[0]
    close(mixed, second - 0.3 * gradient, tolerance)


@needs_compiler
def test_value_alone_is_twice_differentiable() -> None:
    x, *rows = case(2, 20, 3, 5)

    def hessian(f) -> Tensor:
        return vmap(torch.func.jacrev(torch.func.jacrev(lambda w: f(w, *rows, 5, GAMMA))))(x)

    close(hessian(lambda *a: fused(*a)[0]), hessian(plain_misfit), 1e-12)


@needs_compiler
def test_third_derivatives_come_from_plain_torch() -> None:
    """Of <a, score>, along b, under vmap over seeds with rows of their own."""
    inputs, outputs = (torch.stack([r, 0.5 * r, r + 0.1]) for r in case(2, 20, 3, 5)[1:])
    x, a, b = normal(3, 2, 21), normal(3, 2, 21) + 1, normal(3, 2, 21) - 1

    def along(score, x: Tensor, a: Tensor, b: Tensor, *rows: Tensor) -> Tensor:
        def first(w: Tensor) -> Tensor:
            return (score(w, *rows, 5, GAMMA) * a).sum()

        return grad(lambda w: (grad(first)(w) * b).sum())(x)

    found = vmap(lambda *t: along(lambda *u: fused(*u)[1], *t))(x, a, b, inputs, outputs)
    close(found, vmap(lambda *t: along(plain_score, *t))(x, a, b, inputs, outputs), 1e-12)


@needs_compiler
@pytest.mark.parametrize("dims", [(0, 0, 0), (0, None, None), (None, 0, 0), (1, 0, None), (0, None, 0)])
def test_vmap_over_seeds_with_and_without_rows_of_their_own(dims: tuple[int | None, ...]) -> None:
    x, inputs, outputs = case(8, 12, 3, 5)
    many = (x.reshape(4, 2, 21), torch.stack([inputs + 0.1 * s for s in range(4)]), normal(4, 12))
    given = tuple(t[0] if dim is None else t.movedim(0, dim) for t, dim in zip(many, dims, strict=True))

    def loss(score, x: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
        return score(x, inputs, outputs, 5, GAMMA).square().sum()

    found = vmap(grad(lambda *t: loss(lambda *u: fused(*u)[1], *t)), in_dims=dims)(*given)
    close(found, vmap(grad(lambda *t: loss(plain_score, *t)), in_dims=dims)(*given), 1e-12)


@needs_compiler
def test_two_vmaps_of_which_either_batches_the_rows() -> None:
    x, inputs, outputs = case(12, 12, 3, 5)
    x, inputs, outputs = x.reshape(3, 2, 2, 21), torch.stack([inputs, -inputs, 2 * inputs]), normal(3, 12)
    for outer, inner in (((0, 0, 0), (0, None, None)), ((1, None, None), (0, 0, 0))):

        def run(score, outer=outer, inner=inner) -> Tensor:
            def one(x: Tensor, *rows: Tensor) -> Tensor:
                return grad(lambda w: score(w, *rows, 5, GAMMA).square().sum())(x)

            return vmap(vmap(one, in_dims=inner), in_dims=outer)(x, inputs, outputs)

        close(run(lambda *t: fused(*t)[1]), run(plain_score), 1e-12)


def ksd_like(target: NeuralRegression, x: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """A loss with both the score and E log p, each differentiated."""
    score = target.likelihood_score(x, inputs, outputs)
    return score.square().mean() - target.log_likelihood(x[:1], inputs, outputs).mean()


def net(dtype: torch.dtype = torch.float64) -> NeuralRegression:
    part = normal(12, 2), normal(12)
    settings = dict(log_lambda=-0.4, log_gamma=0.7, test_log_gamma=0.3, batch=4, original_scale=True)
    return NeuralRegression(Split(part, part, part, mean=3.0, sd=2.0), hidden=3, **settings).to(dtype)


@needs_compiler
def test_traced_it_is_one_opaque_node_per_pass_and_agrees_with_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, inputs, outputs = normal(2, 3, 13), normal(2, 4, 3), normal(2, 4)
    target = net()
    step = vmap(grad(lambda *t: ksd_like(target, *t)))
    traced = make_fx(step, tracing_mode="fake")(x, inputs, outputs)
    nodes = [str(node.target) for node in traced.graph.nodes]
    assert sum("relu_net_score" in n for n in nodes) == 2 and sum("relu_net_second" in n for n in nodes) == 1
    found = traced(x, inputs, outputs)
    monkeypatch.setenv("SIVIBENCH_FUSED", "0")
    assert not any("relu_net" in str(n.target) for n in make_fx(step)(x, inputs, outputs).graph.nodes)
    close(found, step(x, inputs, outputs), 1e-12)


@pytest.mark.slow
def test_compiled_graph_agrees() -> None:
    given = normal(2, 3, 13).float(), normal(2, 4, 3).float(), normal(2, 4).float()
    target = net(torch.float32)
    step = vmap(grad(lambda *t: ksd_like(target, *t)))
    compiled = torch.compile(make_fx(step)(*given), fullgraph=True)
    torch.testing.assert_close(compiled(*given), step(*given))


@needs_compiler
def test_opcheck() -> None:
    x, *rows = case(2, 6, 3, 5, torch.float32)
    v, state = torch.randn_like(x), native.score(x, *rows, 5, GAMMA)[2:]
    utilities = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.sivibench.relu_net_score.default, (x, *rows, 5, GAMMA), test_utils=utilities)
    arguments = (x, v, rows[0], *state, 5, GAMMA)
    torch.library.opcheck(torch.ops.sivibench.relu_net_second.default, arguments, test_utils=utilities)


@needs_compiler
def test_a_unit_at_exactly_zero_is_closed() -> None:
    """0 > 0 is false: at W1 = b1 = 0 nothing comes through, whatever W2, and only b2 has a gradient."""
    _, inputs, outputs = case(1, 9, 3, 4)
    x = torch.cat((torch.zeros(12, dtype=torch.float64), normal(4), torch.ones(1, dtype=torch.float64)))
    x.requires_grad_()
    value, gradient = fused(x, inputs, outputs, 4, GAMMA)
    expected = torch.zeros(17, dtype=torch.float64)
    expected[-1] = GAMMA * (outputs - 1).sum()
    torch.testing.assert_close(gradient, expected)
    (second,) = torch.autograd.grad((gradient * normal(17)).sum(), x)
    assert torch.count_nonzero(second[:-1]) == 0
    torch.testing.assert_close(second[-1], -GAMMA * 9 * normal(17)[-1])
    torch.testing.assert_close(value, -0.5 * GAMMA * (outputs - 1).square().sum())


@needs_compiler
def test_a_diverged_particle_stays_visible_and_leaves_the_others_alone() -> None:
    x, *rows = case(3, 9, 3, 5, torch.float32)
    before = fused(x, *rows, 5, GAMMA)
    for bad in (torch.nan, torch.inf):
        y = x.clone()
        y[1, 2] = bad
        value, gradient = fused(y, *rows, 5, GAMMA)
        assert not value[1].isfinite() and not gradient[1].isfinite().all()
        for s in (0, 2):
            assert torch.equal(value[s], before[0][s]) and torch.equal(gradient[s], before[1][s])


@needs_compiler
def test_same_bits_alone_or_beside_others() -> None:
    x, *rows = case(5, 100, 7, 50, torch.float32)
    v = torch.randn_like(x)

    def run(x: Tensor, v: Tensor) -> list[Tensor]:
        w = x.clone().requires_grad_()
        value, gradient = fused(w, *rows, 50, GAMMA)
        return [value.detach(), gradient.detach(), torch.autograd.grad((gradient * v).sum(), w)[0]]

    for together, alone in zip(run(x, v), run(x[2:3], v[2:3]), strict=True):
        assert torch.equal(together[2:3], alone)


@needs_compiler
def test_where_it_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert net_backend("cpu", torch.float64, 50) == "fused" == net().operations()["relu_net"]
    assert net_backend("cuda") == net_backend("cpu", torch.bfloat16) == "torch"
    most = relu_net.MOST_VECTORS[torch.float32] * native.width(torch.float32)
    assert net_backend(hidden=most) == "fused" and net_backend(hidden=most + 1) == "torch"
    x, *rows = case(1, 6, 2, most, torch.float32)
    close(fused(x, *rows, most, GAMMA)[1], plain_score(x, *rows, most, GAMMA), 1e-5)
    monkeypatch.setenv("SIVIBENCH_FUSED", "0")
    assert net_backend() == "torch"


def test_without_a_compiler_plain_torch_is_used_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    native.LIBRARY.forget()
    try:
        with caplog.at_level(logging.WARNING, logger="sivibench"):
            target, x = net(), normal(2, 13)
            assert target.operations() == {"relu_net": "torch"} and target.score(x).isfinite().all()
        assert sum("no-such-compiler" in r.message for r in caplog.records) == 1
        monkeypatch.setenv("SIVIBENCH_FUSED", "1")
        with pytest.raises(UserError, match="no-such-compiler"):
            target.score(x)
    finally:
        native.LIBRARY.forget()
