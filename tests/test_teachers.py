"""Teachers that are trained: the bound of VDM, the noise predictor of DDPM on a Gaussian, and teachers as files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from bench.config import compose
from bench.errors import UserError
from bench.fit.loop import fit
from bench.fit.members import initialise
from bench.metrics.base import Fitted
from bench.metrics.bits_per_dim import BitsPerDim
from bench.metrics.nfe import counted_rows
from bench.noise import DirectNoise, generator
from bench.registry import entries, get
from bench.teacher import _parameters, configuration, names, train
from methods.base import Clock, Method
from methods.cosim import CoSIM
from methods.ddpm import DDPM
from methods.diff_instruct import DiffInstruct
from methods.emd import EMD
from methods.hsivi_diffusion import HSIVIDiffusion
from methods.sid import SiD
from methods.vdm import VDM
from targets.diffusion.card import TeacherCard
from targets.diffusion.eps import FrozenTeacher, teacher_of
from targets.diffusion.files import open_teacher, publish
from targets.diffusion.networks import make_network
from targets.diffusion.schedule import linear_schedule, log_snr_schedule, make_schedule
from targets.images.digits import Digits, digits_split
from toy_gaussian import Gaussian

CARD = TeacherCard("film_mlp", {"hidden": 8, "blocks": 1}, (1, 8, 8), "digits", {"name": "linear"}, "", run="abc-s0")


def noise(*parts: object) -> DirectNoise:
    return DirectNoise(generator("teachers", *parts))


class Exact(nn.Module):
    """The exact noise predictor of the Gaussian, in VDM's or any other normalisation of the time."""

    def __init__(self, method: VDM) -> None:
        super().__init__()
        self.target = method.target
        self.low, self.span = (float(v) for v in method.ends())

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        gamma = self.low + self.span * t / 999
        return self.target.noised_eps(z, torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt())


def entropy_gap(method: VDM, n: int = 60_000) -> tuple[float, float]:
    """Mean of bound + log p(x) over exact draws, which is >= 0 in expectation, and its standard error (nats)."""
    target = Gaussian()
    x = target.sample(n, generator("gap"))
    gap = method.nll_bound(x, noise("gap")).detach() + target.log_prob(x) - target.log_z
    return float(gap.mean()), float(gap.std() / math.sqrt(n))


def test_vdm_bounds_the_likelihood_tightly_with_the_exact_predictor():
    """In continuous time only the ends of the schedule are lost; few steps lose more."""
    method = VDM(Gaussian(), ends="fixed", gamma_min=-7.0, gamma_max=7.0, draws=10)
    method.net = Exact(method)
    gap, error = entropy_gap(method, 600_000)
    assert error < 0.02 and -4 * error < gap < 0.02 + 4 * error
    method.timesteps = 50
    coarse, error = entropy_gap(method)
    assert gap + 10 * error < coarse < 2.0


@pytest.mark.parametrize("low, high", [(3.0, 1.0), (3.0, 3.0)])
def test_vdm_needs_ends_in_order(low, high):
    with pytest.raises(UserError, match=rf"method\.gamma_min={low} must be below method\.gamma_max={high}"):
        VDM(Gaussian(), hidden=8, blocks=1, gamma_min=low, gamma_max=high)


def test_vdm_bounds_the_likelihood_with_any_predictor():
    torch.manual_seed(0)
    method = VDM(Gaussian(), hidden=16, blocks=1, draws=10)
    nn.init.normal_(method.net.outputs.weight, std=0.05)
    gap, error = entropy_gap(method)
    assert gap > 10 * error


def test_vdm_bound_does_not_change_with_the_interior_of_the_schedule():
    """In continuous time, for a predictor that is far from the best one; with few steps it does change."""
    torch.manual_seed(1)
    straight = VDM(Gaussian(), hidden=16, blocks=1, draws=10)
    bent = VDM(Gaussian(), hidden=16, blocks=1, draws=10, interior="learned")
    nn.init.normal_(straight.net.outputs.weight, std=0.05)
    bent.net.load_state_dict(straight.net.state_dict())
    with torch.no_grad():
        bent.interior.inner.fill_(3.0)
        bent.interior.outer.fill_(1.0)
    t = torch.linspace(0, 1, 5)
    assert float((bent.gamma(t)[0] - straight.gamma(t)[0]).detach().abs().max()) > 1.0
    x = Gaussian().sample(100_000, generator("interior"))

    def bounds(steps: int) -> tuple[float, float]:
        for method in (straight, bent):
            method.timesteps = steps
        with torch.no_grad():
            a, b = (method.diffusion(x, noise("interior")) for method in (straight, bent))
        return float((a - b).mean()), float((a.var() + b.var()).div(len(x)).sqrt())

    difference, error = bounds(0)
    assert abs(difference) < 4 * error
    difference, error = bounds(4)
    assert abs(difference) > 10 * error


