"""What is known of a teacher's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TeacherCard:
    """What a teacher's weights are.

    Attributes:
        network, arguments: of ``targets.diffusion.networks.make_network``.
        shape: of the arrays that rows flatten.
        data: registered name of the target it was trained on.
        schedule: of ``targets.diffusion.schedule.schedule_of``.
        objective: what it minimised, in words.
        run: id of the run that trained it.
        sha256: of the weights' file.
    """

    network: str
    arguments: Mapping[str, Any]
    shape: tuple[int, ...]
    data: str
    schedule: Mapping[str, Any]
    objective: str
    run: str = ""
    sha256: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Anything else worth keeping: figures, provenance."""
