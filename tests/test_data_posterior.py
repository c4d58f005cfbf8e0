"""Bayesian neural nets and multinomial regression: definitions, splits, minibatches, predictive metrics."""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.distributions import Categorical, Normal

from bench.errors import UserError
from bench.metrics.base import Fitted
from bench.metrics.joint_predictive import JointLogPredictive
from bench.metrics.regression import BNNNLL, BNNRMSE, BNNRMSEStandardised
from bench.noise import DirectNoise, generator
from bench.registry import entries
from methods.base import Method, Noise
from targets import data_posterior, hapt, mnist, uci
from targets.bnn import NeuralRegression
from targets.bnn_ksivi import OFFICIAL
from targets.bnn_precision import PRINCIPLED, select
from targets.data_posterior import DataPosterior
from targets.mlr import MultinomialRegression
from targets.uci import SETS, Split, ksivi_split

# dim, training, dev and test rows: published
SIZES = {
    "boston": (751, 409, 46, 51), "concrete": (501, 834, 93, 103), "power": (301, 8111, 500, 957),
    "protein": (551, 40657, 500, 4573), "wine": (651, 1295, 144, 160), "yacht": (401, 249, 28, 31),
}  # fmt: skip
PVI_SIZES = {"concrete": (101, 824, 206), "protein": (331, 1600, 401), "yacht": (81, 246, 62)}

# log lambda and log gamma: the numbers in sivistein_bnn.py of the KSIVI code, rounded; this suite's choice
PRECISIONS = {
    "ksivi-compat": {
        "boston": (-1.00387, -2.55599), "concrete": (-0.81407, -3.44982), "power": (-0.90177, -2.88025),
        "protein": (-0.78899, -3.16173), "wine": (-0.85778, 1.05611), "yacht": (-0.76867, 0.32974),
    },
    "principled": {
        "boston": (0.0, 1.954), "concrete": (0.0, 2.660), "power": (0.0, 2.897),
        "protein": (0.0, 0.626), "wine": (0.0, 0.342), "yacht": (0.0, 6.009),
    },
}  # fmt: skip


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("data posterior", *shape), dtype=torch.float64)


def small_net(*, batch: int = 0, original_scale: bool = True, log_lambda: float = -0.4) -> NeuralRegression:
    data = Split((normal(12, 2), normal(12)), (normal(5, 2), normal(5)), (normal(4, 2), normal(4)), mean=3.0, sd=2.0)
    return NeuralRegression(
        data,
        hidden=3,
        log_lambda=log_lambda,
        log_gamma=0.7,
        test_log_gamma=0.3,
        batch=batch,
        original_scale=original_scale,
    ).double()


def small_softmax(*, batch: int = 0, bias: Any = "first") -> MultinomialRegression:
    def part(n: int) -> tuple[np.ndarray, np.ndarray]:
        return normal(n, 2).numpy(), np.arange(n) % 3

    return MultinomialRegression(part(11), part(5), classes=3, bias=bias, batch=batch).double()


def load(name: str, **arguments: Any) -> Any:
    def offline(url: str, **_: Any) -> str:
        raise ConnectionError("no network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pooch.retrieve", offline)
        try:
            return entries("target")[name].obj(**arguments)
        except UserError as error:
            pytest.skip(f"no data: {error}")


