"""``sivibench teacher convert``: a file or folder of a known format becomes a published teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from bench.errors import UserError
from targets.diffusion.card import TeacherCard
from targets.diffusion.conversion import ddpm_torch, diffusers_folder, edm, improved_diffusion
from targets.diffusion.conversion.layout import Converted
from targets.diffusion.conversion.pickles import Inert, read_modules, read_state
from targets.diffusion.files import publish
from targets.diffusion.networks import make_network
from targets.fetch import sha256_of

Format = Literal["ddpm-torch", "improved-diffusion", "edm", "diffusers"]
SETTINGS: Mapping[str, tuple[str, ...]] = {"ddpm-torch": ("eps",), "improved-diffusion": ("eps", "heads", "schedule")}
"""Formats whose files do not tell everything, and what can be told beside them: eps of the normalisations, heads of the
attention (4 unless given), the schedule it was trained with ("cosine" unless given)."""

LINEAR: Mapping[str, Any] = {"name": "linear"}
COSINE: Mapping[str, Any] = {"name": "cosine"}


def convert(
    source: Path,
    format: Format,
    *,
    out: Path | None = None,
    data: str = "",
    name: str = "",
    size: int = 0,
    sha256: str = "",
    settings: Mapping[str, Any] | None = None,
) -> tuple[Path, TeacherCard]:
    """Convert and publish; returns the path of the weights and the card beside it.

    Nothing in ``source`` is executed.  The teacher's id is ``name``, or the file's name and the beginning of the sha256
    of its bytes, so that the same file gives the same id anywhere.

    Args:
        source: a file, or a folder with format ``diffusers``.
        format: which code saved it.
        out: folder of the result; the suite's folder of teachers unless given.
        data: registered name of the target it was trained on, for messages.
        name: id of the teacher.
        size: height and width of its images, where the file does not tell (``ddpm-torch``, ``improved-diffusion``).
        sha256: that ``source`` must have, unless empty.
        settings: what a file of these two formats does not tell, see ``SETTINGS``.

    Raises:
        UserError: no such file, another checksum, another format, an unknown setting, or a network that cannot be a
            teacher.
    """
    if format not in get_args(Format):
        raise UserError(f"unknown format {format!r}", f"choose from: {', '.join(get_args(Format))}")
    if not source.exists():
        raise UserError(f"{source} does not exist", "give the path of the downloaded file or folder")
    if source.is_dir() != (format == "diffusers"):
        raise UserError(f"{source} is a {'folder' if source.is_dir() else 'file'}", _EXPECTED[format])
    bytes_of = _weights_file(source) if source.is_dir() else source
    found = sha256_of(bytes_of)
    if sha256 and sha256 != found:
        raise UserError(f"{bytes_of} has sha256 {found}, expected {sha256}", "download it again")
    converted, schedule = _read(source, format, size, settings or {})
    net = make_network(converted.network, converted.shape, converted.arguments)
    own = net.state_dict()
    fixed = {name: value for name, value in own.items() if name.startswith("schedule.")}
    try:
        net.load_state_dict({**fixed, **converted.state})
    except RuntimeError as error:
        raise UserError(f"{source} does not fit the network its tensors name: {error}", _EXPECTED[format]) from error
    card = TeacherCard(
        network=converted.network,
        arguments=converted.arguments,
        shape=converted.shape,
        data=data,
        schedule=schedule,
        objective="as published",
        run=name or f"{source.stem}-{found[:8]}",
        about={"source": source.name, "format": format, "source_sha256": found, **converted.about},
    )
    return publish(net, card, out), card


_EXPECTED = {
    "ddpm-torch": "expected a .pt file of tqch/ddpm-torch",
    "improved-diffusion": "expected a .pt file of openai/improved-diffusion",
    "edm": "expected a .pkl file of NVlabs/edm",
    "diffusers": "expected a folder with config.json and diffusion_pytorch_model.safetensors, or with unet/",
}


def _read(source: Path, format: Format, size: int, settings: Mapping[str, Any]) -> tuple[Converted, Mapping[str, Any]]:
    if format not in SETTINGS and (size or settings):
        given = ", ".join([*(["size"] if size else []), *settings])
        raise UserError(f"{given} with the format {format}", "its files tell everything: leave out --size and --set")
    if format == "diffusers":
        return diffusers_folder.convert(source), diffusers_folder.schedule(source)
    if format == "edm":
        return _edm(source), LINEAR
    if size < 1:
        raise UserError(f"a {format} file does not tell the size of its images", "give --size, for example --size 32")
    for key in sorted(set(settings) - set(SETTINGS[format])):
        known = ", ".join(SETTINGS[format])
        raise UserError(
            f"--set {key}={settings[key]}: the format {format} has no such setting", f"choose from: {known}"
        )
    state = read_state(source)
    if format == "ddpm-torch":
        return ddpm_torch.convert(ddpm_torch.weights(state), size, **settings), LINEAR
    settings = dict(settings)
    schedule = settings.pop("schedule", "cosine")
    if schedule not in ("cosine", "linear"):
        raise UserError(f"--set schedule={schedule}", "that code trains with cosine (the released networks) or linear")
    return improved_diffusion.convert(state, size, **settings), COSINE if schedule == "cosine" else LINEAR


def _edm(source: Path) -> Converted:
    content = read_modules(source)
    net = content.get("ema") if isinstance(content, Mapping) else content
    if not isinstance(net, Inert):
        raise UserError(f"{source} holds no network called 'ema'", _EXPECTED["edm"])
    return edm.convert(net.tensors(), edm.preconditioning(net), LINEAR)


def _weights_file(folder: Path) -> Path:
    root = folder / "unet" if (folder / "unet").is_dir() else folder
    for name in diffusers_folder.WEIGHTS:
        if (root / name).is_file():
            return root / name
    raise UserError(f"{root} holds no weights", f"expected {' or '.join(diffusers_folder.WEIGHTS)}")
