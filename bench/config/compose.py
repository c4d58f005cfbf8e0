"""From overrides to a ``Config``, through Hydra's compose API; no output folder, no state left behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bench import registry
from bench.config.config import Config
from bench.config.explain import explain
from bench.config.overrides import CONF, check_overrides
from bench.config.schema import IDENTITY, Root, schema_of
from bench.config.validate import parse_seeds, validate

_stored: dict[tuple[str, str], registry.Entry] = {}


def register_configs() -> None:
    """Put the schema and the defaults of every registered method and target into Hydra's ConfigStore."""
    store = ConfigStore.instance()
    # Hydra copies its sources, and with them every stored node, for each compose, only to read them: half its time.
    store.__deepcopy__ = lambda memo: store  # type: ignore[attr-defined]
    store.store(name="schema", node=Root, provider="sivibench")
    for kind in ("method", "target"):
        for name, entry in registry.entries(kind).items():
            if _stored.get((kind, name)) is not entry:
                store.store(group=kind, name=name, node=schema_of(entry), provider="sivibench")
                _stored[kind, name] = entry


@contextmanager
def hydra_loader() -> Iterator[ConfigLoader]:
    """Hydra's config loader over ``conf/`` and the registry; Hydra's global state is restored afterwards."""
    register_configs()
    with initialize_config_dir(str(CONF), job_name="sivibench", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose and validate one configuration.

    Args:
        overrides: Hydra overrides, ``method=... target=... train.iterations=...``; no sweeps.

    Raises:
        UserError: unknown choice or key, wrong type, value out of range, malformed override.
    """
    return make_config(compose_values(overrides), overrides)


def compose_values(overrides: Sequence[str]) -> dict[str, Any]:
    """Plain values of every key, those of the launcher among them; ranges are not checked.

    Raises:
        UserError: unknown choice or key, wrong type, malformed override.
    """
    check_overrides(overrides)
    try:
        return compose_plain(overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides, compose_plain) from error


def make_config(values: dict[str, Any], overrides: Sequence[str]) -> Config:
    """A ``Config`` from the plain values that Hydra composed.

    Raises:
        UserError: a value is out of range.
    """
    validate(values)
    parts: dict[str, Any] = {key: values[key] for key in IDENTITY}
    for kind in ("method", "target"):
        parts[kind] = {**values[kind], "version": registry.get(kind, values[kind]["name"]).version}
    if not registry.get("method", values["method"]["name"]).obj.trained:
        # nothing is fitted: settings of training must not tell two runs apart
        parts["train"] = {**parts["train"], "iterations": 1}
        parts["eval"] = {**parts["eval"], "curve_points": 0}
    config = Config(
        **parts,
        seeds=parse_seeds(values["seeds"] if values["seed"] is None else [values["seed"]]),
        results=values["paths"]["results"],
        **{
            key: values[key]
            for key in ("device", "threads", "compile", "checkpoint_seconds", "progress", "retry", "wandb")
        },
        overrides=tuple(overrides),
    )
    assert config.config_id  # computed here so that a number JSON cannot hold is refused before anything runs
    return config


def compose_raw(overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes, before anything is checked or resolved."""
    with hydra_loader():
        return hydra_compose("config", overrides=list(overrides))


def compose_plain(overrides: Sequence[str]) -> dict[str, Any]:
    """What Hydra composes as plain values."""
    return plain(compose_raw(overrides))


def plain(config: DictConfig) -> dict[str, Any]:
    """Plain values of a composed configuration, interpolations resolved."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return values  # type: ignore[return-value]