class Stored(Method):
    """Draws are the rows of ``x``, repeated."""

    def __init__(self, target: Any, x: Tensor) -> None:
        super().__init__(target)
        self.register_buffer("x", x)

    def sample(self, n: int, noise: Noise) -> Tensor:
        return self.x.repeat(n // len(self.x) + 1, 1)[:n]


def test_net_is_the_one_written_out() -> None:
    """Every weight in its place, against loops over rows and units."""
    target, x = small_net(), 0.7 * normal(9 + 3 + 1)
    w1, b1, w2, b2 = x[:6].reshape(2, 3), x[6:9], x[9:12], x[12]
    assert target.dim == 13
    total = 0.0
    for u, y in zip(target.inputs[:, :2], target.outputs, strict=True):
        f = b2 + sum(w2[j] * max(0.0, float(b1[j] + u @ w1[:, j])) for j in range(3))
        total += float(torch.distributions.Normal(f, math.exp(-0.35)).log_prob(y))
    total += float(torch.distributions.Normal(0.0, math.exp(0.2)).log_prob(x).sum())
    assert math.isclose(float(target.log_prob(x)), total, rel_tol=1e-6)


def test_softmax_regression_is_the_categorical_likelihood() -> None:
    target, x = small_softmax(), normal(9)
    log_p = torch.distributions.Categorical(logits=target.inputs @ x.reshape(3, 3)).log_prob(target.outputs.argmax(1))
    expected = log_p.sum() + torch.distributions.Normal(0.0, 1.0).log_prob(x).sum()
    torch.testing.assert_close(target.log_prob(x), expected.to(x))


def test_place_of_the_bias_only_permutes_coefficients() -> None:
    x = normal(4, 9)
    moved = x.unflatten(-1, (3, 3)).roll(-1, -2).flatten(-2)  # the bias row goes last
    torch.testing.assert_close(small_softmax().log_prob(x), small_softmax(bias="last").log_prob(moved))
    with pytest.raises(UserError, match="first or last"):
        small_softmax(bias="middle")


@pytest.mark.parametrize("make", [small_net, small_softmax])
def test_score_is_the_gradient_on_all_rows_and_on_a_minibatch(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_posterior, "HELD", 3 * 6 * 4)  # blocks of four rows, the last one short
    whole = make(batch=5)
    for target in (whole, whole.subsample(DirectNoise(generator("rows"), "cpu", torch.float64))):
        x = normal(6, target.dim).requires_grad_()
        (gradient,) = torch.autograd.grad(target.log_prob(x).sum(), x)
        torch.testing.assert_close(target.score(x), gradient)


@pytest.mark.parametrize("make", [small_net, small_softmax])
def test_minibatches_are_unbiased(make: Any) -> None:
    """The mean over many minibatches is the density on all rows, within five standard errors."""
    target: DataPosterior = make(batch=4)
    x, noise = normal(target.dim), DirectNoise(generator("rows"), "cpu", torch.float64)
    parts = torch.stack([target.subsample(noise).log_prob(x) for _ in range(1500)])
    error = (parts.mean() - target.log_prob(x)).abs() / (parts.std() / math.sqrt(len(parts)))
    assert float(error) < 5 and float(parts.std()) > 0


def test_minibatch_under_vmap_differs_between_seeds_and_equals_the_plain_one() -> None:
    target = small_net(batch=4)
    uniforms = torch.rand(3, 4, generator=generator("u"), dtype=torch.float64)

    class Given:
        def __init__(self, u: Tensor) -> None:
            self.u = u

        def uniform(self, *shape: int) -> Tensor:
            assert shape == (4,)
            return self.u

    def loss(x: Tensor, u: Tensor) -> Tensor:
        return target.subsample(Given(u)).score(x).square().sum()

    x = normal(3, 6, target.dim)
    found = torch.func.vmap(torch.func.grad(loss))(x, uniforms)
    expected = torch.stack([torch.func.grad(loss)(a, u) for a, u in zip(x, uniforms, strict=True)])
    torch.testing.assert_close(found, expected)


def test_largest_uniform_stays_inside_the_rows() -> None:
    """In float32 the largest uniform times N rounds up to N for large N."""
    target = small_net(batch=3).float()
    target.inputs, target.outputs = torch.zeros(40657, 3), torch.zeros(40657)

    class Largest:
        def uniform(self, *shape: int) -> Tensor:
            return torch.full(shape, 1 - 2.0**-24)

    assert torch.isfinite(target.subsample(Largest()).log_prob(torch.zeros(2, 13))).all()


def test_all_rows_for_batch_zero_and_no_negative_batch() -> None:
    target = small_net()
    assert target.subsample(DirectNoise(generator(0))) is target
    with pytest.raises(UserError, match="batch"):
        small_net(batch=-1)


@pytest.mark.parametrize("value", [1000.0, -1000.0, math.nan])
def test_a_precision_beyond_float32_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="target.log_lambda"):
        small_net(log_lambda=value)


def test_predictions_are_those_of_a_naive_loop() -> None:
    target, x = small_net(), normal(7, 13)
    f = torch.stack([3 + 2 * target._predicted(row, target.test_inputs) for row in x])
    y = target.test_outputs
    rmse = float((f.mean(0) - y).square().mean().sqrt())
    p = torch.distributions.Normal(f, math.exp(-0.15)).log_prob(y).exp().mean(0)
    fitted = Fitted(Stored(target, x), target, 0)
    assert math.isclose(BNNRMSE(n=7)(fitted).value, rmse, rel_tol=1e-12)
    assert math.isclose(BNNNLL(n=7)(fitted).value, -float(p.log().mean()), rel_tol=1e-6)


