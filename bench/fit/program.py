"""One iteration of all players, for all seeds, as a pure function of a dict of tensors.

State keys (S seeds, P parameters of a group):
    theta/<group> [S, P]      parameters            ema/<group> [S, P]     their average, where a player asks for it
    opt/<player>/<slot> [S, P] optimiser state      buf/<name> [S, ...]    per-seed buffers (``Method.carried``)
    loss/<player> [S]         sum since last read   step []                iterations done
    alive [S] bool, died [S]  frozen members and the step of their first non-finite loss or gradient
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from bench.errors import UserError
from bench.fit.counting import counted
from bench.fit.layout import group_name, layouts, load
from bench.fit.parallel import ALONE, Processes
from bench.fit.tape import Draws, Probe, Replay
from methods.base import Clock, Method, Player

State = dict[str, Tensor]


def member_values(state: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    """One seed's parameters, averages and carried buffers, under the state's keys."""
    return {key: value[row] for key, value in state.items() if key.startswith(("theta/", "buf/", "ema/"))}


class _Caller(nn.Module):
    """Lets ``functional_call`` run any bound method of ``method`` with replaced parameters and buffers."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, function: Callable, *args: object) -> object:
        return function(*args)


class Program:
    """A method's iteration.

    Args:
        method: a template on the run's device and dtype; its own parameter values are not used by the iteration.
        iterations: length of the run (schedules may depend on it).
        processes: that fit together.

    Raises:
        UserError: several processes and a method with other steps than averaged gradients.
    """

    def __init__(self, method: Method, iterations: int, processes: Processes = ALONE) -> None:
        self.method, self.iterations, self.processes = method, iterations, processes
        self.players: Sequence[Player] = list(method.players())
        if processes.size > 1 and (method.carried or any(player.loss is None for player in self.players)):
            raise UserError(
                f"method {method.registered_name!r} does not move by gradients alone, so processes cannot share a fit",
                "leave out train.processes",
            )
        self.layouts = layouts(method, self.players)
        self._caller = _Caller(method)
        parameter = next(method.parameters(), None)
        reference = parameter if parameter is not None else next(method.buffers())
        self.device, self.dtype = reference.device, reference.dtype
        self._evaluations: dict[str, int] = {}
        self.draws = {player.name: self._probe(player) for player in self.players}

    @property
    def draws_per_iteration(self) -> Draws:
        return Draws(
            sum(self.draws[p.name].normals * p.steps for p in self.players),
            sum(self.draws[p.name].uniforms * p.steps for p in self.players),
        )

    def target_evaluations(self, iterations: int) -> int:
        """Score or log-density evaluations of one seed in the first ``iterations``; a resting player's do not count."""
        return sum(self._evaluations[p.name] * p.iterations(0, iterations) for p in self.players)

    def phase(self, step: int) -> frozenset[str]:
        """Names of the players that move in iteration ``step``, counted from 0."""
        return frozenset(p.name for p in self.players if p.moves_at(step))

    @property
    def boundaries(self) -> set[int]:
        """Iterations at which a player begins or comes to rest."""
        return {step for p in self.players for step in (p.start, p.until) if step and step < self.iterations}

    def _probe(self, player: Player) -> Draws:
        """Run the player once to learn what it draws and how often it evaluates the target."""
        move = player.loss or player.update
        assert move is not None, f"player {player.name!r} has neither a loss nor an update"
        noise = Probe(self.device, self.dtype)
        clock = Clock(torch.zeros((), device=self.device, dtype=self.dtype), self.iterations)
        with counted(self.method.target) as count:
            move(noise, clock)
        self._evaluations[player.name] = count.rows * player.steps
        return Draws(noise.normals, noise.uniforms)

    def initial_state(self, members: Sequence[Method]) -> State:
        """State at step 0 from one initialised method per seed.

        Raises:
            ValueError: frozen parameters or buffers differ between seeds without being listed in ``carried``.
        """
        self._refuse_undeclared_state(members)
        seeds = len(members)
        state: State = {}
        for group, layout in self.layouts.items():
            state[f"theta/{group}"] = torch.stack([layout.flatten(dict(m.named_parameters())) for m in members])
        for name in self.method.carried:
            state[f"buf/{name}"] = torch.stack([m.get_buffer(name).detach() for m in members])
        for player in self.players:
            theta = state[f"theta/{group_name(player)}"]
            for slot in player.optimiser.slots if player.loss else ():
                state[f"opt/{player.name}/{slot}"] = torch.zeros_like(theta)
            if player.ema is not None:
                state[f"ema/{group_name(player)}"] = theta.clone()
            state[f"loss/{player.name}"] = theta.new_zeros(seeds)
        state["alive"] = torch.ones(seeds, dtype=torch.bool, device=self.device)
        state["died"] = torch.full((seeds,), -1, dtype=torch.int64, device=self.device)
        state["step"] = torch.zeros((), dtype=torch.int64, device=self.device)
        return {key: value.clone() for key, value in state.items()}

    def _refuse_undeclared_state(self, members: Sequence[Method]) -> None:
        """Only trainable parameters and carried buffers exist per seed: anything else must be the same for all."""
        shared: State = {n: p for n, p in self.method.named_parameters() if not p.requires_grad}
        shared |= {n: b for n, b in self.method.named_buffers() if n not in self.method.carried}
        for name, value in shared.items():
            for member in members[1:]:
                other = member.get_parameter(name) if isinstance(value, nn.Parameter) else member.get_buffer(name)
                if not torch.equal(value, other):
                    raise ValueError(
                        f"{name!r} differs between seeds but is neither trained nor carried: register it as a buffer "
                        f"and list it in {type(self.method).__name__}.carried"
                    )

    def shares(self) -> Iterator[tuple[Player, int, tuple[slice, slice]]]:
        """Every step of every player in turn: its number, and its share of an iteration's normals and uniforms.

        Resting players have theirs too: what a player draws does not depend on who else moves.
        """
        start = (0, 0)
        for player in self.players:
            draws = self.draws[player.name]
            for repeat in range(player.steps):
                end = (start[0] + draws.normals, start[1] + draws.uniforms)
                yield player, repeat, (slice(start[0], end[0]), slice(start[1], end[1]))
                start = end

    @staticmethod
    def drawn(state: State, normals: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """The next iteration's noise, [S, values] each, out of the tape's blocks."""
        if normals.shape[1] == 1:  # of large networks: gigabytes, of which no copy is needed
            return normals[:, 0], uniforms[:, 0]
        row = (state["step"] % normals.shape[1]).view(1)
        return normals.index_select(1, row).squeeze(1), uniforms.index_select(1, row).squeeze(1)

    def iteration(self, state: State, normals: Tensor, uniforms: Tensor, moving: frozenset[str] | None = None) -> State:
        """The players named in ``moving`` (all, if None) move once, or ``steps`` times each.

        Args:
            state: of the fit.
            normals, uniforms: the tape's blocks.
            moving: names of players.
        """
        state = dict(state)
        normals, uniforms = self.drawn(state, normals, uniforms)
        for player, repeat, (own_normals, own_uniforms) in self.shares():
            if moving is None or player.name in moving:
                state = self.move(state, normals[:, own_normals], uniforms[:, own_uniforms], player, repeat)
        state["step"] = state["step"] + 1
        return state

    def _evaluate(self, player: Player, state: State, clock: Clock, normals: Tensor, uniforms: Tensor):
        """(gradient [S, P] or None, loss [S], new values) of a player for all seeds."""
        own = f"theta/{group_name(player)}"
        rest = {k: v for k, v in state.items() if k.startswith(("theta/", "buf/")) and k != own}

        def one_seed(theta: Tensor, rest: State, normals: Tensor, uniforms: Tensor):
            noise = Replay(normals, uniforms)

            def call(theta: Tensor):
                values = self._named(rest | {own: theta})
                function = player.loss or player.update
                result = functional_call(self._caller, values, (function, noise, clock))
                if player.loss is None:
                    return theta.new_zeros(()), result
                return result if isinstance(result, tuple) else (result, {})

            if player.loss is None:
                loss, changed = call(theta)
                return torch.zeros_like(theta), loss, changed
            gradient, (loss, changed) = grad_and_value(call, has_aux=True)(theta)
            return gradient, loss, changed

        return vmap(one_seed)(state[own], rest, normals, uniforms)

    def _named(self, groups: State) -> dict[str, Tensor]:
        values = {}
        for key, flat in groups.items():
            kind, _, name = key.partition("/")
            pieces = self.layouts[name].split(flat) if kind == "theta" else {name: flat}
            values.update({f"method.{n}": v for n, v in pieces.items()})
        return values

    def move(self, state: State, normals: Tensor, uniforms: Tensor, player: Player, repeat: int | Tensor) -> State:
        """The state after one step of one player, number ``repeat`` of its steps; frozen members keep their values."""
        state = dict(state)
        clock = Clock(state["step"].to(self.dtype), self.iterations)
        group = group_name(player)
        gradient, loss, changed = self._evaluate(player, state, clock, normals, uniforms)
        gradient, loss = self.processes.mean(gradient, loss)
        finite = torch.isfinite(loss) & torch.isfinite(gradient).all(dim=1)
        for value in changed.values():  # no loss tells of what is carried, and an update has none at all
            finite = finite & torch.isfinite(value).reshape(len(value), -1).all(dim=1)
        alive = state["alive"] & finite
        state["died"] = torch.where(state["alive"] & ~finite, state["step"], state["died"])
        state["alive"] = alive

        def write(key: str, new: Tensor) -> None:
            mask = alive.view(-1, *[1] * (new.dim() - 1))
            state[key] = torch.where(mask, new, state[key])

        if player.loss is not None:
            if player.clip is not None:
                norm = gradient.norm(dim=1, keepdim=True)
                gradient = gradient * torch.clamp(player.clip / (norm + 1e-6), max=1.0)
            slots = {slot: state[f"opt/{player.name}/{slot}"] for slot in player.optimiser.slots}
            own = Clock(clock.step - player.start, clock.total)
            count = own.step * player.steps + repeat + 1
            direction, slots = player.optimiser.step(gradient, slots, count)
            rate = player.optimiser.lr * player.schedule(own)
            write(f"theta/{group}", state[f"theta/{group}"] - rate * direction)
            for slot, value in slots.items():
                write(f"opt/{player.name}/{slot}", value)
        self._write_changed(group, changed, state, write)
        if player.ema is not None:
            old = state[f"ema/{group}"]
            keep: Tensor | float = player.ema
            if player.ema_warm_up:
                moved = (clock.step - player.start) * player.steps + repeat + 1
                keep = torch.clamp((1 + moved) / (10 + moved), max=player.ema)
            write(f"ema/{group}", old + (1 - keep) * (state[f"theta/{group}"] - old))
        total = state[f"loss/{player.name}"]
        state[f"loss/{player.name}"] = total + torch.where(alive, loss.to(total.dtype), torch.zeros_like(total))
        return state

    def _write_changed(self, group: str, changed: dict[str, Tensor], state: State, write: Callable) -> None:
        """New values that a loss or update returned: carried buffers, or owned parameters of an update."""
        buffers = {name: value for name, value in changed.items() if f"buf/{name}" in state}
        for name, value in buffers.items():
            write(f"buf/{name}", value)
        parameters = {name: value for name, value in changed.items() if name not in buffers}
        if parameters:
            layout = self.layouts[group]
            values = vmap(layout.split)(state[f"theta/{group}"]) | parameters
            write(f"theta/{group}", torch.cat([values[n].flatten(1) for n in layout.shapes], dim=1))

    def load_member(self, state: State, row: int, into: Method) -> Method:
        """Copy one seed's evaluation parameters (EMA where used) and buffers into ``into``."""
        return load(self.layouts, member_values(state, row), into)