def test_gamma_is_increasing_with_the_derivative_it_gives():
    torch.manual_seed(0)
    method = VDM(Gaussian(), interior="learned", gamma_min=-7.0, gamma_max=4.0, draws=10).double()
    t = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    value, slope = method.gamma(t)
    (expected,) = torch.autograd.grad(value.sum(), t)
    torch.testing.assert_close(slope, expected)
    assert (slope > 0).all()
    assert abs(float(value[0].detach()) + 7) < 1e-6 and abs(float(value[-1].detach()) - 4) < 1e-6


def test_bits_per_dim_are_those_of_the_entropy_for_the_exact_predictor():
    method = VDM(Gaussian(), ends="fixed", gamma_min=-7.0, gamma_max=7.0, draws=10)
    assert BitsPerDim().applies(DDPM(Gaussian(), hidden=8, blocks=1, draws=10), Gaussian()) is not None
    assert BitsPerDim().applies(method, Gaussian()) is None
    method.net = Exact(method)
    target = Gaussian()
    found = BitsPerDim(repeats=20, n=20_000)(Fitted(method, target, 0))
    entropy = (1 + math.log(2 * math.pi) + 0.5 * math.log(1 - 0.6**2)) / (2 * math.log(2))
    assert found.error is not None and found.error < 0.02
    assert abs(found.value - entropy) < 0.01 + 4 * found.error


def test_levels_of_pixels_are_a_distribution():
    """The likelihood of a pixel's levels sums to 1, and a clean enough z_0 gives the level away."""
    method = VDM(Digits(teacher="none"), hidden=8, blocks=1, gamma_min=-12.0)
    x = method.target.train_images()[:50]
    assert float(method.reconstruction(x, noise("levels")).detach().mean()) < 0.01
    wide = VDM(Digits(teacher="none"), hidden=8, blocks=1, gamma_min=8.0, gamma_max=9.0)
    uniform = 64 * math.log(17)
    assert abs(float(wide.reconstruction(x, noise("levels")).detach().mean()) - uniform) < 0.05 * uniform


def test_a_pixel_has_the_normal_likelihood_normalised_over_its_levels():
    method = VDM(Digits(teacher="none"), hidden=8, blocks=1, gamma_min=-3.0)
    level = method.target.pixels[:50].long()  # 0 .. 16 at -1, -7/8, .., 1: about half of an sd apart
    values, sd = torch.arange(17) / 8 - 1, math.exp(-1.5)
    seen = level / 8 - 1 + sd * noise("levels").normal(50, 64)
    log_p = Normal(values, sd).log_prob(seen.unsqueeze(-1))
    expected = (log_p.logsumexp(-1) - log_p.gather(-1, level.unsqueeze(-1)).squeeze(-1)).sum(-1)
    found = method.reconstruction(method.target.train_images()[:50], noise("levels")).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("weight", ["simple", "min_snr"])
def test_ddpm_approaches_the_exact_predictor(weight):
    """On Gaussian data the predictor is linear in x: error in eps against the closed form, over all noise levels."""
    target = Gaussian()
    build = {"hidden": 32, "blocks": 1, "batch": 128, "lr": 5e-3, "ema": 0.97, "draws": 50_000, "weight": weight}
    method = initialise(lambda: DDPM(target, **build), [0])
    run = fit(method, [0], 300)
    fitted = run.member(0, method[0]).teacher()
    exact = teacher_of(target)
    x0 = target.sample(4000, generator("check"))
    t = torch.arange(4000.0) % 1000
    alpha, sigma = (f(t).unsqueeze(-1) for f in (exact.schedule.alpha, exact.schedule.sigma))
    x = alpha * x0 + sigma * noise("check").normal(4000, 2)
    with torch.no_grad():
        error = (fitted.eps(x, t) - exact.eps(x, t)).square().mean(-1)
        scale = exact.eps(x, t).square().mean()
    # L_simple of the best predictor is about .25, of the untrained one 1
    assert float(error.mean()) < 0.06 * float(scale), (float(error.mean()), float(scale))