def test_units_of_the_two_error_metrics_are_not_mixed() -> None:
    original, standardised = small_net(), small_net(original_scale=False)
    method = Stored(original, normal(2, 13))
    assert BNNRMSE().applies(method, original) is None and BNNRMSE().applies(method, standardised)
    assert BNNRMSEStandardised().applies(method, standardised) is None
    assert BNNRMSEStandardised().applies(method, original) and BNNRMSE().applies(method, small_softmax())


def test_dev_loss_is_of_the_mean_prediction() -> None:
    target, x = small_net(), normal(6, 13)
    f = torch.stack([target._predicted(row, target.dev_inputs) for row in x]).mean(0)
    torch.testing.assert_close(target.dev_loss(x), (f - target.dev_outputs).square().mean())


def test_joint_and_pointwise_log_predictive(monkeypatch: pytest.MonkeyPatch) -> None:
    target, x = small_softmax(), normal(7, 9)
    p = torch.stack([torch.softmax(target.test_inputs @ w.reshape(3, 3), -1) for w in x])
    p = (p * target.test_outputs).sum(-1)  # [draws, points]
    monkeypatch.setattr("targets.mlr.HELD", 2 * 5 * 3)  # blocks of two draws, the last one short
    torch.testing.assert_close(target.test_log_predictive(x), p.mean(0).log().mean())
    joint = JointLogPredictive(n=7)(Fitted(Stored(target, x), target, 0)).value
    assert math.isclose(joint, float(p.prod(1).mean().log()) / 5, rel_tol=1e-9)
    assert joint < float(target.test_log_predictive(x))


@pytest.mark.parametrize("name", SETS)
def test_split_sizes_and_precisions_are_the_published_ones(name: str) -> None:
    target = load(f"bnn_{name}")
    dim, train, dev, test = SIZES[name]
    assert (target.dim, len(target.inputs), len(target.dev_inputs), len(target.test_inputs)) == (dim, train, dev, test)
    assert (target.log_lambda, target.log_gamma) == PRECISIONS["ksivi-compat"][name]
    assert target.test_log_gamma == target.log_gamma  # the same number in two units
    torch.testing.assert_close(
        target.inputs[:, :-1].mean(0), torch.zeros(target.inputs.shape[1] - 1), atol=1e-4, rtol=0
    )
    assert (target.inputs[:, -1] == 1).all() and abs(float(target.outputs.std(correction=0)) - 1) < 1e-4


def test_boston_noise_is_the_published_multiple_of_the_response() -> None:
    assert math.isclose(math.exp(-0.5 * OFFICIAL["boston"][1]), 3.59, abs_tol=0.005)


def test_principled_noise_has_one_meaning_in_two_units() -> None:
    target, sd = load("bnn_yacht", mode="principled"), ksivi_split("yacht").sd
    assert (target.log_lambda, target.log_gamma) == PRECISIONS["principled"]["yacht"]
    assert math.isclose(target.test_log_gamma, target.log_gamma - 2 * math.log(sd), rel_tol=1e-12)
    assert load("bnn_yacht", log_gamma=1.5).log_gamma == 1.5
    with pytest.raises(UserError, match="ksivi-compat or principled"):
        load_error = entries("target")["bnn_yacht"].obj
        load_error(mode="both")


def test_rule_of_the_principled_precision_lowers_the_noise() -> None:
    """A short run of the rule: the table's value needs minutes."""
    load("bnn_yacht")
    assert 1.0 < select("yacht", rounds=1, steps=100) < PRINCIPLED["yacht"][1] + 1.0


def test_the_error_of_draws_is_that_of_their_mean_and_their_variance() -> None:
    target = small_net(original_scale=False)
    x = torch.randn(7, target.dim, dtype=target.test_outputs.dtype)
    variance = target.predict(x).var(0, unbiased=False).mean()
    torch.testing.assert_close(target.test_rmse_of_draws(x).square(), target.test_rmse(x).square() + variance)


@pytest.mark.parametrize("name", PVI_SIZES)
def test_pvi_sizes(name: str) -> None:
    target = load(f"bnn_{name}_pvi")
    assert (target.dim, len(target.inputs), len(target.test_inputs)) == PVI_SIZES[name]
    assert math.isclose(target.gamma, 1e4) and math.isclose(target.prior_precision, 0.04)
    with pytest.raises(UserError, match="development part"):
        target.dev_loss(torch.zeros(2, target.dim))


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    head = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


