"""Reference draws: the sampler on a known posterior, what is stored, and agreement with published moments."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.errors import UserError
from bench.noise import generator
from bench.reference import ESS_LIMIT, RHAT_LIMIT, generate, regenerate
from bench.reference.mala import laplace
from bench.registry import entries
from targets.base import Target, Unsupported
from targets.stored_draws import FOLDER, load_info, load_reference, save_reference

STORED = sorted(name for name, entry in entries("target").items() if entry.obj.reference_sampler)
FAST = {"chains": 32, "burn_in": 600, "draws": 1000, "thin": 50}

# Published posterior of blr_waveform: independent HMC, 1000 chains x 20 draws, three decimals.
HMC_DRAWS = 20_000
HMC_MEAN = [5.755, -0.096, -0.465, 0.447, -0.251, -0.089, 0.446, -0.072, -1.936, -0.997, -0.912,
            -1.210, 0.360, -0.140, 0.789, 0.806, 1.585, 0.755, 1.925, 0.639, 0.923, 0.100]  # fmt: skip
HMC_SD = [0.819, 0.229, 0.287, 0.277, 0.352, 0.402, 0.447, 0.485, 0.455, 0.439, 0.388,
          0.371, 0.361, 0.428, 0.409, 0.447, 0.444, 0.422, 0.418, 0.282, 0.284, 0.259]  # fmt: skip


class Correlated(Target):
    """N(m, S) in three dimensions with standard deviations over two decades and correlation .95."""

    dim = 3

    def __init__(self) -> None:
        super().__init__()
        sd = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
        self.register_buffer("mean", torch.tensor([1.0, -2.0, 30.0], dtype=torch.float64))
        self.register_buffer("covariance", (0.95 + 0.05 * torch.eye(3, dtype=torch.float64)) * sd.outer(sd))

    def log_prob(self, x: Tensor) -> Tensor:
        y = x - self.mean
        return -0.5 * (y * torch.linalg.solve(self.covariance, y.unsqueeze(-1)).squeeze(-1)).sum(-1)


class Saddle(Target):
    """Not log-concave at the origin, where the search for a mode starts."""

    dim = 2

    def log_prob(self, x: Tensor) -> Tensor:
        return (x.square() - x**4).sum(-1)


def test_sampler_recovers_a_gaussian() -> None:
    target = Correlated()
    draws, info = generate(target, **FAST)
    assert draws.shape == (32 * 20, 3)
    assert info["rhat_max"] < 1.02 and 0.5 < info["acceptance"] < 0.65
    sd = target.covariance.diagonal().sqrt()
    for found, exact, error in ((info["mean"], target.mean, "mcse_mean"), (info["sd"], sd, "mcse_sd")):
        z = (torch.tensor(found) - exact) / torch.tensor(info[error])
        assert float(z.abs().max()) < 4.5
    correlation = torch.corrcoef(draws.T)[0, 2]
    assert abs(float(correlation) - 0.95) < 0.03


def test_sampler_is_reproducible_and_leaves_the_target_alone() -> None:
    target = Correlated().float()
    small = {"chains": 4, "burn_in": 30, "draws": 40, "thin": 10}
    first, second, other = (generate(target, seed=seed, **small)[0] for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert target.mean.dtype == torch.float32


def test_laplace_of_a_gaussian_is_exact() -> None:
    target = Correlated()
    mode, scale = laplace(target)
    torch.testing.assert_close(mode, target.mean)
    torch.testing.assert_close(scale @ scale.T, target.covariance)


def test_laplace_refuses_what_is_not_log_concave() -> None:
    with pytest.raises(UserError, match="log-concave"):
        laplace(Saddle())


def test_a_target_that_may_have_several_modes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no reference sampler"):
        regenerate("multimodal", tmp_path)


def test_a_burn_in_too_short_to_adapt_is_refused() -> None:
    with pytest.raises(UserError, match="raise burn_in"):
        generate(Correlated(), chains=2, burn_in=6, draws=10, thin=1)


def test_chains_that_did_not_converge_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did not converge"):
        regenerate("blr_breast_cancer", tmp_path, chains=16, burn_in=60, draws=20, thin=10)
    assert not list(tmp_path.iterdir())


def test_regenerate_writes_complete_provenance(tmp_path: Path) -> None:
    info = regenerate("blr_breast_cancer", tmp_path, chains=64, burn_in=900, draws=1500, thin=100)
    assert (
        json.loads((tmp_path / "blr_breast_cancer.json").read_text())
        == info
        == load_info("blr_breast_cancer", tmp_path)
    )
    assert set(info) == set(load_info("blr_breast_cancer"))
    draws = load_reference("blr_breast_cancer", 1, {"prior_precision": 1.0}, tmp_path)
    assert draws.shape == (64 * 15, 31) and draws.dtype == torch.float32
    # an independent, shorter run agrees with the stored one
    stored = load_info("blr_breast_cancer")
    for key, error in (("mean", "mcse_mean"), ("sd", "mcse_sd")):
        assert largest_z(info[key], stored[key], info[error], stored[error]) < 4.5


def largest_z(a: list[float], b: list[float], error_a: list[float], error_b: list[float], slack: float = 0.0) -> float:
    """Largest difference in units of the combined standard error, after ``slack`` for rounding."""
    return max(
        max(abs(x - y) - slack, 0.0) / math.hypot(ex, ey) for x, y, ex, ey in zip(a, b, error_a, error_b, strict=True)
    )


@pytest.mark.parametrize("name", STORED)
def test_stored_draws(name: str) -> None:
    entry, info = entries("target")[name], load_info(name)
    parameters = {key: parameter.default for key, parameter in entry.parameters.items()}
    draws = load_reference(name, entry.version, parameters)  # checks the hash
    d = len(info["mean"])
    assert draws.shape == (info["rows"], d) and draws.dtype == torch.float32 and torch.isfinite(draws).all()
    assert 3500 <= len(draws) <= 5000 and (FOLDER / info["file"]).stat().st_size < 4 * draws.numel() + 1000
    assert info["rhat_max"] < RHAT_LIMIT and min(info["ess_bulk_min"], info["ess_tail_min"]) > ESS_LIMIT
    assert all(len(info[key]) == d for key in ("mean", "sd", "mcse_mean", "mcse_sd"))
    assert info["git"] and info["dirty"] is False and info["created"] and info["versions"]["torch"]
    # the stored rows are nearly independent draws of what the full chains describe
    sd, root = torch.tensor(info["sd"]), math.sqrt(len(draws))
    assert float(((draws.mean(0) - torch.tensor(info["mean"])) / (sd / root)).abs().max()) < 5
    assert float((draws.std(0) / sd - 1).abs().max()) < 5 / root
    assert load_reference(name, entry.version, parameters) is draws  # read once per process


def test_waveform_agrees_with_published_moments() -> None:
    info = load_info("blr_waveform")
    root = math.sqrt(HMC_DRAWS)
    mean_error, sd_error = [s / root for s in HMC_SD], [s / (math.sqrt(2) * root) for s in HMC_SD]
    assert largest_z(info["mean"], HMC_MEAN, info["mcse_mean"], mean_error, slack=0.0005) < 4
    assert largest_z(info["sd"], HMC_SD, info["mcse_sd"], sd_error, slack=0.0005) < 4


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    draws = torch.randn(10, 2, generator=generator("stored"))
    save_reference("toy", draws, {"target_version": 1, "target_parameters": {"a": 1.0}}, tmp_path)
    return tmp_path


def test_stored_files_do_not_depend_on_the_clock(stored: Path, tmp_path: Path) -> None:
    first = (stored / "toy.npz").read_bytes()
    draws = load_reference("toy", 1, {"a": 1.0}, stored)
    save_reference("toy", draws, {"target_version": 1, "target_parameters": {"a": 1.0}}, tmp_path / "again")
    assert (tmp_path / "again/toy.npz").read_bytes() == first


def spoil(folder: Path, what: str) -> dict[str, Any]:
    """Damage the files; what to ask ``load_reference`` for."""
    wanted: dict[str, Any] = {"version": 1, "parameters": {"a": 1.0}}
    if what == "bytes":
        (folder / "toy.npz").write_bytes((folder / "toy.npz").read_bytes()[:-1] + b"x")
    elif what == "missing":
        (folder / "toy.npz").unlink()
    elif what == "json":
        (folder / "toy.json").write_text("{")
    elif what == "provenance":
        (folder / "toy.json").unlink()
    elif what == "version":
        wanted["version"] = 2
    return wanted


@pytest.mark.parametrize("what", ["bytes", "missing", "json", "provenance", "version"])
def test_unusable_files_say_how_to_mend_them(stored: Path, what: str) -> None:
    wanted = spoil(stored, what)
    with pytest.raises(UserError, match="sivibench reference toy"):
        load_reference("toy", folder=stored, **wanted)


def test_other_parameters_are_unsupported(stored: Path) -> None:
    with pytest.raises(Unsupported):
        load_reference("toy", 1, {"a": 2.0}, stored)
