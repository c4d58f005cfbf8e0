"""Contract of every registered target: a new target is tested by being registered."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from bench.errors import UserError
from bench.noise import generator
from bench.registry import entries
from targets.base import Target, Unsupported
from targets.blr import LogisticRegression
from targets.data_posterior import DataPosterior
from targets.mixture import GaussianMixture

NAMES = sorted(entries("target"))
BLR = [name for name in NAMES if issubclass(entries("target")[name].obj, LogisticRegression)]
_built: dict[str, Target | str] = {}


def offline(url: str, **_: Any) -> str:
    """In place of ``pooch.retrieve``: tests download nothing."""
    raise ConnectionError("no network")


@pytest.fixture(params=NAMES)
def target(request: pytest.FixtureRequest) -> Target:
    return build(request.param)


def build(name: str) -> Target:
    """The target with its defaults (one instance per session); skips when its data cannot be had here."""
    if name not in _built:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pooch.retrieve", offline)
            try:
                made = entries("target")[name].obj()
                getattr(made, "pixels", None)  # large image sets look for their files when they are first asked
                if isinstance(made, DataPosterior):  # the contract does not depend on N, and 40,000 rows take minutes
                    made.inputs, made.outputs = made.inputs[:300], made.outputs[:300]
                _built[name] = made
            except UserError as error:
                _built[name] = str(error).split("\n")[0].rstrip(":")
    found = _built[name]
    if isinstance(found, str):
        pytest.skip(f"{found} (set SIVIBENCH_DATA to a folder with the public data)")
    return found


def points(target: Target, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    x = torch.randn(*shape, target.dim, generator=generator("points", *shape), dtype=torch.float64)
    return (scale * x).to(dtype)


def needs(target: Target, *names: str) -> None:
    if missing := set(names) - target.provides:
        pytest.skip(f"{type(target).__name__} has no {', '.join(sorted(missing))}")


@pytest.fixture
def double(target: Target) -> Iterator[Target]:
    yield target.double()
    target.float()


def test_declares_itself(target: Target) -> None:
    entry = entries("target")[target.registered_name]
    assert target.dim >= 1 and entry.version >= 1 and entry.source and entry.description
    if target.metrics:
        assert target.curve_metric in target.metrics and len(set(target.metrics)) == len(target.metrics)
    if target.window is not None:
        assert len(target.window) == target.dim <= 2 and all(low < high for low, high in target.window)


def test_shapes_over_leading_dimensions(target: Target) -> None:
    for shape in ((), (1,), (5,), (2, 3), (2, 1, 3)):
        x = points(target, *shape)
        if "log_prob" in target.provides:
            assert target.log_prob(x).shape == shape
        if "score" in target.provides:
            assert target.score(x).shape == x.shape


def test_rows_do_not_interact(double: Target) -> None:
    needs(double, "log_prob", "score")
    x = points(double, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(double.log_prob(x)[1, 2], double.log_prob(x[1, 2]))
    torch.testing.assert_close(double.score(x)[1, 2], double.score(x[1, 2]))


def test_score_is_the_gradient(double: Target) -> None:
    needs(double, "log_prob", "score")
    for scale in (0.1, 1.0, 5.0):
        x = points(double, 20, dtype=torch.float64, scale=scale).requires_grad_()
        (gradient,) = torch.autograd.grad(double.log_prob(x).sum(), x)
        torch.testing.assert_close(double.score(x), gradient, rtol=1e-8, atol=1e-8)


def test_transforms_agree(double: Target) -> None:
    """vmap(grad(.)) of both functions, as the engine runs them, equals plain autograd."""
    needs(double, "log_prob", "score")
    x = points(double, 3, 4, dtype=torch.float64)

    def through_score(y: Tensor) -> Tensor:
        return double.score(y).square().sum()

    def through_log_prob(y: Tensor) -> Tensor:
        return double.log_prob(y).sum()

    for function in (through_score, through_log_prob):
        expected = torch.stack([torch.autograd.functional.jacobian(function, row) for row in x])
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(function))(x), expected)


def test_float32_follows_float64(target: Target) -> None:
    needs(target, "log_prob", "score")
    x = points(target, 50)
    single, score = target.log_prob(x), target.score(x)
    assert single.dtype == score.dtype == torch.float32
    target.double()
    exact, exact_score = target.log_prob(x.double()), target.score(x.double())
    target.float()
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(score.double(), exact_score, rtol=1e-3, atol=1e-3 * float(exact_score.abs().max()))


def test_finite_far_away(target: Target) -> None:
    needs(target, "log_prob", "score")
    x = points(target, 20, scale=1000.0)
    assert torch.isfinite(target.log_prob(x)).all() and torch.isfinite(target.score(x)).all()


def test_every_tensor_moves(target: Target) -> None:
    """A tensor that is no buffer would stay behind on the old device."""
    for module in target.modules():
        assert not [name for name, value in vars(module).items() if isinstance(value, Tensor)]
        assert not list(module.parameters(recurse=False)) or not any(p.requires_grad for p in module.parameters())
    if torch.cuda.is_available():
        moved = target.to("cuda")
        if "score" in target.provides:
            assert moved.score(points(target, 3).cuda()).device.type == "cuda"
        if "sample" in target.provides:
            assert moved.sample(3, generator(0)).device.type == "cpu"
        target.to("cpu")


def grid(target: Target, size: int = 1500) -> tuple[Tensor, Tensor]:
    """Midpoints of the window's cells in float64, [size^d, d], and their probabilities under exp(log_prob - log_z)."""
    assert target.window is not None and target.log_z is not None
    axes = [low + (high - low) * (torch.arange(size, dtype=torch.float64) + 0.5) / size for low, high in target.window]
    area = math.prod((high - low) / size for low, high in target.window)
    x = torch.cartesian_prod(*axes).reshape(-1, target.dim)
    mass = torch.cat([target.log_prob(part) for part in x.split(2**18)]).sub(target.log_z).exp() * area
    return x, mass


