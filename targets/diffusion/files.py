"""Teachers as files: ``<id>.safetensors`` with the weights and ``<id>.json`` with what they are.

They lie in the folder ``teachers`` of ``SIVIBENCH_DATA`` or of the cache (``SIVIBENCH_CACHE``).  An id names the run
that trained the teacher (configuration and seed), so runs that use one say which without a path.  Two machines may
train different bits under one id: the weights' sha256 stands in every run record that used them.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path

from torch import nn

from bench.errors import UserError
from bench.files import write_atomic
from bench.places import cache_folder, data_places
from targets.diffusion.card import TeacherCard
from targets.diffusion.eps import EpsTeacher, FrozenTeacher
from targets.diffusion.networks import make_network
from targets.diffusion.schedule import Schedule, schedule_of
from targets.fetch import sha256_of


def teachers_folder() -> Path:
    """Where ``sivibench teacher`` publishes."""
    return cache_folder() / "teachers"


def publish(net: nn.Module, card: TeacherCard, folder: Path | None = None) -> Path:
    """Write weights and card as ``card.run``; returns the path of the weights.

    Raises:
        UserError: full disk, no permission.
    """
    from safetensors.torch import save

    path = (folder or teachers_folder()) / f"{card.run}.safetensors"
    write_atomic(path, save({name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}))
    values = {**asdict(card), "sha256": sha256_of(path)}
    write_atomic(path.with_suffix(".json"), (json.dumps(values, indent=1) + "\n").encode())
    return path


def find_teacher(reference: str, make: str) -> Path:
    """Path of the weights that ``reference`` names: an id, or the path of a .safetensors file.

    Raises:
        UserError: there is none; says where it was looked for and which command makes it.
    """
    if not reference:
        raise UserError("this target has no recorded teacher", f"train one with `{make}` and give target.teacher=<id>")
    if reference.endswith(".safetensors"):
        places = [Path(reference).expanduser()]
    else:
        places = data_places(f"teachers/{reference}.safetensors")
    for path in places:
        if path.is_file():
            return path
    looked = "\n     ".join(f"{path} does not exist" for path in places)
    raise UserError(f"cannot find the teacher {reference}:\n     {looked}", f"make it with `{make}`")


def read_card(weights: Path, make: str) -> TeacherCard:
    """The card beside a teacher's weights, after comparing their checksum.

    Raises:
        UserError: no card, one that cannot be read, or other weights than it describes.
    """
    path = weights.with_suffix(".json")
    try:
        values = json.loads(path.read_text())
        card = TeacherCard(**{f.name: values[f.name] for f in fields(TeacherCard)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not describe a teacher: {type(error).__name__}: {error}", f"make it again with `{make}`"
        ) from error
    if (found := sha256_of(weights)) != card.sha256:
        raise UserError(
            f"{weights} has sha256 {found}, expected {card.sha256} ({path.name})",
            f"delete both and make the teacher again with `{make}`",
        )
    return card


def open_teacher(
    reference: str, *, shape: tuple[int, ...], data: str, schedule: Schedule | None, make: str
) -> EpsTeacher:
    """A published teacher, frozen.

    Args:
        reference: id or path.
        shape: of the arrays it must predict for.
        data: name of the target, for messages.
        schedule: it must have been trained with; None: any.
        make: command that makes it, for messages.

    Raises:
        UserError: no such file, wrong checksum, shape or schedule; says what was expected.
    """
    from safetensors.torch import load_file

    path = find_teacher(reference, make)
    card = read_card(path, make)
    if tuple(card.shape) != tuple(shape):
        raise UserError(
            f"the teacher {path} predicts arrays of shape {list(card.shape)} ({card.data}); "
            f"target {data!r} has {list(shape)}",
            f"give target.teacher one trained on it (`{make}`)",
        )
    own = schedule_of(card.schedule)
    if schedule is not None and not schedule.same_as(own):
        raise UserError(
            f"the teacher {path} was trained with the schedule {dict(card.schedule)}, not with the one asked for",
            "give method.schedule=own",
        )
    net = make_network(card.network, tuple(card.shape), card.arguments)
    try:
        net.load_state_dict(load_file(path))
    except RuntimeError as error:  # names the tensors that do not fit, with both shapes
        what = f"{path} does not fit its network {card.network!r}: {error}"
        raise UserError(what, f"make it again with `{make}`") from error
    teacher = FrozenTeacher(net, own, math.prod(card.shape))
    teacher.label, teacher.card = f"{card.run or path.stem} sha256 {card.sha256}", card
    return teacher