def test_mnist_full_from_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, n in (("train", 6), ("t10k", 4)):
        write_idx(tmp_path / f"mnist/{part}-images-idx3-ubyte.gz", np.arange(n * 784).reshape(n, 28, 28) % 256)
        write_idx(tmp_path / f"mnist/{part}-labels-idx1-ubyte.gz", np.arange(n))
    monkeypatch.setattr(mnist, "fetch", lambda name: tmp_path / name)
    target = entries("target")["mlr_mnist"].obj(data="full", batch=2)
    assert (target.dim, len(target.inputs), len(target.test_inputs)) == (7850, 6, 4)
    assert float(target.inputs[1, 1 + 5]) == pytest.approx((784 + 5) % 256 / 255) and target.inputs[1, 0] == 1
    assert target.outputs.argmax(1).tolist() == list(range(6))
    (tmp_path / "mnist/train-labels-idx1-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="not a gzip file"):
        mnist.load_mnist("full")


def test_mnist_split_of_the_test_files() -> None:
    target = load("mlr_mnist")
    assert (target.dim, len(target.inputs), len(target.test_inputs)) == (7850, 8000, 2000)
    counts = target.outputs.sum(0) + target.test_outputs.sum(0)
    assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # of MNIST's test set
    with pytest.raises(UserError, match="t10k or full"):
        mnist.load_mnist("train")  # type: ignore[arg-type]


def test_hapt_from_its_own_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIVIBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="Train/X_train.txt"):
        hapt.load_hapt()
    monkeypatch.setattr(hapt, "SHAPES", {"Train": (12, 4), "Test": (3, 4)})
    for part, n in (("Train", 12), ("Test", 3)):
        folder = tmp_path / "hapt" / part
        folder.mkdir(parents=True)
        np.savetxt(folder / f"X_{part.lower()}.txt", normal(n, 4).numpy())
        np.savetxt(folder / f"y_{part.lower()}.txt", np.arange(n) + 1, fmt="%d")
    target = entries("target")["mlr_hapt"].obj(bias="last")
    assert (target.dim, target.classes, target.batch, len(target.test_inputs)) == (60, 12, 863, 3)
    assert (target.inputs[:, -1] == 1).all() and target.outputs.argmax(1).tolist() == list(range(12))
    (tmp_path / "hapt/Test/y_test.txt").write_text("0\n1\n2\n")
    with pytest.raises(UserError, match="labels outside"):
        hapt.load_hapt()


def test_the_split_of_ksivi_without_its_data(monkeypatch):
    rows = np.random.RandomState(0).randn(100, 3) * 2 + 5
    monkeypatch.setattr(uci, "load", lambda name: rows)
    split = uci.ksivi_split("boston")
    rest, test = train_test_split(rows, test_size=0.1, random_state=42)
    train, dev = rest[:-9], rest[-9:]
    for (u, y), part in ((split.train, train), (split.dev, dev), (split.test, test)):
        z = (part - train.mean(0)) / train.std(0)
        np.testing.assert_allclose(torch.cat([u, y[:, None]], 1).numpy(), z)
    assert (split.mean, split.sd) == pytest.approx((train[:, -1].mean(), train[:, -1].std()))


# ---- the targets of the papers without their data: the same rows by the definition


