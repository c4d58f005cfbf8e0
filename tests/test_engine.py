"""The engine: batching over seeds, frozen members, checkpoints, op counts.  Parametrised over the registry."""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch.fx import GraphModule

from bench.errors import UserError
from bench.fit.checkpoint import Checkpoint
from bench.fit.compiled import in_place, trace
from bench.fit.loop import fit, save
from bench.fit.members import initialise
from bench.fit.program import Program
from bench.fit.progress import Progress
from bench.fit.stopwatch import Stopwatch
from bench.fit.tape import Tape
from bench.noise import DirectNoise, generator
from bench.registry import entries, get
from methods.base import Clock, Method, Noise, Player
from methods.parts.optim import SGD, Adam, RMSprop
from targets.base import Target
from toy_gaussian import COVARIANCE, MEAN, Gaussian
from toy_images import ToyImages

METHODS = sorted(name for name, entry in entries("method").items() if getattr(entry.obj, "trained", True))


def small(name: str) -> dict:
    """Arguments that make a method's batches small, whatever it calls them."""
    entry = entries("method")[name]
    batches = {k: min(32, p.default) for k, p in entry.parameters.items() if k in ("batch", "outer", "auxiliary")}
    return {**batches, **entry.obj.cheap}


def make(name: str, seeds: list[int]) -> list[Method]:
    method = entries("method")[name].obj
    target = ToyImages() if "images" in method.needs else Gaussian()
    return initialise(lambda: method(target, **small(name)), seeds)


# Tracing is most of the cost: what needs several traces is in the fast suite only for methods whose state is of a kind
# of its own (two players, carried buffers, updates without a gradient), and in the slow one for all.
UNLIKE = {"meanfield", "ksivi", "sivism", "uivi", "pvi", "bam"}
SEEDS = [pytest.param(name, 15, marks=pytest.mark.slow) for name in METHODS] + [(name, 2) for name in sorted(UNLIKE)]


@pytest.mark.parametrize("name, others", SEEDS)
def test_seed_alone_equals_seed_beside_others(name, others):
    """Over 200 steps beside 15 others in the slow suite, over 60 beside two in the fast one."""
    steps = 200 if others == 15 else 60
    seeds = list(range(others + 1)) if others == 15 else [0, 3, 5]
    alone = fit(make(name, [3]), [3], steps)
    beside = fit(make(name, seeds), seeds, steps)
    row = seeds.index(3)
    for key, value in alone.state.items():
        if key.startswith("theta/"):
            torch.testing.assert_close(value[0], beside.state[key][row], rtol=1e-4, atol=1e-5)
            assert not torch.equal(beside.state[key][row], beside.state[key][row + 1])


@pytest.mark.parametrize("name", METHODS)
def test_one_graph_for_any_number_of_seeds_that_equals_the_plain_iteration(name):
    """The same operations for 1 and 32 seeds, none that waits for the device; its values are those of plain code."""
    single, members, program, tape = _traced(name, [0])
    assert _operations(single) == _operations(_traced(name, list(range(32)))[0])
    assert not {"_local_scalar_dense", "nonzero", "item"} & set(_operations(single))
    states = [program.initial_state(members) for _ in range(2)]
    plain = in_place(program.iteration, states[1])
    for _ in range(3):
        single(list(states[0].values()), tape.tensors())
        plain(list(states[1].values()), tape.tensors())
    for key in states[0]:
        torch.testing.assert_close(states[0][key], states[1][key], rtol=1e-5, atol=1e-6)


def _traced(name: str, seeds: list[int]) -> tuple[GraphModule, list[Method], Program, Tape]:
    members = make(name, seeds)
    program = Program(members[0], 10)
    tape = Tape(seeds, program.draws_per_iteration, program.device, program.dtype)
    tape.load(0)
    graph = trace(program, program.iteration, program.initial_state(members), tape.tensors())
    return graph, members, program, tape


