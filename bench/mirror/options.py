"""The ``wandb`` settings alone, for commands that compose no run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from bench.config.overrides import CONF
from bench.config.schema import AT_LEAST, CHOICES, Wandb
from bench.errors import UserError

PREFIX = "wandb."


def wandb_settings(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The defaults of ``conf/config.yaml`` with overrides of the form ``wandb.<key>=<value>`` on top.

    Raises:
        UserError: an override of something else, an unknown key, a wrong value.
    """
    for text in overrides:
        if not text.startswith(PREFIX) or "=" not in text:
            raise UserError(f"{text!r} says nothing about W&B", "give wandb.project=..., wandb.mode=offline, ...")
    try:
        given = OmegaConf.from_dotlist([text.removeprefix(PREFIX) for text in overrides])
        merged = OmegaConf.merge(OmegaConf.structured(Wandb), OmegaConf.load(CONF / "config.yaml").wandb, given)
        found = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        keys = ", ".join(Wandb.__dataclass_fields__)
        raise UserError(str(error).splitlines()[0], f"keys of wandb: {keys}") from error
    assert isinstance(found, dict)
    if found["mode"] not in CHOICES["wandb.mode"]:
        raise UserError(
            f"wandb.mode={found['mode']} is not a choice", f"choose from: {', '.join(CHOICES['wandb.mode'])}"
        )
    if found["wait"] < AT_LEAST["wandb.wait"]:
        raise UserError(f"wandb.wait={found['wait']} is too small", f"give at least {AT_LEAST['wandb.wait']:g}")
    return {str(key): value for key, value in found.items()}
