"""Published networks as teachers: files of every format made here, converted, compared with what they were made of."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from bench.cli import main
from bench.errors import UserError
from published_networks import (
    ddpm_torch_state,
    edm_state,
    improved_diffusion_state,
    scrambled,
    write_edm_pickle,
)
from targets.diffusion.conversion import ddpm_torch, improved_diffusion
from targets.diffusion.conversion.convert import convert
from targets.diffusion.files import open_teacher
from targets.diffusion.networks.image_unet import ImageUNet
from targets.diffusion.networks.preconditioned import Preconditioned
from targets.diffusion.schedule import linear_schedule

SHAPE = (3, 8, 8)
SMALL = {"width": 32, "multipliers": (1, 2), "blocks": 1, "attention": (1,)}


@pytest.fixture
def x():
    return torch.randn(3, 192, generator=torch.Generator().manual_seed(1)), torch.tensor([0.0, 41.0, 800.0])


def opened(path):
    return open_teacher(str(path), shape=SHAPE, data="test", schedule=None, make="make")


def test_ddpm_torch(tmp_path, x):
    net = scrambled(ImageUNet(SHAPE, family="ddpm", **SMALL))
    state = ddpm_torch_state(net.state_dict())
    checkpoint = {"model": {}, "ema": {"decay": 0.9999, "shadow": {f"module.{k}": v for k, v in state.items()}}}
    torch.save(checkpoint, tmp_path / "cifar10.pt")
    path, card = convert(tmp_path / "cifar10.pt", "ddpm-torch", out=tmp_path, data="cifar10", size=8)
    torch.testing.assert_close(opened(path).eps(*x), net(*x))
    assert card.run.startswith("cifar10-") and card.shape == SHAPE


def test_a_head_of_another_width_is_refused(tmp_path):
    net = scrambled(ImageUNet(SHAPE, family="improved", heads=4, **SMALL))
    state = improved_diffusion_state(net.state_dict(), 4)
    for kind in ("weight", "bias"):
        state[f"out.2.{kind}"] = torch.cat([state[f"out.2.{kind}"]] * 2)
    torch.save(state, tmp_path / "im.pt")
    with pytest.raises(UserError, match=r"out\.2\.weight has 12 rows"):
        convert(tmp_path / "im.pt", "improved-diffusion", out=tmp_path, size=8)


def test_improved_diffusion_drops_the_variances(tmp_path, x):
    net = scrambled(ImageUNet(SHAPE, family="improved", heads=4, **SMALL))
    torch.save(improved_diffusion_state(net.state_dict(), 4), tmp_path / "im.pt")
    path, card = convert(tmp_path / "im.pt", "improved-diffusion", out=tmp_path, size=8)
    torch.testing.assert_close(opened(path).eps(*x), net(*x))
    assert card.schedule == {"name": "cosine"}


@pytest.mark.parametrize("family", ["song", "dhariwal"])
@pytest.mark.parametrize("outer", ["VPPrecond", "EDMPrecond"])
def test_edm(tmp_path, x, family, outer):
    """eps = (x_ve - D) / s with D = c_skip x_ve + c_out F(c_in x_ve, c_noise), Karras et al. 2022, table 1."""
    adaptive = family == "dhariwal"
    sizes = {**SMALL, "width": 64, "head_width": 64} if adaptive else SMALL
    net = scrambled(ImageUNet(SHAPE, family=family, **sizes))
    state = edm_state(net.state_dict(), 8, 2 if adaptive else 1, adaptive)
    settings = {"VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000}, "EDMPrecond": {"sigma_data": 0.5}}[outer]
    write_edm_pickle(tmp_path / "edm.pkl", state, outer, settings)
    path, _ = convert(tmp_path / "edm.pkl", "edm", out=tmp_path)
    rows, t = x
    schedule = linear_schedule()
    alpha, sigma = schedule.alpha(t).unsqueeze(1), schedule.sigma(t).unsqueeze(1)
    x_ve, s = rows / alpha, sigma / alpha
    if outer == "EDMPrecond":
        total = (s**2 + 0.25).sqrt()
        denoised = 0.25 / total**2 * x_ve + s * 0.5 / total * net(x_ve / total, s[:, 0].log() / 4)
    else:
        time = 999 * ((0.1**2 + 2 * 19.9 * torch.log1p(s**2)).sqrt() - 0.1) / 19.9
        denoised = x_ve - s * net(x_ve / (1 + s**2).sqrt(), time[:, 0])
    torch.testing.assert_close(opened(path).eps(rows, t), (x_ve - denoised) / s, rtol=1e-4, atol=2e-4)


def test_the_published_sizes():
    """Parameters of the four published architectures, as their authors and libraries count them."""
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in ImageUNet((3, 64, 64), **arguments).parameters())
            for arguments in (
                {},
                {"multipliers": (1, 2, 2, 2, 4), "attention": (2,)},
                {"family": "song", "blocks": 4, "multipliers": (2, 2, 2), "attention": (1,)},
            )
        ]
    assert counts == [35_746_307, 78_700_803, 55_732_739]


def test_edm_preconditioning_recovers_the_noise_of_gaussian_data():
    """F of the ideal denoiser of N(0, d^2 I) is zero; then eps = sigma x / (alpha^2 d^2 + sigma^2)."""
    net = Preconditioned(
        SHAPE, schedule={"name": "linear"}, precondition="edm", sigma_data=0.5, network={**SMALL, "family": "song"}
    )
    for value in net.parameters():
        value.data.zero_()
    rows, t = torch.randn(4, 192), torch.tensor([3.0, 100.0, 500.0, 900.0])
    alpha, sigma = net.schedule.alpha(t).unsqueeze(1), net.schedule.sigma(t).unsqueeze(1)
    torch.testing.assert_close(net(rows, t), sigma * rows / (0.25 * alpha**2 + sigma**2), rtol=1e-4, atol=1e-5)


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("format", ["edm", "ddpm-torch", "improved-diffusion"])
def test_a_pickle_with_code_is_not_executed(tmp_path, format, capsys):
    file = tmp_path / "evil.pt"
    file.write_bytes(pickle.dumps({"ema": Malicious()}))
    with pytest.raises(UserError, match="not read|never run"):
        convert(file, format, size=0 if format == "edm" else 8)
    assert "executed" not in capsys.readouterr().out


def test_the_pickle_reader_allows_numbers_of_numpy(tmp_path):
    from targets.diffusion.conversion.pickles import read_modules

    (tmp_path / "n.pkl").write_bytes(pickle.dumps({"a": np.float64(0.5)}))
    assert float(read_modules(tmp_path / "n.pkl")["a"]) == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("in_conv.weight"), "no tensor in_conv.weight"),
        (lambda state: state.pop("middle.1.norm.bias"), "no middle.1.norm.bias"),
        (lambda state: state.update({"more.weight": torch.zeros(1)}), "does not know: more.weight"),
        (lambda state: state.update({"out_conv.2.bias": torch.zeros(5)}), "does not fit"),
    ],
)
def test_states_that_do_not_fit(tmp_path, change, message):
    state = ddpm_torch_state(ImageUNet(SHAPE, family="ddpm", **SMALL).state_dict())
    change(state)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "odd.pt", "ddpm-torch", out=tmp_path, size=8)


@pytest.mark.parametrize(
    ("family", "state_of", "read"),
    [
        ("ddpm", ddpm_torch_state, ddpm_torch.convert),
        ("improved", lambda state: improved_diffusion_state(state, 4), improved_diffusion.convert),
    ],
)
def test_whichever_tensor_is_missing_the_error_says_so(family, state_of, read):
    complete = state_of(ImageUNet(SHAPE, family=family, **SMALL).state_dict())
    read(complete, 8)
    for name in complete:
        with pytest.raises(UserError):
            read({key: value for key, value in complete.items() if key != name}, 8)
    with pytest.raises(UserError):
        read({next(iter(complete)): torch.zeros(32, 3, 3, 3), "in_conv.weight": torch.zeros(32, 3, 3, 3)}, 8)


@pytest.mark.parametrize("format", ["edm", "ddpm-torch", "improved-diffusion"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02", bytes(range(256))])
def test_a_file_that_is_something_else(tmp_path, format, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match="cannot be (read|loaded)"):
        convert(tmp_path / "a.pt", format, size=0 if format == "edm" else 8)


@pytest.mark.parametrize("setting", ["heads", "heads=four", "=", "eps=1e"])
def test_settings_that_are_no_numbers(tmp_path, setting, capsys):
    given = ["teacher", "convert", str(tmp_path), "--format", "ddpm-torch", "--size", "8", "--set", setting]
    assert main(given) == 2 and f"--set {setting}" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["digits", "--size", "8"], ["--format", "edm"], ["toy", "--set", "heads=4"]])
def test_options_of_convert_are_refused_elsewhere(given, capsys):
    assert main(["teacher", *given]) == 2 and "belongs to `sivibench teacher convert`" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["ddpm-torch", "improved-diffusion"])
@pytest.mark.parametrize("setting", ["size=3", "foo=1", "width=64", "state=1", "name=2"])
def test_settings_that_a_format_does_not_have(tmp_path, format, setting, capsys):
    torch.save(ddpm_torch_state(ImageUNet(SHAPE, family="ddpm", **SMALL).state_dict()), tmp_path / "a.pt")
    given = ["teacher", "convert", str(tmp_path / "a.pt"), "--format", format, "--size", "8", "--set", setting]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert f"--set {setting}: the format {format} has no such setting" in error and "choose from: eps" in error


@pytest.mark.parametrize("more", [{"size": 32}, {"settings": {"heads": 4}}])
def test_settings_that_would_be_ignored_are_refused(tmp_path, more):
    (tmp_path / "n.pkl").write_bytes(b"not reached")
    with pytest.raises(UserError, match="files tell everything"):
        convert(tmp_path / "n.pkl", "edm", **more)


def test_what_the_file_does_not_tell_and_what_it_is_not(tmp_path):
    torch.save(ddpm_torch_state(ImageUNet(SHAPE, family="ddpm", **SMALL).state_dict()), tmp_path / "a.pt")
    with pytest.raises(UserError, match="--size"):
        convert(tmp_path / "a.pt", "ddpm-torch")
    with pytest.raises(UserError, match="expected 00"):
        convert(tmp_path / "a.pt", "ddpm-torch", size=8, sha256="00")
    with pytest.raises(UserError, match="improved-diffusion"):
        convert(tmp_path / "a.pt", "improved-diffusion", size=8)
    with pytest.raises(UserError, match="is a file"):
        convert(tmp_path / "a.pt", "diffusers")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (tmp_path / "folder" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="expected a UNet2DModel"):
        convert(tmp_path / "folder", "diffusers")


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path / "cache"))
    net = ImageUNet(SHAPE, family="ddpm", **SMALL)
    torch.save(ddpm_torch_state(net.state_dict()), tmp_path / "a.pt")
    given = ["teacher", "convert", str(tmp_path / "a.pt"), "--format", "ddpm-torch", "--size", "8", "--set", "eps=1e-5"]
    assert main([*given, "--id", "mine", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["teacher"] == "mine"
    card = json.loads((tmp_path / "cache" / "teachers" / f"{found['teacher']}.json").read_text())
    assert card["arguments"]["eps"] == 1e-5 and card["about"]["format"] == "ddpm-torch"
    assert open_teacher(found["teacher"], shape=SHAPE, data="", schedule=None, make="").dim == 192