def _operations(graph: GraphModule) -> Counter[str]:
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    return Counter(getattr(getattr(t, "overloadpacket", t), "__name__", str(t)) for t in targets)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_compiles_as_one_graph(name):
    """``torch.compile(fullgraph=True)`` raises on a graph break."""
    eager = fit(make(name, [0, 1]), [0, 1], 5)
    compiled = fit(make(name, [0, 1]), [0, 1], 5, compile=True)
    for key, value in eager.state.items():
        torch.testing.assert_close(value, compiled.state[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_beats_its_initialisation_on_a_gaussian_with_every_parameter(name):
    def distance(method: Method) -> float:
        with torch.no_grad():
            x = method.sample(4000, DirectNoise(generator("test")))
        mean = (x.mean(0) - MEAN).norm()
        covariance = torch.cov(x.T) - COVARIANCE
        return float(mean + covariance.norm())

    members = make(name, [0])
    start = {n: p.detach().clone() for n, p in members[0].named_parameters() if p.requires_grad}
    before = distance(members[0])
    run = fit(members, [0], 300)
    after = distance(run.member(0, members[0]))
    assert after < 0.5 * before
    moving = tuple(o for player in run.program.players if player.iterations(0, 300) for o in player.owns)
    end = dict(members[0].named_parameters())
    # masked networks keep structural zeros, but no whole parameter may stand still
    still = [n for n, p in start.items() if torch.equal(p, end[n])]
    assert not [n for n in still if any(n == o or n.startswith(o + ".") for o in moving)]


class _Killed(Exception):
    pass


class _Dies(Progress):
    """Stands for a kill: raises in the step after ``last``, whose checkpoint is the last one saved."""

    def __init__(self, last: int) -> None:
        super().__init__(0, show=False)
        self.last = last

    def update(self, step, losses, alive):
        if step > self.last:
            raise _Killed


def _interrupted_after(
    last: int, members: list[Method], seeds: list[int], checkpoint: Checkpoint, iterations: int = 30
) -> None:
    with pytest.raises(_Killed):
        fit(members, seeds, iterations, checkpoint=checkpoint, checkpoint_seconds=0, progress=_Dies(last))


def test_the_rate_of_a_fit_that_goes_on_is_that_of_its_own_steps(tmp_path, capsys):
    checkpoint = Checkpoint(tmp_path, "test", [0])
    _interrupted_after(13, make("meanfield", [0]), [0], checkpoint)
    progress = Progress(30, show=True)
    fit(make("meanfield", [0]), [0], 30, checkpoint=checkpoint, progress=progress)
    assert (progress.bar.initial, progress.bar.n) == (13, 30)

    progress = Progress(100_000, show=True)
    progress.resume(90_000)
    began = progress.bar.start_t
    progress.bar._time = lambda: began + 10.0
    progress.update(90_100, {}, torch.ones(1, dtype=torch.bool))
    assert "[00:10<16:30, 10.00it/s" in capsys.readouterr().err
    progress.close()


# test_kill.py kills whole runs.
STOPS = [
    pytest.param(name, (7, 22) if name == "ksivi" else (13,), marks=() if name in UNLIKE else pytest.mark.slow)
    for name in METHODS
]


@pytest.mark.parametrize("name, stops", STOPS)
def test_continues_bit_identically(name, stops, tmp_path):
    """A fit interrupted at any steps and continued ends with the same bits as an undisturbed one."""
    whole = fit(make(name, [0, 1]), [0, 1], 30)
    checkpoint = Checkpoint(tmp_path, "test", [0, 1])
    for stop in stops:
        _interrupted_after(stop, make(name, [0, 1]), [0, 1], checkpoint)
        assert int(checkpoint.load(torch.device("cpu"))["state"]["step"]) == stop
    continued = fit(make(name, [0, 1]), [0, 1], 30, checkpoint=checkpoint)
    for key, value in whole.state.items():
        assert torch.equal(value, continued.state[key]), key
    assert (continued.loss_steps, continued.losses) == (whole.loss_steps, whole.losses)


class Poisoned(Method):
    """Drives the seeds whose parameter starts above 0.5 to NaN at step 5."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.location = torch.nn.Parameter(torch.rand(()))

    def players(self):
        return [Player("q", ("location",), loss=self.loss)]

    def loss(self, noise: Noise, clock: Clock):
        bad = (clock.step >= 5) & (self.location > 0.5)
        return torch.where(bad, torch.nan, 1.0) * (self.location - noise.normal(3).mean()).square()


def test_a_seed_driven_to_nan_is_frozen_with_its_step_and_the_others_finish():
    seeds = list(range(8))
    members = initialise(lambda: Poisoned(Gaussian()), seeds)
    bad = [s for s, m in zip(seeds, members, strict=True) if float(m.location.detach()) > 0.5]
    assert 0 < len(bad) < 8
    run = fit(members, seeds, 40)
    for row in seeds:
        assert run.diverged_at(row) == (5 if row in bad else None)
        assert torch.isfinite(run.state["theta/location"][row]).all()
    good = next(s for s in seeds if s not in bad)
    alone = fit(initialise(lambda: Poisoned(Gaussian()), [good]), [good], 40)
    torch.testing.assert_close(alone.state["theta/location"][0], run.state["theta/location"][good])


@pytest.mark.parametrize("ours, theirs", [
    (Adam(0.1, (0.9, 0.99)), lambda p: torch.optim.Adam(p, 0.1, (0.9, 0.99))),
    (RMSprop(0.1, 0.9, 1.0), lambda p: torch.optim.RMSprop(p, 0.1, 0.9, 1.0)),
    (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
])  # fmt: skip
def test_optimisers_equal_torch(ours, theirs):
    theta = torch.randn(7, generator=generator("optim"))
    parameter = torch.nn.Parameter(theta.clone())
    optimiser = theirs([parameter])
    slots = {slot: torch.zeros(7) for slot in ours.slots}
    for count in range(1, 6):
        parameter.grad = parameter.detach().sin()
        optimiser.step()
        direction, slots = ours.step(theta.sin(), slots, torch.tensor(float(count)))
        theta = theta - ours.lr * direction
        torch.testing.assert_close(theta, parameter.detach(), rtol=1e-5, atol=1e-6)


def test_clip_and_ema():
    class Quadratic(Method):
        def __init__(self, target):
            super().__init__(target)
            self.x = torch.nn.Parameter(torch.ones(1))

        def players(self):
            return [
                Player(
                    "q", ("x",), loss=lambda n, c: 100 * self.x.square().sum(), optimiser=SGD(0.1), clip=1.0, ema=0.5
                )
            ]

    run = fit([Quadratic(Gaussian()) for _ in range(2)], [0, 1], 1)
    torch.testing.assert_close(run.state["theta/x"], torch.tensor([[0.9], [0.9]]))
    torch.testing.assert_close(run.state["ema/x"], torch.tensor([[0.95], [0.95]]))


def test_unowned_and_doubly_owned_parameters_are_refused():
    class Orphan(Poisoned):
        def __init__(self, target):
            super().__init__(target)
            self.other = torch.nn.Parameter(torch.zeros(()))

    with pytest.raises(ValueError, match="no player owns other"):
        Program(Orphan(Gaussian()), 1)


def test_frozen_state_that_differs_between_seeds_is_refused():
    """Otherwise a seed's numbers would depend on which other seeds are in its group."""

    class RandomFeatures(Poisoned):
        def __init__(self, target):
            super().__init__(target)
            self.register_buffer("features", torch.randn(3))

    members = initialise(lambda: RandomFeatures(Gaussian()), [0, 1])
    with pytest.raises(ValueError, match="'features' differs between seeds.*carried"):
        Program(members[0], 1).initial_state(members)


class Windows(Method):
    """Two players with windows: ``early`` moves in iterations 0..4, ``late`` in 3..7; both climb by 1 a step."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.early = torch.nn.Parameter(torch.zeros(()))
        self.late = torch.nn.Parameter(torch.zeros(()))

    def players(self):
        def loss(parameter):
            return lambda noise, clock: -parameter() * (1 + 0 * noise.normal(2).sum())

        def halved(clock):
            return torch.where(clock.step < 2, 1.0, 0.5)

        return [
            Player("early", ("early",), loss=loss(lambda: self.early), optimiser=SGD(1.0), until=5),
            Player(
                "late", ("late",), loss=loss(lambda: self.late), optimiser=SGD(1.0), schedule=halved, start=3, until=8
            ),
        ]


def test_players_move_in_their_windows_and_schedules_count_from_the_start(tmp_path):
    run = fit([Windows(Gaussian())], [0], 10)
    assert float(run.state["theta/early"]) == 5
    assert float(run.state["theta/late"]) == 2 + 3 * 0.5
    resting = [step for step, (loss,) in zip(run.loss_steps, run.losses["late"], strict=True) if loss != loss]
    assert resting == [1, 2, 3, 9, 10]
    checkpoint = Checkpoint(tmp_path, "test", [0])
    _interrupted_after(4, [Windows(Gaussian())], [0], checkpoint, iterations=10)
    continued = fit([Windows(Gaussian())], [0], 10, checkpoint=checkpoint)
    assert torch.equal(continued.state["theta/late"], run.state["theta/late"])


def test_a_resting_player_does_not_count_as_evaluating_the_target():
    class Resting(Poisoned):
        def players(self):
            score = lambda noise, clock: self.target.score(noise.normal(4, 2)).sum() * self.location  # noqa: E731
            return [Player("q", ("location",), loss=score, until=10)]

    program = Program(Resting(Gaussian()), 100)
    assert (program.target_evaluations(5), program.target_evaluations(100)) == (20, 40)


def test_time_spent_on_the_curve_is_no_time_of_the_fit():
    members = initialise(lambda: get("method", "meanfield").obj(Gaussian(), batch=5), [0])

    def hook(step, run):
        time.sleep(2.0)
        return {}

    run = fit(members, [0], 4, curve_steps=[2, 4], curve_hook=hook)
    # four iterations take milliseconds
    assert run.curve_seconds >= 4.0 > run.seconds > 0 and 4.0 > run.cpu_seconds > 0


def test_a_checkpoint_of_earlier_code_goes_on(tmp_path):
    checkpoint = Checkpoint(tmp_path, "early", [0])

    def go(iterations):
        members = initialise(lambda: get("method", "meanfield").obj(Gaussian(), batch=5), [0])
        return fit(members, [0], iterations, checkpoint=checkpoint, checkpoint_seconds=0.0)

    go(4)
    saved = checkpoint.load(torch.device("cpu"))
    del saved["plain"]["curve_seconds"], saved["plain"]["cpu_seconds"], saved["plain"]["made_with"]
    saved["plain"]["sources"] = ["old"]
    checkpoint.save(saved)
    run = go(6)
    assert run.made_with == [{"source": "old"}, {}]
    assert run.step == 6 and run.curve_seconds == 0
    assert math.isnan(run.cpu_seconds)  # that of two iterations is not that of six


def test_a_fit_of_which_nobody_is_left_ends_at_the_same_step_wherever_it_is_interrupted(tmp_path, monkeypatch):
    """They die at step 5, which is known at the next point of the loss curve, here step 10."""
    monkeypatch.setattr("bench.fit.loop.LOSS_POINTS", 4)

    def go(**how):
        (member,) = initialise(lambda: Poisoned(Gaussian()), [0])
        torch.nn.init.ones_(member.location)
        return fit([member], [0], 40, curve_steps=[7], **how)

    whole = go()
    assert (whole.step, whole.loss_steps, whole.diverged_at(0)) == (10, [10], 5)
    for last in (0, 7, 10):
        checkpoint = Checkpoint(tmp_path, f"test{last}", [0])
        with pytest.raises(_Killed) if last < 10 else nullcontext():
            go(checkpoint=checkpoint, checkpoint_seconds=0, progress=_Dies(last))
        continued = go(checkpoint=checkpoint)
        assert (continued.step, continued.loss_steps, continued.diverged_at(0)) == (10, [10], 5)
        torch.testing.assert_close(continued.losses, whole.losses, rtol=0, atol=0, equal_nan=True)


def test_a_checkpoint_of_other_parameters_is_refused(tmp_path):
    """A method may change without a new id; copying one number would fill three with it."""

    class Wide(Poisoned):
        def __init__(self, target, shape=(3,), dtype=torch.float32, more=False):
            super().__init__(target)
            self.location = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
            if more:
                self.more = torch.nn.Parameter(torch.zeros(()))

        def players(self):
            return [Player(name, (name,), loss=lambda n, c: self.location.sum()) for name, _ in self.named_parameters()]

    checkpoint = Checkpoint(tmp_path, "test", [0])
    for old in ({"shape": (1,)}, {"shape": (2,)}, {"dtype": torch.float64}, {"more": True}):
        save(fit([Wide(Gaussian(), **old)], [0], 4), checkpoint)
        with pytest.raises(UserError, match=f"another version\n.*rm {checkpoint.path}"):
            fit([Wide(Gaussian())], [0], 4, checkpoint=checkpoint)
        save(fit([Wide(Gaussian())], [0], 4), checkpoint)
        with pytest.raises(UserError, match="another version"):
            fit([Wide(Gaussian(), **old)], [0], 4, checkpoint=checkpoint)


def test_a_fit_that_is_over_keeps_the_time_of_its_last_iteration(tmp_path, monkeypatch):
    """Saved again by whoever evaluates the rest of its seeds, it must not look newer than the first seed's record."""
    monkeypatch.setattr(time, "strftime", lambda *arguments: "then")
    checkpoint = Checkpoint(tmp_path, "test", [0])
    save(fit(make("meanfield", [0]), [0], 4), checkpoint)
    monkeypatch.setattr(time, "strftime", lambda *arguments: "now")
    save(fit(make("meanfield", [0]), [0], 4, checkpoint=checkpoint), checkpoint)
    assert checkpoint.about()["until"] == "then"


def test_waiting_is_no_time_on_the_processor():
    stopwatch = Stopwatch(before=5.0, cpu_before=3.0)
    time.sleep(0.2)
    assert 5.2 <= stopwatch.seconds and 3.0 <= stopwatch.cpu_seconds < 3.2
    with stopwatch.apart() as block:
        while time.process_time() < block._started[1] + 0.2:
            pass
    assert 0.2 <= block.cpu_seconds <= block.seconds and stopwatch.cpu_seconds < 3.2


@pytest.mark.parametrize("compile", [False, True])
def test_steps_of_a_large_method_are_those_of_one_program(compile, monkeypatch):
    """One graph per player, called as often as it moves, gives what all steps unrolled into one graph give."""

    method = get("method", "sivism").obj

    def state(large):
        monkeypatch.setattr(method, "large", large)
        members = initialise(lambda: method(Gaussian(), batch=16, hidden=(8,), critic=(8,), critic_steps=3), [0, 1])
        return fit(members, [0, 1], 7, compile=compile).state

    unrolled, stepwise = state(False), state(True)
    for name, value in unrolled.items():
        torch.testing.assert_close(stepwise[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("command", ["", "no-such-compiler -O2"])
def test_compiling_without_a_compiler_says_what_to_install(command, monkeypatch):
    monkeypatch.setenv("CXX", command)
    with pytest.raises(UserError, match="needs a C"):
        fit(make("meanfield", [0]), [0], 2, compile=True)