def test_window_holds_the_mass_and_samples_follow_it(double: Target) -> None:
    """log_z and exact draws against quadrature, for targets with grid metrics."""
    if not any(name.endswith("_grid") for name in double.metrics) or double.log_z is None:
        pytest.skip("no grid metrics or no known normaliser")
    x, mass = grid(double)
    assert double.window_mass < float(mass.sum()) < 1.00001
    needs(double, "sample")
    if double.window_mass < 0.9999:
        pytest.skip("heavy tails: moments need not exist")
    x, original = double.to_original(x), double.original()
    draws = double.sample(40_000, generator("draws")).double()

    def features(y: Tensor) -> Tensor:
        return torch.cat([y, y.square(), y.prod(-1, keepdim=True), original.log_prob(y).unsqueeze(-1)], dim=-1)

    expected = (mass.unsqueeze(-1) * features(x)).sum(0)
    found = features(draws)
    # the truncated tails of the window hold up to 1e-4 of the mass, far out: hence the relative slack
    slack = 5 * found.std(0) / math.sqrt(len(draws)) + 2e-3 * expected.abs()
    assert ((found.mean(0) - expected).abs() < slack).all(), (found.mean(0), expected, slack)


def test_truth_satisfies_steins_identity(double: Target) -> None:
    """E[score] = 0 and E[x_i score_i] = -1 for exact or stored draws, within five standard errors."""
    needs(double, "truth", "score")
    x = double.truth(2000, generator("stein")).double()
    assert x.shape == (2000, double.dim)
    score = double.original().score(x)
    total = (x * score).sum(-1)
    columns = torch.cat([score, x * score + 1, (total + double.dim).unsqueeze(-1)], dim=-1)
    error = columns.mean(0).abs() / (columns.std(0) / math.sqrt(len(x)))
    assert float(error.max()) < 5.0


def test_samples_belong_to_their_generator(target: Target) -> None:
    needs(target, "sample")
    first, again = (target.sample(6, generator("same")) for _ in range(2))
    other = target.sample(6, generator("other"))
    assert first.dtype == torch.float32 and first.shape == (6, target.dim)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_truth_without_draws_is_unsupported() -> None:
    with pytest.raises(Unsupported):
        Target().truth(3, generator(0))


@pytest.mark.parametrize(
    ("name", "entropy", "tolerance"),
    # banana exactly (its Jacobian is one); the mixtures against Monte Carlo figures published for KPG
    [("banana", 1 + math.log(2 * math.pi) + 0.5 * math.log(0.19), 1e-3), ("multimodal", 3.4663, 0.01),
     ("x_shaped", 3.1219, 0.01)],
)  # fmt: skip
def test_entropy_of_the_toys(name: str, entropy: float, tolerance: float) -> None:
    target = build(name).double()
    x, mass = grid(target, size=800)
    assert abs(float(-(mass * target.log_prob(x)).sum()) - entropy) < tolerance
    target.float()


def test_mixture_rejects_wrong_parameters() -> None:
    eye = [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match="weights"):
        GaussianMixture([[0.0, 0.0]], [eye], [0.5])
    with pytest.raises(ValueError, match="covariances"):
        GaussianMixture([[0.0, 0.0], [1.0, 1.0]], [eye])


def test_mixture_weights_are_followed() -> None:
    eye = [[1.0, 0.0], [0.0, 1.0]]
    x = GaussianMixture([[-9.0, 0.0], [9.0, 0.0]], [eye, eye], [0.2, 0.8]).sample(5000, generator(0))
    assert abs(float((x[:, 0] > 0).float().mean()) - 0.8) < 0.03


