"""Local folders in diffusers' format: a bare UNet2DModel (google/ddpm-cifar10-32) or a pipeline with ``unet/``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import UserError
from targets.diffusion.conversion.layout import Converted
from targets.diffusion.networks.diffusers_unet import unet2d

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "HeunDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
)
"""Those of variance-preserving diffusions in discrete time: what the others call betas is none, or they have none."""


def convert(folder: Path) -> Converted:
    """The network of a folder.

    Raises:
        UserError: a file is missing or is none of a UNet2DModel, or its weights are not all of that network and no
            others; says which is expected.
    """
    root = folder / "unet" if (folder / "unet").is_dir() else folder
    config = _json(root / "config.json", "the network's configuration")
    if config.get("_class_name") != "UNet2DModel":
        raise UserError(f"{root / 'config.json'} describes a {config.get('_class_name')}", "expected a UNet2DModel")
    if not any((root / name).is_file() for name in WEIGHTS):
        raise UserError(f"{root} holds no weights", f"expected {' or '.join(WEIGHTS)}")
    try:
        net, problems = unet2d().from_pretrained(
            root, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{root} cannot be loaded: {str(error).splitlines()[0]}", "get the folder again") from error
    if wrong := [f"{kind.replace('_', ' ')}: {names[0]}" for kind, names in problems.items() if names]:
        # diffusers only warns, and leaves what is missing as it was drawn at random
        raise UserError(f"{root}: weights of another network ({'; '.join(wrong)})", "get the folder again")
    arguments = {key: value for key, value in dict(net.config).items() if not key.startswith("_")}
    if (embedding := arguments["time_embedding_type"]) != "positional":
        raise UserError(f"{root / 'config.json'}: time_embedding_type={embedding}", "only positional ones are known")
    size = arguments["sample_size"]
    if size is None:
        raise UserError(f"{root / 'config.json'} states no sample_size", "write the images' side there")
    height, width = size if isinstance(size, list | tuple) else (size, size)
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    return Converted("diffusers_unet", arguments, (arguments["in_channels"], height, width), state)


def schedule(folder: Path) -> Mapping[str, Any]:
    """The schedule that the folder's scheduler states, as ``schedule_of`` takes it.

    Raises:
        UserError: no scheduler configuration, one of another kind of diffusion, another parametrisation than eps, or
            betas of another kind (what it leaves out has diffusers' defaults).
    """
    inside, root = folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"
    path = inside if inside.is_file() else root
    found = _json(path, "the scheduler's configuration")
    if (scheduler := found.get("_class_name")) not in SCHEDULERS:
        raise UserError(f"{path} describes a {scheduler}", f"known, as their noise levels are: {', '.join(SCHEDULERS)}")
    if found.get("prediction_type", "epsilon") != "epsilon":
        raise UserError(f"{path}: prediction_type={found['prediction_type']}", "only networks that predict eps")
    kind, steps = found.get("beta_schedule", "linear"), int(found.get("num_train_timesteps", 1000))
    if found.get("rescale_betas_zero_snr"):
        raise UserError(
            f"{path}: rescale_betas_zero_snr", "only schedules whose last level keeps some signal are known"
        )
    if kind not in ("linear", "squaredcos_cap_v2") or found.get("trained_betas"):
        raise UserError(f"{path}: beta_schedule={kind}", "known: linear, squaredcos_cap_v2")
    if kind == "squaredcos_cap_v2":
        return {"name": "cosine", "steps": steps}
    return {
        "name": "linear",
        "steps": steps,
        "first": found.get("beta_start", 1e-4),
        "last": found.get("beta_end", 0.02),
    }


def _json(path: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} does not exist: {what} is expected there", "give the whole folder") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}", "get the folder again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not {what}", "get the folder again")
    return content