def test_networks_broadcast_their_time():
    torch.manual_seed(0)
    net = make_network("film_mlp", (3,), {"hidden": 16, "blocks": 2})
    nn.init.normal_(net.outputs.weight)
    x, t = torch.randn(2, 5, 3), torch.tensor([[10.0], [500.0]])
    torch.testing.assert_close(net(x, t), net(x, t.expand(2, 5)))
    teacher = FrozenTeacher(net, linear_schedule(), 3)
    torch.testing.assert_close(teacher.eps(x[1], 500), net(x, t)[1])
    assert not any(p.requires_grad for p in teacher.parameters())


def test_unet_predicts_for_rows():
    pytest.importorskip("diffusers")
    net = make_network("unet", (1, 8, 8), {"channels": [8, 16], "layers": 1, "attention": [1], "groups": 4})
    x = torch.randn(3, 64)
    out = net(x, torch.tensor([0.0, 500.0, 999.0]))
    assert out.shape == x.shape
    torch.testing.assert_close(out[1:2], net(x[1:2], torch.tensor(500.0)), rtol=1e-4, atol=1e-5)


def test_unets_that_cannot_be_built():
    pytest.importorskip("diffusers")
    with pytest.raises(UserError, match="6 channels in 4 groups"):
        make_network("unet", (1, 8, 8), {"channels": [8, 6], "groups": 4})
    with pytest.raises(UserError, match="in 5 levels"):
        make_network("unet", (1, 8, 8), {"channels": [8] * 5, "groups": 4})
    with pytest.raises(UserError, match="attention at level 2 of 2"):
        make_network("unet", (1, 8, 8), {"channels": [8, 8], "groups": 4, "attention": [1, 2]})


def test_log_snr_schedule_is_linear_in_gamma():
    schedule = log_snr_schedule(-8.0, 7.0, steps=500)
    gammas = [-2 * schedule.half_log_snr(t) for t in (0, 100, 499)]
    assert gammas == pytest.approx([-8.0, -8.0 + 15 * 100 / 499, 7.0], abs=1e-6)


# --- students that start as copies ------------------------------------------------------------------------------------


class Learned(Gaussian):
    """The Gaussian with an (untrained) network for a teacher."""

    def teacher(self, schedule=None):
        torch.manual_seed(3)
        net = make_network("film_mlp", (2,), {"hidden": 8, "blocks": 1})
        nn.init.normal_(net.outputs.weight, std=0.3)
        return FrozenTeacher(net, linear_schedule(), 2)


@pytest.mark.parametrize("network", ["teacher", "teacher_per_layer"])
def test_copies_start_at_the_teacher_and_train(network):
    options = {
        "nfe": 3,
        "eta": (1.0,),
        "trajectories": 16,
        "frozen": 1,
        "critic_steps": 1,
        "critic_first": 0,
        "warm_up": 1,
    }
    copies = HSIVIDiffusion(Learned(), network=network, **options)
    residual = HSIVIDiffusion(Learned(), hidden=(4,), critic=(4,), **options)
    drawn = copies.sample(50, noise("copies")).detach()
    torch.testing.assert_close(drawn, residual.sample(50, noise("copies")).detach(), rtol=1e-4, atol=1e-5)
    x = noise("landing").normal(2, 7, 2)
    assert float(copies.critics(x, copies.teachers(x)).detach().abs().max()) < 1e-5
    with counted_rows(copies.networks()) as found:
        copies.sample(10, noise("count"))
    assert found.rows == 30
    members = initialise(lambda: HSIVIDiffusion(Learned(), network=network, lr=1e-2, **options), [0, 1])
    run = fit(members, [0, 1], 5)
    trained = run.member(1, members[1])
    assert not torch.allclose(trained.sample(50, noise("copies")).detach(), drawn)
    x = torch.randn(4, 2)
    assert torch.equal(trained.teacher.eps(x, 10), Learned().teacher().eps(x, 10)), "the teacher itself must not move"