@pytest.fixture
def double() -> Iterator[None]:
    """Targets keep their rows in float64: of a likelihood with precision 1e4 the prior is the seventh digit."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def rows_of(name: str, n: int) -> np.ndarray:
    """As wide as the set, other ones for every set."""
    features = (SIZES[name][0] - 1) // 50 - 2
    return 2 * np.random.RandomState(list(SIZES).index(name)).randn(n, features + 1) + 5


def by_rows(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(uci, "load", lambda name: rows_of(name, n))


def standardised(part: np.ndarray, train: np.ndarray) -> tuple[Tensor, Tensor]:
    z = torch.from_numpy((part - train.mean(0)) / train.std(0))
    return z[:, :-1], z[:, -1]


def net(x: Tensor, u: Tensor, hidden: int) -> Tensor:
    w1, b1, w2, b2 = x.split([u.shape[1] * hidden, hidden, hidden, 1])
    return torch.relu(u @ w1.view(-1, hidden) + b1) @ w2 + b2


def check(target: Any, x: Tensor, log_prob: Tensor, test_log_p: Tensor) -> None:
    torch.testing.assert_close(target.log_prob(x), log_prob, rtol=1e-10, atol=0)
    torch.testing.assert_close(target.test_log_predictive(x[None]), test_log_p.mean(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("mode", PRECISIONS)
@pytest.mark.parametrize("name", SIZES)
def test_ksivis_posterior_and_predictive_density_written_out(name, mode, monkeypatch, double):
    by_rows(monkeypatch, 100)
    target = entries("target")[f"bnn_{name}"].obj(**({} if mode == "ksivi-compat" else {"mode": mode}))
    precisions = PRECISIONS[mode][name]
    assert (target.log_lambda, target.log_gamma) == precisions
    assert (target.dim, target.batch) == (SIZES[name][0], 100)
    rest, test = train_test_split(rows_of(name, 100), test_size=0.1, random_state=42)
    train = rest[:-9]
    (u, y), (u_test, _) = (standardised(part, train) for part in (train, test))
    x, (prior_sd, noise_sd) = 0.3 * normal(target.dim), (math.exp(-0.5 * value) for value in precisions)
    log_prob = Normal(0.0, prior_sd).log_prob(x).sum() + Normal(net(x, u, 50), noise_sd).log_prob(y).sum()
    # predictions are in original units: the official gamma serves there as it is, the principled one is converted
    mean, sd = train[:, -1].mean(), train[:, -1].std()
    test_sd = noise_sd * (sd if mode == "principled" else 1.0)
    predicted = Normal(mean + sd * net(x, u_test, 50), test_sd)
    check(target, x, log_prob, predicted.log_prob(torch.from_numpy(test[:, -1])))


@pytest.mark.parametrize("name, hidden", [("concrete", 10), ("protein", 30), ("yacht", 10)])
def test_pvis_posterior_and_predictive_density_written_out(name, hidden, monkeypatch, double):
    dim, n_train, n_test = PVI_SIZES[name]
    n = n_train + n_test + 7
    by_rows(monkeypatch, n)
    target = entries("target")[f"bnn_{name}_pvi"].obj()
    assert (target.dim, target.batch) == (dim, 0)
    rows = rows_of(name, n)[np.random.RandomState(0).permutation(n)]
    train, test = rows[:n_train], rows[n_train : n_train + n_test]
    (u, y), (u_test, y_test) = (standardised(part, train) for part in (train, test))
    x = normal(dim)
    log_prob = Normal(0.0, 5.0).log_prob(x).sum() + Normal(net(x, u, hidden), 0.01).log_prob(y).sum()
    check(target, x, log_prob, Normal(net(x, u_test, hidden), 0.01).log_prob(y_test))


def test_mnists_posterior_and_predictive_density_written_out(monkeypatch, double):
    features, labels = np.random.RandomState(1).rand(10_000, 3), (np.arange(10_000) % 10).astype(np.uint8)
    monkeypatch.setattr(mnist, "_part", lambda name: {"t10k": (features, labels)}[name])
    target = entries("target")["mlr_mnist"].obj()
    assert (target.dim, target.batch) == (4 * 10, 2000)
    order, x = np.random.RandomState(0).permutation(10_000), normal(40)

    def log_p(rows: np.ndarray) -> Tensor:
        u = torch.from_numpy(np.insert(features[rows], 0, 1.0, axis=1))
        return Categorical(logits=u @ x.view(4, 10)).log_prob(torch.from_numpy(labels[rows]))

    check(target, x, Normal(0.0, 1.0).log_prob(x).sum() + log_p(order[:8000]).sum(), log_p(order[8000:]))


def test_the_split_of_pvi_without_its_data(monkeypatch):
    rows = np.arange(310.0)[:, None] ** np.arange(1, 4)
    monkeypatch.setattr(uci, "load", lambda name: rows)
    split = uci.pvi_split("yacht")
    order = np.random.RandomState(0).permutation(310)
    train = rows[order[:246]]
    assert split.dev is None
    for part, index in ((split.train, order[:246]), (split.test, order[246 : 246 + 62])):
        u, y = standardised(rows[index], train)
        torch.testing.assert_close(part, (u, y))
    assert (split.mean, split.sd) == pytest.approx((train[:, -1].mean(), train[:, -1].std()))


def test_the_split_of_mnists_test_files_without_them(monkeypatch):
    rows = np.arange(10_000)
    monkeypatch.setattr(mnist, "_part", lambda name: (rows[:, None], rows))
    order = np.random.RandomState(0).permutation(10_000)
    for (u, y), expected in zip(mnist.load_mnist("t10k"), (order[:8000], order[8000:]), strict=True):
        assert np.array_equal(u[:, 0], expected) and np.array_equal(y, expected)