@pytest.mark.parametrize("name", BLR)
def test_log_predictive_is_the_naive_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target: Any = build(name)
    draws = 0.3 * points(target, 7)
    p = torch.stack([torch.sigmoid(target.signed_test @ beta) for beta in draws])
    monkeypatch.setattr("targets.blr.CHUNK", 7 * 100)  # several chunks, the last one short
    torch.testing.assert_close(target.test_log_predictive(draws), p.mean(0).log().mean())


@pytest.mark.parametrize("name", BLR)
def test_regression_data(name: str) -> None:
    target: Any = build(name)
    for design in (target.signed_design, target.signed_test):
        assert (design[:, 0].abs() == 1).all() and design.shape[1] == target.dim
    if name in ("blr_spam", "blr_nodal"):  # counts and indicators as published, not standardised
        return
    features = target.signed_design * target.signed_design[:, :1]  # the sign squared leaves x
    assert float(features[:, 1:].mean(0).abs().max()) < 0.2
    assert 0.9 < float(features[:, 1:].std(0).min()) and float(features[:, 1:].std(0).max()) < 1.1


def test_waveform_predicts_as_published() -> None:
    """Published: HMC -.3404 nats per test point, MALA -.3414; subsets of 4096 of our draws scatter by .0004."""
    target = build("blr_waveform")
    draws = target.reference()
    assert draws is not None
    assert abs(float(target.test_log_predictive(draws)) - -0.3414) < 2e-3


def test_logistic_regression_is_bernoulli_times_normal():
    target = entries("target")["blr_breast_cancer"].obj(prior_precision=0.3).double()
    x = 0.3 * torch.randn(4, target.dim, generator=generator("blr")).double()
    y = (target.signed_design[:, 0] + 1) / 2  # the leading column of ones carries the sign of the label
    logits = x @ (target.signed_design * target.signed_design[:, :1]).T
    expected = Bernoulli(logits=logits).log_prob(y.expand_as(logits)).sum(-1)
    expected = expected + Normal(0.0, 0.3**-0.5).log_prob(x).sum(-1)
    torch.testing.assert_close(target.log_prob(x), expected)


SIVI_SIZES = [("waveform", (400, 4600), 22), ("nodal", (25, 28), 6), ("spam", (2000, 1000), 3)]


@pytest.mark.parametrize("name, n, d", SIVI_SIZES)
def test_the_logistic_regressions_of_sivi_written_out(name, n, d, monkeypatch, tmp_path):
    """Random rows in the published files' form: prior variance 100, both labels."""
    random, data = np.random.RandomState(0), {}
    for part, m in zip(("train", "test"), n, strict=True):
        data[f"X_{part}"] = np.insert(random.randn(m, d - 1), 0, 1.0, axis=1)
        data[f"y_{part}"] = random.randint(2, size=(m, 1)).astype(float)
    (tmp_path / "blr").mkdir()
    savemat(tmp_path / f"blr/{name}.mat", data)
    for key, rows in data.items():
        np.savetxt(tmp_path / f"blr/{name}_{key[0].lower()}{key[2:4]}.txt", rows)
    for module in ("blr", "blr_small"):
        monkeypatch.setattr(f"targets.{module}.fetch", lambda file: tmp_path / file)
    target: Any = entries("target")[f"blr_{name}"].obj().double()
    beta = 0.3 * torch.randn(d, generator=generator("sivi", name)).double()
    train, test = (
        Bernoulli(logits=torch.from_numpy(data[f"X_{part}"]) @ beta).log_prob(torch.from_numpy(data[f"y_{part}"][:, 0]))
        for part in ("train", "test")
    )
    expected = train.sum() + Normal(0.0, 10.0).log_prob(beta).sum()
    torch.testing.assert_close(target.log_prob(beta), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(target.test_log_predictive(beta[None]), test.mean(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["multimodal_pvi", "x_shaped", "mixture_1d"])
def test_the_score_at_many_points_is_that_at_each(name):
    target = entries("target")[name].obj().double()
    x = 3 * torch.randn(5000, target.dim, generator=generator("many")).double()
    torch.testing.assert_close(target.score(x), torch.cat([target.score(part) for part in x.split(100)]))


def test_the_banana_of_pvi_is_a_parabola_of_variances_4_and_1():
    x = 2 * torch.randn(20, 2, generator=generator("pvi banana"))
    expected = Normal(0.0, 2.0).log_prob(x[:, 0]) + Normal(x[:, 0].square() / 4, 1.0).log_prob(x[:, 1])
    torch.testing.assert_close(entries("target")["banana_pvi"].obj().log_prob(x), expected)