@pytest.mark.parametrize("method", [CoSIM, EMD, DiffInstruct, SiD])
def test_one_layer_methods_start_as_copies_too(method):
    options = {"nfe": 2, "batch": 16}
    copied, residual = method(Learned(), network="teacher", **options), method(Learned(), hidden=(4,), **options)
    drawn, expected = (m.sample(50, noise("one layer")).detach() for m in (copied, residual))
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)
    with counted_rows(copied.networks()) as found:
        copied.sample(10, noise("count"))
    assert found.rows == 20
    # the critic equals the teacher at first, so the student has nothing to follow before the critic has moved
    for player in copied.players():
        owned = [p for n, p in copied.named_parameters() if n.startswith(player.owns) and p.requires_grad]
        gradients = torch.autograd.grad(player.loss(noise("step"), Clock(torch.zeros(()), 1)), owned, allow_unused=True)
        found = torch.cat([g.flatten() for g in gradients if g is not None])
        assert torch.isfinite(found).all() and (player.name == "student" or bool(found.abs().max() > 0))


def test_what_copies_of_a_teacher_cannot_do():
    with pytest.raises(UserError, match="no network"):
        HSIVIDiffusion(Gaussian(), network="teacher")
    with pytest.raises(UserError, match="residual networks"):
        HSIVIDiffusion(Learned(), network="teacher", layer="dpmpp", history="teacher")


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIVIBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("SIVIBENCH_DATA", raising=False)
    return tmp_path


def published(card: TeacherCard = CARD) -> Path:
    return publish(make_network(card.network, card.shape, card.arguments), card)


def test_a_published_teacher_is_the_same_network(cache):
    torch.manual_seed(0)
    net = make_network(CARD.network, CARD.shape, CARD.arguments)
    nn.init.normal_(net.outputs.weight)
    publish(net, CARD)
    teacher = Digits(teacher="abc-s0").teacher(make_schedule("linear"))
    x = torch.randn(4, 64)
    assert torch.equal(teacher.eps(x, 30), net(x, torch.tensor(30.0)))
    assert teacher.label.startswith("abc-s0 sha256 ")


def test_a_missing_teacher_names_the_command_and_the_places(cache):
    with pytest.raises(UserError) as caught:
        Digits(teacher="nobody-s0").teacher()
    assert "sivibench teacher digits" in str(caught.value)
    assert str(cache / "teachers" / "nobody-s0.safetensors") in str(caught.value)


def test_a_teacher_of_other_images_is_refused_with_both_shapes(cache):
    published(replace(CARD, shape=(1, 4, 4), data="stamps"))
    with pytest.raises(UserError, match=r"\[1, 4, 4\] \(stamps\).*\[1, 8, 8\]"):
        Digits(teacher="abc-s0").teacher()


def test_damaged_weights_are_refused_with_both_checksums(cache):
    path = published()
    expected = json.loads(path.with_suffix(".json").read_text())["sha256"]
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match=f"expected {expected}"):
        Digits(teacher="abc-s0").teacher()


def test_another_schedule_is_refused(cache):
    published(replace(CARD, schedule={"name": "cosine"}))
    with pytest.raises(UserError, match="schedule"):
        teacher_of(Digits(teacher="abc-s0"), "linear")
    assert teacher_of(Digits(teacher="abc-s0"), "own").schedule.same_as(make_schedule("cosine"))


def test_weights_of_another_network_are_refused(cache):
    path = published()
    card = json.loads(path.with_suffix(".json").read_text()) | {"arguments": {"hidden": 16, "blocks": 1}}
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="size mismatch"):
        open_teacher(str(path), shape=(1, 8, 8), data="digits", schedule=None, make="sivibench teacher digits")


@pytest.mark.parametrize("name", ["checkerboard", "moons"])
def test_sets_take_a_trained_teacher_in_place_of_the_exact_one(cache, name):
    card = replace(CARD, shape=(2,), data=name, run="toy-s0")
    net = make_network(card.network, card.shape, card.arguments)
    nn.init.normal_(net.outputs.weight)
    publish(net, card)
    cls = get("target", name).obj
    x = torch.randn(5, 2)
    torch.testing.assert_close(teacher_of(cls(teacher="toy-s0")).eps(x, 100), net(x, torch.tensor(100.0)))
    assert teacher_of(cls()).label == "exact"
    for options in ([], ["target.teacher=toy-s0"]):
        assert ("teacher" in compose([f"target={name}", *options]).identity["target"]) == bool(options)


def test_a_card_that_is_none_is_refused(cache):
    path = published()
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(UserError, match="does not describe a teacher"):
        Digits(teacher="abc-s0").teacher()


