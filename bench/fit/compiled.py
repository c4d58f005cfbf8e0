"""The iteration as something to call: a traced graph, the same graph compiled, or a CUDA graph; one graph per player
for large networks.

The iteration is traced once at the aten level (``make_fx``), whatever the method is written with (library modules,
autograd functions, ``vmap``); the traced graph is run as it is or compiled.  Tracing freezes Python control flow,
which is why a loss may not branch on data or on the step.
"""

from __future__ import annotations

import os
import shlex
import shutil
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from bench.errors import UserError
from bench.fit.program import Program, State
from methods.base import Player

Moving = frozenset[str] | None
"""Names of the players that move; None for all."""

Change = Callable[..., State]
"""From a state and further tensors to the next state."""


def in_place(change: Change, state: State) -> Callable[[list[Tensor], list[Tensor]], None]:
    """The change as a function that overwrites the state's tensors (flat argument lists, for tracing)."""
    keys = list(state)

    def overwrite(values: list[Tensor], more: list[Tensor]) -> None:
        before = dict(zip(keys, values, strict=True))
        after = change(before, *more)
        for key in keys:
            if after[key] is not before[key]:
                before[key].copy_(after[key])

    return overwrite


def trace(program: Program, change: Change, state: State, more: list[Tensor]) -> GraphModule:
    """A change of ``program`` as one aten-level graph; the state's values are left as they were."""
    values = [value.clone() for value in state.values()]
    # one for all nodes: otherwise every node makes its own, a third of the time of tracing
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        graph = make_fx(in_place(change, state))(values, more)
    graph.__dict__["program"] = program  # an operation of the graph may call back into the method (methods.native.live)
    return graph


def has_compiler() -> bool:
    """Whether there is the C++ compiler that ``torch.compile`` needs on a CPU."""
    command = shlex.split(os.environ.get("CXX", "g++"))  # an empty $CXX is none for torch, too
    return bool(command) and shutil.which(command[0]) is not None


def build(
    program: Program, state: State, noise: list[Tensor], *, compile: bool, moving: Moving = None
) -> Callable[[], None]:
    """A callable that advances ``state`` (in place) by one iteration with the tape's current block.

    Args:
        moving: the players that move in this part of the run.
        compile: compile the traced iteration; on CUDA the compiled iteration is also captured as a CUDA graph, if the
            method's can be (``Method.capturable``) and it is no method of large networks, whose players have a graph
            each.  Otherwise the traced operations run one by one (no ``vmap`` or autograd machinery per step).

    Raises:
        UserError: ``compile`` on a CPU without a C++ compiler.
    """
    if not program.players:  # a sampler with nothing to fit: tracing would cost more than its run
        return partial(_count, state)
    if compile and program.device.type == "cpu" and not has_compiler():
        raise UserError("compile=true needs a C++ compiler", "apt install g++ (or set CXX), or leave compile=false")
    if program.method.large:
        return _steps(program, state, noise, compile, moving)
    values = list(state.values())
    traced = trace(program, partial(program.iteration, moving=moving), state, noise)
    if not compile:
        return lambda: traced(values, noise)
    compiled = _compile(traced, values, noise)
    if program.device.type == "cuda" and program.method.capturable:
        return _capture(compiled, values, noise)
    return lambda: compiled(values, noise)


def _compile(traced: GraphModule, values: list[Tensor], more: list[Tensor]) -> Callable:
    compiled = torch.compile(traced, fullgraph=True, dynamic=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warning about its own use of torch
        compiled([value.clone() for value in values], more)  # on a copy: compiling is set-up
    return compiled


def _steps(program: Program, state: State, noise: list[Tensor], compile: bool, moving: Moving) -> Callable[[], None]:
    """The iteration with one graph per player, called as often as the player moves.

    Of a large network the graph of all steps would take minutes to trace and gigabytes to hold.
    """
    values = list(state.values())
    graphs: dict[str, Callable] = {}
    plan = []

    def share(drawn: tuple[Tensor, Tensor], parts: tuple[slice, slice]) -> list[Tensor]:
        return [block[:, part].contiguous() for block, part in zip(drawn, parts, strict=True)]

    drawn = program.drawn(state, *noise)
    for player, repeat, parts in program.shares():
        if moving is not None and player.name not in moving:
            continue
        number = torch.tensor(repeat, device=program.device)
        if player.name not in graphs:
            more = [*share(drawn, parts), number]
            traced = trace(program, _change(program, player), state, more)
            graphs[player.name] = _compile(traced, values, more) if compile else traced
        plan.append((graphs[player.name], parts, number))

    def advance() -> None:
        drawn = program.drawn(state, *noise)
        for graph, parts, number in plan:
            graph(values, [*share(drawn, parts), number])
        _count(state)

    return advance


def _change(program: Program, player: Player) -> Change:
    def change(state: State, normals: Tensor, uniforms: Tensor, number: Tensor) -> State:
        return program.move(state, normals, uniforms, player, number)

    return change


def _count(state: State) -> None:
    state["step"].add_(1)


def _capture(compiled: Callable, values: list[Tensor], noise: list[Tensor]) -> Callable[[], None]:
    """Replay of a CUDA graph of the compiled iteration; the state's values are left as they were.

    Raises:
        RuntimeError: the graph does nothing.
    """
    saved = [value.clone() for value in values]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            compiled(values, noise)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compiled(values, noise)
    captured = [value.clone() for value in values]
    graph.replay()  # at the least the step moves, unless kernels went to another device or stream than was captured
    if all(torch.equal(value, old) for value, old in zip(values, captured, strict=True)):
        raise RuntimeError("the iteration has not been captured: its CUDA graph changes nothing")
    for value, old in zip(values, saved, strict=True):
        value.copy_(old)
    return partial(_replay, graph, (compiled, values, noise))


def _replay(graph: torch.cuda.CUDAGraph, kept: object) -> None:
    """Replay; ``kept`` owns the memory that the graph reads, such as the traced iteration's constants."""
    graph.replay()
