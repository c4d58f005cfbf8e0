"""Image metrics: the numerics of FD, KD, precision and recall, and what a value depends on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from bench.errors import UserError
from bench.features import classifier
from bench.features.base import as_bytes, evaluated, features_of
from bench.features.classifier import about
from bench.features.train import accuracy_of, fit, moved
from bench.metrics.base import Fitted
from bench.metrics.evaluate import evaluate
from bench.metrics.images import sets, teacher
from bench.metrics.images.kernel import kernel_distance, subset_distances
from bench.metrics.images.manifold import covered, squared_radii
from bench.metrics.images.moments import Moments, frechet, merged
from bench.registry import get
from methods.base import Method
from metric_fakes import fitted
from targets.base import Target
from targets.diffusion.eps import EpsTeacher
from targets.diffusion.schedule import make_schedule
from targets.images.base import ImageTarget


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return frechet(Moments.of(x), Moments.of(y))


def independent_fd(x: torch.Tensor, y: torch.Tensor) -> float:
    """The definition, with SciPy's matrix square root of the unsymmetric product."""
    a, b = np.cov(x.numpy().T), np.cov(y.numpy().T)
    mean = np.square(x.numpy().mean(0) - y.numpy().mean(0)).sum()
    return float(mean + np.trace(a) + np.trace(b) - 2 * np.trace(scipy.linalg.sqrtm(a @ b)).real)


# ---- Frechet distance