def test_training_publishes_and_training_again_does_nothing(cache, tmp_path):
    overrides = ["method.hidden=8", "method.blocks=1", "method.steps=3", "train.iterations=5", "eval.metrics=[nfe]"]
    config = replace(configuration("digits", overrides), results=str(tmp_path / "results"))
    told: list[str] = []
    (path,) = train(config, told.append)
    weights = path.read_bytes()
    assert Digits(teacher=path.stem).teacher().eps(torch.zeros(1, 64), 3).shape == (1, 64)
    assert train(config, told.append) == [path] and path.read_bytes() == weights
    # weights lost, parameters not kept: fitted again beside the record, to the same bits
    path.unlink()
    for kept in (tmp_path / "results" / "artifacts" / "parameters").glob("*"):
        kept.unlink()
    train(config, told.append)
    assert path.read_bytes() == weights and any("the same bits as" in line for line in told)
    # the record is another machine's: the figures published are those of the weights published
    card = json.loads(path.with_suffix(".json").read_text())
    (kept,) = (tmp_path / "results" / "runs").rglob(f"{path.stem}.json")
    record = json.loads(kept.read_text())
    assert card["about"]["metrics"] == {"nfe": record["metrics"]["nfe"]["value"]}
    record["parameters_sha256"], record["metrics"]["nfe"]["value"] = "0" * 64, -1.0
    kept.write_text(json.dumps(record))
    for lost in (False, True):
        if lost:
            path.unlink()
        told.clear()
        train(config, told.append)
        assert path.read_bytes() == weights and any("other bits than" in line for line in told)
    assert json.loads(path.with_suffix(".json").read_text()) == card


def test_training_again_is_compiled_if_the_record_was(cache, tmp_path, monkeypatch):
    class Asked(Exception):
        pass

    def execute(config, progress):
        raise Asked(config.compile, config.threads, config.seeds)

    monkeypatch.setattr("bench.teacher.execute", execute)
    config = replace(configuration("digits"), results=str(tmp_path), compile=False)
    record = {"run_id": "abc-s3", "seed": 3, "parameters_sha256": "0" * 64, "env": {"compile": True, "threads": 1}}
    with pytest.raises(Asked) as asked:
        _parameters(config, record, lambda line: None)
    assert asked.value.args == (True, 1, [3])


@pytest.mark.parametrize("name", names())
def test_configured_teachers_compose(name):
    method = entries("method")[configuration(name).method["name"]].obj
    assert method.published is not Method.published


def test_the_default_teacher_is_the_configured_one():
    config = configuration("digits")
    assert Digits.default_teacher == config.run_id(config.seeds[0])


def test_digits_split_is_stratified_and_disjoint():
    split = digits_split()
    assert [len(split[part][0]) for part in ("train", "test")] == [1297, 500]
    shares = [torch.bincount(split[part][1]).double() / len(split[part][1]) for part in ("train", "test")]
    assert float((shares[0] - shares[1]).abs().max()) < 2e-3
    assert int(split["train"][0].max()) == 16


def test_many_pixels_are_evaluated_in_slices(monkeypatch):
    sizes = []

    class Net(torch.nn.Module):
        def forward(self, x, t):
            sizes.append(len(x))
            return x * t.unsqueeze(-1)

    teacher = FrozenTeacher(Net(), make_schedule("linear"), 4)
    x = torch.randn(10, 4)
    t = torch.arange(10.0)
    whole = teacher(x, t)
    monkeypatch.setattr("targets.diffusion.eps.MOST_VALUES", 12)
    assert torch.equal(teacher(x, t), whole)  # where gradients are wanted it stays whole
    with torch.no_grad():
        assert torch.equal(teacher(x, t), whole)
        assert torch.equal(teacher(x, 3), 3 * x)
    assert sizes == [10, 10, *[3, 3, 3, 1] * 2]


def test_many_rows_at_one_time_are_evaluated(monkeypatch):
    """A network that takes the time of all rows as one number, [1], need not be evaluated in slices."""

    class Net(torch.nn.Module):
        broadcasts_time = True

        def forward(self, x, t):
            return x * t.unsqueeze(-1)

    monkeypatch.setattr("targets.diffusion.eps.MOST_VALUES", 12)
    teacher, x = FrozenTeacher(Net(), make_schedule("linear"), 4), torch.randn(10, 4)
    with torch.no_grad():
        assert torch.equal(teacher(x, torch.tensor([3.0])), 3 * x)
        assert torch.equal(teacher(x, torch.arange(10.0)), x * torch.arange(10.0)[:, None])
