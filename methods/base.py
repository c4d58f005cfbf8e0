"""What a method is: a variational family and the players that fit it, written for ONE seed.

The engine (``bench.fit``) batches: it stacks the parameters of all seeds and runs every player's loss under
``vmap(grad(...))``.  A loss is therefore ordinary PyTorch on ``self``'s modules, pure (no in-place change of
attributes, no ``.item()``, no branch on data), and takes its randomness from the ``noise`` argument.
``docs/contract.md`` shows how layered, particle, closed-form and generator-and-critic methods fit the same contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.distributions import Distribution

from methods.parts.optim import Adam, Optimiser, Schedule, constant
from targets.base import Noise, Target

if TYPE_CHECKING:
    from methods.parts.reverse import Reverse
    from targets.diffusion.card import TeacherCard


@dataclass(frozen=True)
class Clock:
    """Where the run stands.  ``step`` is a 0-dim float tensor counting from 0; schedules are tensor functions of it."""

    step: Tensor
    total: int

    @property
    def progress(self) -> Tensor:
        """Fraction of the run that is over, in [0, 1)."""
        return self.step / self.total


Loss = Callable[[Noise, Clock], "Tensor | tuple[Tensor, dict[str, Tensor]]"]
Update = Callable[[Noise, Clock], dict[str, Tensor]]


@dataclass(frozen=True)
class Player:
    """One optimiser's share of a method; the engine alternates the players of a method in the order given.

    Attributes:
        name: shows in curves and errors.
        owns: prefixes of ``named_parameters()`` this player changes, for example ``("q",)``.
        loss: scalar to minimise; may also return new values of per-seed state buffers (``Method.carried``).
        update: instead of a loss, the new values of owned parameters or carried buffers (closed-form methods).
        optimiser: turns the gradient into a step.
        schedule: factor on the learning rate as a function of the clock.
        clip: largest gradient norm, per seed.
        ema: decay of the averaged parameters used at evaluation, or None.
        ema_warm_up: the decay of the n-th average is min(ema, (1 + n) / (10 + n)): short runs forget where they began.
        steps: optimiser steps per iteration.
        start: iteration at which the player begins; its optimiser's count and its schedule run from there.
        until: iteration after which the player rests, or None.  A player that rests costs nothing.
    """

    name: str
    owns: tuple[str, ...]
    loss: Loss | None = None
    update: Update | None = None
    optimiser: Optimiser = field(default_factory=Adam)
    schedule: Schedule = constant
    clip: float | None = None
    ema: float | None = None
    ema_warm_up: bool = False
    steps: int = 1
    start: int = 0
    until: int | None = None

    def moves_at(self, step: int) -> bool:
        """Whether the player moves in iteration ``step``, counted from 0."""
        return self.start <= step and (self.until is None or step < self.until)

    def iterations(self, first: int, last: int) -> int:
        """In how many of the iterations first..last-1 the player moves."""
        until = last if self.until is None else min(last, self.until)
        return max(0, until - max(first, self.start))


class Method(nn.Module):
    """A variational family q and how it is fitted to ``target``; subclasses add keyword-only hyper-parameters."""

    registered_name: ClassVar[str] = ""
    """Set by ``bench.registry.register``."""

    version: ClassVar[int] = 1
    """Raised whenever the mathematics changes under the same configuration: it enters the run's identity."""

    paper_name: ClassVar[str] = ""
    """The name that papers print (``results/published.csv``); empty: the registered name in capitals."""

    needs: ClassVar[frozenset[str]] = frozenset({"log_prob"})
    """What the target must provide."""

    large: ClassVar[bool] = False
    """Whether it trains large networks: seeds are then fitted one after another, and the steps of an iteration are
    traced once per player instead of as one program."""

    capturable: bool = True
    """Whether its compiled iteration can be a CUDA graph: False if an operation of it waits for the host."""

    carried: ClassVar[tuple[str, ...]] = ()
    """Names of registered buffers that are per-seed state, changed by what a loss or update returns."""

    trained: ClassVar[bool] = True
    """False for samplers without parameters (solver baselines): ``players`` is empty, nothing is fitted, and
    ``train.iterations`` counts as 1 whatever was asked for."""

    cheap: ClassVar[Mapping[str, Any]] = {}
    """Hyper-parameters of a cheap instance (small batches, few layers, short chains); the contract tests use it."""

    phases: ClassVar[tuple[str, ...]] = ()
    """Arguments counted in iterations of the fit, such as the length of a pre-training; a cut budget cuts them too."""

    added: ClassVar[Mapping[str, Any]] = {}
    """Options added after records were made, with the value that means "as before": at that value they stay out of a
    run's identity, so that the records keep their ids."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target

    def players(self) -> Sequence[Player]:
        """The players, in the order they move."""
        raise NotImplementedError

    def operations(self) -> dict[str, str]:
        """Which implementation each replaceable operation takes here; recorded, but not part of the identity."""
        return {}

    def networks(self) -> Sequence[nn.Module]:
        """Modules each call of which, while ``sample`` runs, is one evaluation of the network per row (NFE).

        Empty where the notion does not apply.  Calls of modules inside them are not counted again.
        """
        return ()

    def sample(self, n: int, noise: Noise) -> Tensor:
        """n draws from q, [n, d]."""
        raise NotImplementedError

    def log_prob(self, x: Tensor) -> Tensor | None:
        """Exact log q(x), [..., d] -> [...]; None for implicit families."""
        return None

    def mixing(self, n: int, noise: Noise) -> Tensor | None:
        """n draws z of the mixing distribution of a semi-implicit q, [n, k]; None for others."""
        return None

    def conditional(self, z: Tensor) -> Distribution:
        """q(x | z) of a semi-implicit q as a distribution with batch shape z.shape[:-1] and event shape [d]."""
        raise NotImplementedError

    def mixing_log_prob(self, z: Tensor) -> Tensor | None:
        """log density of the mixing distribution on R^k, [..., k] -> [...]; None where z has none or it is not known.

        Bounds on log q then take their proposals from ``mixing`` itself, which needs no density but many more draws.
        """
        return None

    def mixture_score(self, x: Tensor, z: Tensor, noise: Noise) -> Tensor | None:
        """The method's own estimate of grad_x log q(x) at x ~ q(x | z), [n, d], [n, k] -> [n, d]; None without one."""
        return None

    def nll_bound(self, x: Tensor, noise: Noise) -> Tensor | None:
        """An unbiased estimate of an upper bound on -log q(x), [n, d] -> [n] (nats); None where there is none."""
        return None

    def published(self) -> tuple[nn.Module, TeacherCard] | None:
        """The noise predictor that this method has trained and what it is; None for methods that train none."""
        return None

    def inverse(self) -> Reverse | None:
        """An untrained reverse model tau(z | x) made for this family; None: the one for any family."""
        return None