@pytest.mark.parametrize("dim", [1, 8, 64])
def test_fd_is_the_definition(dim: int) -> None:
    mix = normal(dim, dim, seed=2)
    x, y = 3 + normal(500, dim) @ mix, normal(300, dim, seed=1).abs()
    expected = independent_fd(x, y) if dim > 1 else float((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2)
    assert distance(x, y) == pytest.approx(expected, rel=1e-8, abs=1e-8)
    assert distance(y, x) == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_fd_of_known_gaussians() -> None:
    a, b = normal(6, 6).abs().sum(0), normal(6, 6, seed=1).abs().sum(0)
    shift = normal(6, seed=2)
    rotation = torch.linalg.qr(normal(6, 6, seed=3)).Q
    covariances = [rotation @ torch.diag(v) @ rotation.T for v in (a, b)]  # commuting: the roots are known
    first, second = (Moments(11, m, 10 * s) for m, s in zip((torch.zeros(6), shift), covariances, strict=True))
    expected = float(shift.square().sum() + (a.sqrt() - b.sqrt()).square().sum())
    assert frechet(first, second) == pytest.approx(expected, abs=1e-10)


def test_fd_agrees_with_torchmetrics() -> None:
    class Rows(torch.nn.Module):
        num_features = 16

        def forward(self, images):
            return images.reshape(len(images), -1)

    x, y = normal(400, 1, 4, 4), 0.5 + 1.3 * normal(300, 1, 4, 4, seed=1)
    other = FrechetInceptionDistance(feature=Rows(), normalize=True).set_dtype(torch.float64)
    other.update(x, real=True)
    other.update(y, real=False)
    assert distance(x.flatten(1), y.flatten(1)) == pytest.approx(float(other.compute()), abs=1e-5)  # its float32 result


@pytest.mark.parametrize("n", [2, 20, 63])
def test_fd_of_fewer_vectors_than_dimensions(n: int) -> None:
    """Singular covariances: the overlap is the nuclear norm of the product of the centred rows."""
    x, y = normal(n, 64), 0.3 + normal(n + 5, 64, seed=1)
    a, b = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    overlap = torch.linalg.svdvals(a @ b.T).sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * overlap
    assert distance(x, y) == pytest.approx(float(expected), rel=1e-8)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("n", [2, 20, 500])
def test_fd_of_identical_and_of_shifted_sets(n: int, scale: float) -> None:
    x, shift = scale * normal(n, 64), torch.full((64,), 0.01 * scale, dtype=torch.float64)
    assert 0 <= distance(x, x) <= 1e-8 * scale**2
    assert distance(x, x + shift) == pytest.approx(float(shift.square().sum()), rel=1e-6)
    constant = torch.ones(5, 64, dtype=torch.float64)
    assert distance(constant, constant) == 0 and distance(constant, constant + 1) == pytest.approx(64)


def test_moments_of_a_stream_do_not_depend_on_order_or_batches() -> None:
    x = 1e6 + normal(1000, 8)  # a mean that cancels in sums of squares that are not centred
    whole = Moments.of(x)
    assert torch.equal(whole.mean, x.mean(0)) and torch.allclose(whole.covariance, torch.cov(x.T), rtol=1e-12)
    other = Moments.of(1e6 + 2 * normal(100, 8, seed=1))
    for size in (1, 7, 250, 1000):
        for rows in (x, x.flip(0), x[torch.randperm(1000, generator=torch.Generator().manual_seed(size))]):
            found = merged(map(Moments.of, rows.split(size)))
            assert found.n == 1000 and torch.allclose(found.scatter, whole.scatter, rtol=1e-8)
            assert frechet(found, other) == pytest.approx(frechet(whole, other), rel=1e-8)
    assert frechet(other, whole) == pytest.approx(frechet(whole, other), rel=1e-10)


def test_the_bias_of_fd_falls_as_one_over_n() -> None:
    """What the floor of the metric relies on: E FD(n, m) is proportional to 1/n + 1/m for equal laws."""
    means = []
    for n, m in ((500, 500), (2000, 800)):
        found = [distance(normal(n, 16, seed=s), normal(m, 16, seed=100 + s)) for s in range(20)]
        means.append(sum(found) / len(found) / (1 / n + 1 / m))
    assert means[1] == pytest.approx(means[0], rel=0.05)


# ---- kernel distance


def cubic_moment(x: list[torch.Tensor], y: list[torch.Tensor], d: int) -> float:
    """E (X . Y / d + 1)^3 of independent X, Y from their moment tensors of order 1, 2 and 3."""
    return 1 + sum(math.comb(3, k) * float((x[k - 1] * y[k - 1]).sum()) / d**k for k in (1, 2, 3))


def gaussian_moments(mean: torch.Tensor, sd: float) -> list[torch.Tensor]:
    """Moment tensors of N(mean, sd^2 I) up to order 3."""
    eye = sd**2 * torch.eye(len(mean), dtype=torch.float64)
    mixed = torch.einsum("i,jk->ijk", mean, eye)
    third = torch.einsum("i,j,k->ijk", mean, mean, mean) + mixed + mixed.permute(1, 0, 2) + mixed.permute(1, 2, 0)
    return [mean, torch.outer(mean, mean) + eye, third]


@pytest.mark.parametrize("shift, sd", [(0.0, 1.0), (0.7, 1.0), (0.2, 1.5)])
def test_kernel_distance_is_unbiased_on_gaussians(shift: float, sd: float) -> None:
    d, repeats = 3, 400
    p, q = gaussian_moments(torch.zeros(d).double(), 1.0), gaussian_moments(torch.full((d,), shift).double(), sd)
    expected = cubic_moment(p, p, d) + cubic_moment(q, q, d) - 2 * cubic_moment(p, q, d)
    x, y = normal(repeats, 40, d), shift + sd * normal(repeats, 30, d, seed=1)
    found = torch.tensor([kernel_distance(a, b) for a, b in zip(x, y, strict=True)])
    assert abs(float(found.mean()) - expected) < 4 * float(found.std()) / math.sqrt(repeats)
    assert expected == pytest.approx(0, abs=1e-12) if (shift, sd) == (0.0, 1.0) else expected > 0.1


def test_kernel_distance_is_that_of_torchmetrics_and_order_does_not_matter() -> None:
    x, y = normal(100, 8), normal(100, 8, seed=1) + 0.5
    assert kernel_distance(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-10)
    assert kernel_distance(x.flip(0), y) == pytest.approx(kernel_distance(x, y), rel=1e-10)
    whole = subset_distances(x, y, 3, 1000, torch.Generator().manual_seed(0))  # fewer rows than a subset has
    assert whole.tolist() == pytest.approx([kernel_distance(x, y)] * 3)
    parts = subset_distances(x, y, 50, 30, torch.Generator().manual_seed(0))
    assert parts.std() > 0 and abs(parts.mean() - whole[0]) < 4 * parts.std() / math.sqrt(50)


# ---- precision and recall


def test_precision_and_recall_by_hand() -> None:
    real = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    assert squared_radii(real, 1).tolist() == [1, 1, 4, 49]
    assert squared_radii(real, 3).tolist() == [100, 81, 49, 100]
    fake = torch.tensor([[-1.0], [-1.5], [4.9], [5.1], [17.0], [17.1]])
    # Balls with k = 1: [-1, 1], [0, 2], [1, 5] and [3, 17]; a boundary belongs to its ball.
    assert covered(fake, real, 1) == pytest.approx(4 / 6)
    # Of the generated: radii .5, .5, .2, .2, .1, .1: no real point is inside.
    assert covered(real, fake, 1) == 0.0
    # Radii with k = 2 are 5.9, 6.4, 5.9, 6.1, 11.9, 12: all but nothing.
    assert covered(real, fake, 2) == 1.0


def test_precision_sees_quality_and_recall_sees_diversity() -> None:
    real, narrow, wide = normal(600, 4), 0.2 * normal(600, 4, seed=1), 4 * normal(600, 4, seed=2)
    assert covered(narrow, real, 3) > 0.9 and covered(real, narrow, 3) < 0.3
    assert covered(wide, real, 3) < 0.3 and covered(real, wide, 3) > 0.9
    assert covered(real, real, 3) == 1.0


def test_precision_with_duplicates_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    same = torch.zeros(5, 2)
    assert squared_radii(same, 3).tolist() == [0] * 5 and covered(same, same, 3) == 1.0
    x, y = normal(50, 3), normal(40, 3, seed=1)
    whole = covered(x, y, 3)
    monkeypatch.setattr("bench.metrics.images.manifold.CHUNK", 7)
    assert covered(x, y, 3) == whole and 0 < whole < 1


# ---- images


def test_images_are_clipped_and_rounded_to_eight_bits() -> None:
    grey = torch.tensor([[-2.0, -1.0, 2 * 7.4 / 255 - 1, 2 * 7.6 / 255 - 1, 0.999, 1.5]])
    assert as_bytes(grey, (1, 2, 3)).flatten().tolist() == [0, 0, 7, 8, 255, 255]
    assert as_bytes(torch.arange(6.0).repeat(2, 1), (3, 1, 2)).shape == (2, 3, 1, 2)
    levels = torch.arange(256.0)[None] / 127.5 - 1
    assert as_bytes(levels, (1, 16, 16)).flatten().tolist() == list(range(256))


# ---- the metrics


def blobs(n: int, seed: int) -> torch.Tensor:
    """Soft spots on 8 x 8 pixels in [-1, 1], [n, 64]."""
    side = torch.arange(8.0)
    x, y = 1 + 5 * torch.rand(2, n, 1, generator=torch.Generator().manual_seed(seed))
    bumps = torch.exp(-0.3 * ((side - x).square()[:, :, None] + (side - y).square()[:, None, :]))
    return 2 * bumps.flatten(1) - 1


class Images(ImageTarget):
    """Two hundred blobs, a hundred more held out."""

    shape = (1, 8, 8)

    def __init__(self) -> None:
        super().__init__(*(as_bytes(blobs(n, n), self.shape).flatten(1) for n in (200, 100)))


class Painter(Method):
    """Fresh blobs with noise, or NaN."""

    def __init__(self, target, noise: float = 0.0) -> None:
        super().__init__(target)
        self.noise = torch.nn.Parameter(torch.tensor(noise))

    def sample(self, n, noise):
        seed = int(noise.uniform(1)[0] * 1e6)
        return blobs(n, seed) + self.noise * noise.normal(n, 64)


DIGITS = ("fd_digits", "kd_digits", "precision_digits", "recall_digits")
FEW = {"kd_digits": {"subsets": 5, "size": 100}}


def painted(noise: float = 0.0, seed: int = 0) -> Fitted:
    target = Images()
    return Fitted(Painter(target, noise), target, seed)


def test_the_metrics_of_a_right_and_of_a_wrong_sampler() -> None:
    cheap = {name: {"n": 400} | FEW.get(name, {}) for name in DIGITS}
    right, wrong = (evaluate(DIGITS, painted(noise), cheap) for noise in (0.0, 0.4))
    for name in DIGITS:
        good, bad = right[0][name], wrong[0][name]
        assert good["protocol"] == bad["protocol"] and good["floor"] == bad["floor"]
    for name in ("fd_digits", "kd_digits"):
        assert wrong[0][name]["value"] > 3 * abs(right[0][name]["value"]) + 0.1
    assert right[0]["fd_digits"]["value"] < 3 * right[0]["fd_digits"]["floor"]
    assert right[0]["kd_digits"]["error"] > 0 and "error" not in right[0]["fd_digits"]
    assert wrong[0]["precision_digits"]["value"] < 0.5 < right[0]["precision_digits"]["value"]
    json.dumps(right, allow_nan=False)


def test_the_protocol_names_features_and_data() -> None:
    def protocols(part: str) -> dict[str, Any]:
        (found,) = evaluate(["fd_digits"], painted(), {"fd_digits": {"n": 50, "reference": part}})[1].values()
        return found

    found = protocols("all")
    assert found["features"] == {"network": "digits", "sha256": about("digits")["sha256"]}
    assert found["n_images"] == 300 and protocols("train")["n_images"] == 200 and protocols("test")["n_images"] == 100
    assert len({protocols(part)["images"] for part in ("train", "test", "all")}) == 3
    assert found["images"] == protocols("all")["images"]


def test_draws_are_shared_and_belong_to_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(sets, "CHUNK", 30)
    sample = Painter.sample
    monkeypatch.setattr(Painter, "sample", lambda self, n, noise: drawn.append(n) or sample(self, n, noise))
    q = painted(seed=1)
    first = evaluate(DIGITS, q, {name: {"n": 70} | FEW.get(name, {}) for name in DIGITS})[0]
    assert drawn == [30, 30, 10]
    again = get("metric", "fd_digits").obj(n=70)
    assert again(painted(seed=1)).value == first["fd_digits"]["value"] != again(painted(seed=2)).value


def test_a_broken_sampler_has_no_value() -> None:
    metrics, _, skipped = evaluate(["fd_digits"], painted(math.nan), {"fd_digits": {"n": 20}})
    assert metrics["fd_digits"]["value"] is None and "not finite" in skipped["fd_digits"]


def test_images_of_another_size_have_no_digit_features() -> None:
    target = Images()
    target.shape = (3, 32, 32)
    for name in DIGITS:
        assert "1 x 8 x 8" in get("metric", name).obj().applies(Painter(target), target)
        assert "no set of images" in get("metric", name).obj().applies(*_toy())


def test_bits_per_dim_are_of_the_held_out_images() -> None:
    class BlackAndWhite(ImageTarget):
        """Black to train on, white held out: x = -1 and x = 1."""

        shape = (1, 2, 2)

        def __init__(self) -> None:
            super().__init__(*(torch.full((3, 4), value, dtype=torch.uint8) for value in (0, 255)))

    class Brightness(Method):
        def nll_bound(self, x, noise):
            return x.sum(-1)

    target = BlackAndWhite()
    metric, method = get("metric", "bits_per_dim").obj(repeats=2), Brightness(target)
    assert metric.applies(method, target) is None
    found = metric(Fitted(method, target, 0))
    assert (found.value, found.error) == pytest.approx((1 / math.log(2), 0.0))


# Balls with k = 1: of the real [-1, 1], [0, 2], [1, 5] and [3, 17], of the first four generated [-1.5, -.5], [-2, -1],
# [4.7, 5.1] and [4.9, 5.3]: three of the generated are inside the former, none of the real inside the latter.
@pytest.mark.parametrize("name, value", [("precision_digits", 0.75), ("recall_digits", 0.0)])
def test_which_balls_cover_which_points(name: str, value: float) -> None:
    real, fake = (torch.tensor(z)[:, None] for z in ([0.0, 1.0, 3.0, 10.0], [-1.0, -1.5, 4.9, 5.1, 0.5]))
    sample, reference = of_rows(fake), sets.Reference(of_rows(real), "")
    assert get("metric", name).obj(k=1).compare(sample, reference) == (value, None)


def test_the_floor_of_kd_is_the_noise_of_as_many_draws_of_the_truth() -> None:
    """It is told from halves of the real images, whose distances scatter more than those of larger sets."""
    metric = get("metric", "kd_digits").obj(n=400)
    floors = [metric.floor(sets.Reference(of_rows(normal(200, 5, seed=seed)), "")) for seed in range(20)]
    found = [kernel_distance(normal(400, 5, seed=100 + i), normal(200, 5, seed=200 + i)) for i in range(100)]
    scatter = float(torch.tensor(found).square().mean().sqrt())
    assert metric.floor_is_noise and min(floors) > 0
    assert sum(floors) / len(floors) == pytest.approx(scatter, rel=0.3)


def test_the_ceiling_of_precision_is_a_mean_over_halves() -> None:
    reference, metric = sets.Reference(of_rows(normal(60, 2)), ""), get("metric", "precision_digits").obj()
    shares = [metric.share(*reference.halves(split)) for split in range(10)]
    assert len(set(shares)) > 1 and metric.floor(reference) == pytest.approx(sum(shares) / 10)


def test_the_floor_of_fd_is_the_bias_of_as_many_draws_of_the_truth() -> None:
    """From halves of 100: c = FD n / 2."""
    reference = sets.Reference(of_rows(normal(200, 5)), "")
    halves = [independent_fd(*reference.halves(split)) for split in range(3)]
    expected = sum(halves) / 3 * 50 * (1 / 400 + 1 / 200)
    metric = get("metric", "fd_digits").obj(n=400, splits=3)
    assert metric.floor(reference) == pytest.approx(expected, rel=1e-6)


def test_the_error_of_kd_is_the_standard_deviation_over_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.metrics.images.base.subset_distances", lambda *_: torch.tensor([1.0, 2.0, 6.0]))
    sample = of_rows(normal(5, 2))
    found = get("metric", "kd_digits").obj().compare(sample, sets.Reference(sample, ""))
    assert found == pytest.approx((3.0, math.sqrt(7)))


def of_rows(rows: torch.Tensor) -> sets.Sample:
    return sets.Sample(Moments.of(rows), rows)


def _toy() -> tuple[Method, Target]:
    q = fitted()
    return q.method, q.target


# ---- the classifiers


def test_features_do_not_depend_on_the_batch() -> None:
    images = as_bytes(blobs(60, 3), (1, 8, 8))
    whole, parts = (torch.cat(list(evaluated(features_of("digits"), images.split(size), "cpu"))) for size in (60, 7))
    assert whole.shape == (60, 64) and torch.allclose(whole, parts, atol=1e-12) and whole.std() > 0
    padded = F.pad(images, (2, 2, 2, 2))
    assert torch.equal(features_of("digits")(padded), features_of("digits")(images))


def test_a_damaged_weight_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in classifier.FOLDER.glob("digits.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(classifier, "FOLDER", tmp_path)
    classifier.load("digits")
    content = (tmp_path / "digits.safetensors").read_bytes()
    (tmp_path / "digits.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match="digits.safetensors is missing or not the recorded one"):
        classifier.load("digits")
    with pytest.raises(UserError, match="unknown feature network 'faces'"):
        classifier.load("faces")


@pytest.mark.parametrize("name", classifier.names())
def test_a_bundled_classifier_says_where_it_comes_from(name: str) -> None:
    described = about(name)
    assert described["accuracy"]["test"] > 0.97 and described["provenance"]["dirty"] is False
    assert (classifier.FOLDER / f"{name}.safetensors").stat().st_size < 300_000
    network = features_of(name)
    images = torch.randint(256, (3, 1, network.side, network.side), dtype=torch.uint8)
    assert network(images).shape == (3, 64) and network(images).dtype == torch.float64
    assert network.identity == {"network": name, "sha256": described["sha256"]}


def test_training_a_classifier_follows_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two short trainings give the same bits, another seed gives others, and the labels are learned."""
    recipe = about("digits")["recipe"] | {"epochs": 4}
    target = get("target", recipe["target"]).obj()
    images = as_bytes(target.train_images()[:512], (1, 8, 8)).float() / 127.5 - 1
    labelled = images, target.labels("train")[:512]
    first, again, other = (fit(labelled, recipe | {"seed": seed}, lambda line: None) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.hidden.weight, other.hidden.weight)
    assert accuracy_of(first, *labelled) > 0.5
    shifted = moved(images[:50], 1, torch.Generator().manual_seed(0))
    assert shifted.shape == (50, 1, 8, 8) and not torch.equal(shifted, images[:50])
    assert torch.equal(moved(images[:50], 0, torch.Generator()), images[:50])


@pytest.mark.slow
def test_the_bundled_digit_classifier_is_trained_again(capsys: pytest.CaptureFixture[str]) -> None:
    from bench.cli import main

    assert main(["features", "digits", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["accuracy"]["test"] > 0.97
    assert found["largest_difference"] < 0.05  # another processor sums in another order; 0 on the one that made it


# ---- the teacher as reference


class GaussianTeacher(EpsTeacher):
    """Exact for N(m, s^2 I)."""

    def __init__(self, m: float, s: float) -> None:
        super().__init__(make_schedule("linear"), 64)
        self.m, self.s = torch.tensor(m), s

    def forward(self, x, t):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return sigma * (x - alpha * self.m) / (alpha**2 * self.s**2 + sigma**2)


def test_draws_of_a_teacher_have_its_law() -> None:
    """Up to the first-order error of the steps."""
    for eta in (0.0, 1.0):
        images = teacher.teacher_images(GaussianTeacher(0.1, 0.3), (1, 8, 8), 300, 400, eta, "cpu")
        x = images.double() / 127.5 - 1
        assert images.shape == (300, 1, 8, 8)
        assert float(x.mean()) == pytest.approx(0.1, abs=0.01) and float(x.std()) == pytest.approx(0.3, rel=0.05)


def test_the_distance_to_the_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path))
    metric = get("metric", "fd_teacher_digits").obj(n=300, steps=400, eta=0.0)
    target = Images()
    assert "no teacher" in metric.applies(Painter(target), target)
    monkeypatch.setattr(Images, "teacher", lambda self, schedule=None: GaussianTeacher(0.1, 0.3))
    assert metric.applies(Painter(target), target) is None

    class Student(Painter):
        def sample(self, n, noise):
            return self.noise + 0.3 * noise.normal(n, 64)

    right, wrong = (metric(Fitted(Student(target, mean), target, 0)) for mean in (0.1, 0.5))
    assert right.value < 3 * right.floor and wrong.value > 5 * right.value and right.floor == wrong.floor
    assert len(list((tmp_path / "images").iterdir())) == 1
