"""The pairwise Stein block against autograd, in both implementations, and KSIVI's statistic."""

from __future__ import annotations

import logging
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.func import grad, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from bench import native
from bench.errors import UserError
from methods.native import profile
from methods.native import stein as stein_native
from methods.parts import kernels
from methods.parts.kernels import BANDWIDTHS, KERNELS
from methods.parts.stein import stein_backend, stein_discrepancy

FUSED = pytest.param(
    "fused", marks=pytest.mark.skipif(stein_backend() != "fused", reason="no C++ compiler for the fused pass")
)
BACKENDS = ["torch", FUSED]


def reference_median(D: torch.Tensor, bandwidth: str) -> torch.Tensor:
    if bandwidth == "exact":
        return torch.median(D)
    m = torch.sort(D.detach().flatten()).values[(D.numel() - 1) // 2]
    if bandwidth == "detached":
        return m
    # what bisection promises: the middle of the interval of floats that share their leading 20 bits
    bits = int(m.float().view(torch.int32))
    return torch.tensor((bits >> 11 << 11) + 1024, dtype=torch.int32).view(torch.float32).to(D.dtype)


def reference(x, y, f, g, kernel: str, bandwidth: str, ustat: bool) -> torch.Tensor:
    """The estimator as the paper writes it, for one seed, left to autograd."""
    if ustat:
        y, g = x, f
    N = len(x)
    difference = x[:, None] - y[None]
    if kernel in ("gaussian", "imq"):
        D = difference.pow(2).sum(-1)
    else:
        D = difference.abs().sum(-1)
        if kernel == "riesz":
            D = -D + x.abs().sum(-1)[:, None] + y.abs().sum(-1)[None]
    s = D * math.log(N + 1) / reference_median(D, bandwidth)
    k = {"gaussian": torch.exp(-s), "laplace": torch.exp(-s), "imq": (1 + s) ** -0.5, "riesz": s}[kernel]
    terms = k * (f @ g.T)
    if ustat:
        return (terms.sum() - terms.diagonal().sum()) / (N * (N - 1))
    return terms.mean()


def batches(S: int, N: int, d: int, dtype=torch.float64, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """x, y off the origin, and f, g of other sizes: [S, N, d] each."""
    generator = torch.Generator().manual_seed(seed)
    x, y, f, g = (torch.randn(S, N, d, generator=generator, dtype=torch.float64) for _ in range(4))
    return tuple(t.float().to(dtype) for t in (x + 0.7, 1.5 * y + 0.5, f + 0.3, 2 * g + 0.3))


def op(kernel, bandwidth, ustat, backend):
    def loss(x, y, f, g):
        return stein_discrepancy(x, y, f, g, kernel=kernel, bandwidth=bandwidth, ustat=ustat, backend=backend)

    return loss


def assert_close(got, want, tolerance: float) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.dtype in (torch.float32, torch.float64) and a.shape == b.shape
        assert (a.double() - b.double()).norm() <= tolerance * b.double().norm().clamp(min=1e-30)


@pytest.mark.parametrize("ustat", [False, True], ids=["vanilla", "ustat"])
@pytest.mark.parametrize("bandwidth", BANDWIDTHS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_value_and_gradients_equal_autograd(backend, kernel, bandwidth, ustat):
    for N, d in ((33, 2), (18, 7), (11, 35)):  # the fused pass has three forms
        arguments = batches(3, N, d)
        want = [
            grad_and_value(reference, argnums=(0, 1, 2, 3))(*a, kernel, bandwidth, ustat)
            for a in zip(*arguments, strict=True)
        ]
        gradients = [torch.stack([w[0][i] for w in want]) for i in range(4)]
        losses = torch.stack([w[1] for w in want])
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
            if backend == "fused" and dtype == torch.float64:
                continue
            loss = op(kernel, bandwidth, ustat, backend)
            given = tuple(a.to(dtype) for a in arguments)
            got, value = vmap(grad_and_value(loss, argnums=(0, 1, 2, 3)))(*given)
            assert_close((value, *got), (losses, *gradients), tolerance)
            # one seed, plain autograd
            single = [a[1].clone().requires_grad_() for a in given]
            out = loss(*single)
            out.backward()
            leaves = [single[0], single[2]] if ustat else single
            kept = [gradients[0], gradients[2]] if ustat else gradients
            assert_close((out.detach(), *(t.grad for t in leaves)), (losses[1], *(g[1] for g in kept)), tolerance)


def test_other_precisions_and_batches_of_other_seeds_are_refused():
    x, y, f, g = (t.float() for t in batches(2, 6, 2))
    with pytest.raises(ValueError, match="f has dtype torch.float64"):
        stein_discrepancy(x, y, f.double(), g)
    with pytest.raises(ValueError, match="do not match"):
        stein_discrepancy(x, y[0], f, g[0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("N, M, d", [(150, 150, 2), (97, 131, 2), (100, 100, 22), (70, 70, 100), (37, 21, 401)])
def test_larger_shapes_in_float32(backend, N, M, d):
    x, f = (t[0] for t in batches(1, N, d)[::2])
    y, g = (t[0] for t in batches(1, M, d, seed=1)[1::2])
    f, g = f - x, g - y
    want, value = grad_and_value(reference, argnums=(0, 1, 2, 3))(x, y, f, g, "gaussian", "exact", False)
    given = (t.float() for t in (x, y, f, g))
    got, loss = grad_and_value(op("gaussian", "exact", False, backend), argnums=(0, 1, 2, 3))(*given)
    assert_close((loss, *got), (value, *want), 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_partly_batched_and_doubly_batched_arguments(backend):
    x, y, f, g = batches(4, 12, 2, torch.float32)
    loss = op("gaussian", "exact", False, backend)
    alone = torch.stack([loss(x[s], y[0], f[s], g[0]) for s in range(4)])
    torch.testing.assert_close(vmap(loss, in_dims=(0, None, 0, None))(x, y[0], f, g[0]), alone)
    moved = vmap(loss, in_dims=(2, None, 0, None))(x.permute(1, 2, 0), y[0], f, g[0])
    torch.testing.assert_close(moved, alone)
    fold = [t.reshape(2, 2, 12, 2) for t in (x, y, f, g)]
    flat = torch.stack([loss(*(t[s] for t in (x, y, f, g))) for s in range(4)])
    torch.testing.assert_close(vmap(vmap(loss))(*fold).flatten(), flat)
    torch.testing.assert_close(loss(*fold).flatten(), flat)


@pytest.mark.parametrize("backend", BACKENDS)
def test_same_inputs_same_bits_alone_or_beside_others(backend):
    arguments = batches(3, 60, 2, torch.float32)
    step = vmap(grad_and_value(op("gaussian", "exact", False, backend), argnums=(0, 1, 2, 3)))
    first, again, alone = step(*arguments), step(*arguments), step(*(a[1:2] for a in arguments))
    for a, b, c in zip((*first[0], first[1]), (*again[0], again[1]), (*alone[0], alone[1]), strict=True):
        assert torch.equal(a, b)
        # batched matrix products may take another path for one matrix than for three
        assert torch.equal(a[1:2], c) if backend == "fused" else torch.allclose(a[1:2], c, rtol=1e-5, atol=1e-7)


class Ops(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bandwidth", BANDWIDTHS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_torch_backend_op_count_does_not_depend_on_seeds_and_never_syncs(kernel, bandwidth):
    from methods.parts.stein import closed_form

    counts = []
    for S in (1, 5):
        with Ops() as ops:
            closed_form(*batches(S, 9, 3, torch.float32), kernel, bandwidth, False)
        assert not {"_local_scalar_dense", "nonzero", "item", "is_nonzero"} & set(ops.names)
        counts.append(len(ops.names))
    assert counts[0] == counts[1] < 220


@pytest.mark.parametrize("backend", BACKENDS)
def test_make_fx_sees_the_torch_operations_or_one_opaque_node(backend):
    arguments = batches(2, 10, 2, torch.float32)
    step = vmap(grad_and_value(op("gaussian", "exact", False, backend), argnums=(0, 2)))
    traced = make_fx(step, tracing_mode="fake")(*arguments)
    opaque = sum("stein_pairs" in str(node.target) for node in traced.graph.nodes)
    assert opaque == (1 if backend == "fused" else 0)
    assert len(list(traced.graph.nodes)) < (30 if opaque else 150)
    (gx, gf), value = traced(*arguments)
    (wx, wf), want = step(*arguments)
    for a, b in ((gx, wx), (gf, wf), (value, want)):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
def test_compiled_graph_agrees():
    arguments = batches(2, 10, 2, torch.float32)
    step = vmap(grad_and_value(op("gaussian", "exact", False, "auto"), argnums=(0, 2)))
    compiled = torch.compile(make_fx(step)(*arguments), fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), step(*arguments))


@pytest.mark.skipif(stein_backend() != "fused", reason="no C++ compiler here")
def test_opcheck():
    arguments = batches(2, 6, 2, torch.float32)
    torch.library.opcheck(
        torch.ops.sivibench.stein_pairs.default,
        (*arguments, "gaussian", "exact", False),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_second_derivatives_are_refused():
    x, y, f, g = (t[0] for t in batches(1, 5, 2))
    loss = op("gaussian", "exact", False, "torch")
    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad(lambda a: grad(loss)(a, y, f, g).square().sum())(x)
    a = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(a, y, f, g), a, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        first.square().sum().backward()


def test_bad_arguments_are_refused():
    x, y, f, g = (t[0] for t in batches(1, 5, 2))
    with pytest.raises(ValueError, match="nope"):
        stein_discrepancy(x, y, f, g, kernel="nope")
    with pytest.raises(ValueError, match="shapes"):
        stein_discrepancy(x, y, f[:3], g)
    with pytest.raises(ValueError, match="not available"):
        stein_discrepancy(x, y, f, g, backend="fused")  # float64


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bandwidth", BANDWIDTHS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_degenerate_inputs_stay_finite(backend, kernel, bandwidth):
    x, y, f, g = (t[0] for t in batches(1, 6, 2, torch.float32))
    same = torch.full_like(x, 0.25)
    mixed = same.clone()
    mixed[0] = 3.0  # most distances are zero, some are not
    loss = op(kernel, bandwidth, False, backend)
    for a, b in ((same, same), (mixed, mixed), (-same, same), (x[:1], y[:1])):
        gradients, value = grad_and_value(loss, argnums=(0, 1, 2, 3))(a, b, f[: len(a)], g[: len(b)])
        assert all(t.isfinite().all() for t in (value, *gradients))
    value = op(kernel, bandwidth, True, backend)(
        x[:2], x[:2], f[:2], f[:2]
    )  # two rows: the median is the zero diagonal
    assert value.isfinite()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bandwidth", BANDWIDTHS)
def test_a_diverged_seed_is_nan_and_leaves_the_others_alone(backend, bandwidth):
    arguments = batches(3, 20, 2, torch.float32)
    loss = vmap(grad_and_value(op("gaussian", bandwidth, False, backend), argnums=(0, 3)))
    gradients, value = loss(*arguments)
    arguments[0][1, 4, 0] = torch.nan
    bad_gradients, bad_value = loss(*arguments)
    assert bad_value[1].isnan() and all(t[1].isnan().any() for t in bad_gradients)
    for s in (0, 2):
        assert torch.equal(bad_value[s], value[s])
        assert all(torch.equal(a[s], b[s]) for a, b in zip(bad_gradients, gradients, strict=True))


def test_a_median_of_zero_gives_finite_gradients():
    """Most of these pairs have opposite signs: Riesz' statistic is 0, its median too, and k overflows on the others."""
    x, y = torch.tensor([[-1.0]]), torch.tensor([[2.0], [3.0], [-4.0]])
    f, g = torch.ones(1, 1), torch.full((3, 1), 1e4)
    gradients, value = grad_and_value(op("riesz", "exact", False, "torch"), argnums=(0, 1, 2, 3))(x, y, f, g)
    assert value.isfinite() and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("power", [0.2, 1.0, 6.0, 20.0])
def test_bisection_error_is_as_documented_for_heavy_tails(power):
    generator = torch.Generator().manual_seed(3)
    D = torch.randn(5, 61, 61, generator=generator).abs().pow(power) * torch.logspace(-8, 6, 5)[:, None, None]
    exact = kernels.median(D, "detached")
    error = ((kernels.median(D, "bisection") - exact) / exact).abs()
    big = exact > kernels.MEDIAN_FLOOR
    assert big.any() and error[big].max() <= kernels.BISECTION_ERROR


@pytest.mark.skipif(stein_backend() != "fused", reason="no C++ compiler")
def test_fused_selection_finds_the_exact_median_of_any_distribution():
    """Sizes that use the sampled bracket; sorted, periodic and tied values defeat the sample, not the result."""
    N = 128
    generator = torch.Generator().manual_seed(0)
    line = torch.arange(N) / N
    cases = [line, (torch.arange(N) % 2).float(), line.exp().pow(20), (torch.arange(N) % 7).float()]
    cases += [torch.randn(N, generator=generator).exp().pow(p) for p in (1.0, 8.0)]
    for case in cases:
        x = torch.stack([case, torch.zeros(N)], -1)
        y, f, g = x.flip(0) + 0.01, torch.randn(N, 2, generator=generator), torch.randn(N, 2, generator=generator)
        single = grad_and_value(op("imq", "detached", False, "fused"), argnums=(0, 3))(x, y, f, g)
        double = grad_and_value(op("imq", "detached", False, "torch"), argnums=(0, 3))(
            *(t.double() for t in (x, y, f, g))
        )
        assert_close((single[1], *single[0]), (double[1], *double[0]), 1e-5)


def test_gram_is_the_kernel_of_the_discrepancy():
    x, y, f, g = (t[0] for t in batches(1, 9, 6))
    for kernel in KERNELS:
        terms = kernels.gram(x, y, kernel=kernel, bandwidth="exact") * (f @ g.T)
        torch.testing.assert_close(terms.mean(), op(kernel, "exact", False, "torch")(x, y, f, g))
        by_autograd = grad(lambda a, kind=kernel: (kernels.gram(a, y, kernel=kind) * (f @ g.T)).mean())(x)
        torch.testing.assert_close(by_autograd, grad(op(kernel, "exact", False, "torch"))(x, y, f, g))


# ---- building the fused pass


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, and nothing loaded yet."""
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("SIVIBENCH_FUSED", raising=False)
    stein_native.LIBRARY.forget()
    yield tmp_path
    stein_native.LIBRARY.forget()


def test_without_a_compiler_torch_is_used_and_it_is_said_once(fresh, monkeypatch, caplog):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING, logger="sivibench"):
        assert stein_backend() == stein_backend() == "torch"
        assert stein_discrepancy(*(t[0] for t in batches(1, 5, 2, torch.float32))).isfinite()
    assert sum("no-such-compiler" in r.message for r in caplog.records) == 1
    monkeypatch.setenv("SIVIBENCH_FUSED", "1")
    with pytest.raises(UserError, match="no-such-compiler"):
        stein_backend()


def test_a_failing_build_falls_back(fresh, monkeypatch):
    monkeypatch.setattr(native, "FLAGS", ["--no-such-flag"])
    assert stein_backend() == "torch" and not list(fresh.glob("stein_*"))


def test_the_switch_turns_it_off(monkeypatch):
    monkeypatch.setenv("SIVIBENCH_FUSED", "0")
    assert stein_backend() == "torch"


def test_it_is_never_used_off_the_cpu_or_in_double():
    assert stein_backend("cuda") == "torch" == stein_backend("cpu", torch.float64)


@pytest.mark.skipif(stein_backend() != "fused", reason="no C++ compiler")
def test_concurrent_builds_leave_one_good_library(fresh, monkeypatch):
    monkeypatch.setattr(native, "FLAGS", ["-std=c++17", "-O0", "-shared", "-fPIC"])  # quick
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: stein_native.LIBRARY.build(), range(2))
    assert first == second and [p.name for p in fresh.iterdir()] == [first.name]
    assert stein_backend() == "fused"


@pytest.mark.skipif(stein_backend() != "fused", reason="no C++ compiler")
def test_loading_leaves_the_processs_float_mode_alone():
    code = """
import torch
from methods.parts.stein import stein_backend
assert stein_backend() == "fused"
assert torch.tensor(1e-38).mul(0.01).item() > 0, "denormals are flushed"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the statistic


def gaussian_pair(scale: float, n: int, seed: int):
    """x and f of q(x|z) = N(z, 0.36), z ~ N(0, 0.64 scale) for p = N(0, I): q = p exactly at scale 1."""
    generator = torch.Generator().manual_seed(seed)
    z = 0.8 * scale * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    xi = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    x = z + 0.6 * xi
    return x, -x + xi / 0.6


def test_vanilla_and_ustat_agree_in_expectation_and_vanish_at_q_equal_p():
    """Kernel fixed up to the median's small scatter, large batches, mean over repetitions."""

    def mean_and_error(scale: float, ustat: bool):
        values = []
        for r in range(60):
            x, f = gaussian_pair(scale, 200, 2 * r)
            y, g = gaussian_pair(scale, 200, 2 * r + 1)
            values.append(stein_discrepancy(x, y, f, g, kernel="imq", bandwidth="detached", ustat=ustat))
        values = torch.stack(values)
        return values.mean().item(), (values.std() / math.sqrt(len(values))).item()

    for scale in (1.0, 1.6):
        (vanilla, e1), (ustat, e2) = mean_and_error(scale, False), mean_and_error(scale, True)
        assert abs(vanilla - ustat) < 4 * math.hypot(e1, e2) + 2e-3
        if scale == 1.0:
            assert abs(vanilla) < 4 * e1 and abs(ustat) < 4 * e2
        else:
            assert vanilla > 8 * e1 and ustat > 8 * e2


@pytest.mark.parametrize(
    ("enum", "names", "known"), [("Kernel", profile.KERNELS, KERNELS), ("Bandwidth", profile.BANDWIDTHS, BANDWIDTHS)]
)
def test_names_of_the_fused_passes_stand_in_the_order_of_their_enums(enum, names, known):
    text = Path(profile.__file__).with_name("stein_profile.hpp").read_text()
    (body,) = re.findall(rf"enum {enum} {{(.*?)}}", text)
    assert [f"{name.upper()} = {i}" for i, name in enumerate(names)] == body.strip().split(", ")
    assert set(names) == set(known)
