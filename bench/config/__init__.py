"""Configuration: Hydra composes it, ``Config`` holds it, and its semantic part is the identity of a run."""

from bench.config.compose import CONF, compose, hydra_loader, register_configs
from bench.config.config import Config, Unfit, build_method, build_target, check_needs
from bench.config.identity import ENGINE_VERSION, canonical_json, config_id
from bench.config.many import Composer

__all__ = [
    "CONF",
    "ENGINE_VERSION",
    "Composer",
    "Config",
    "Unfit",
    "build_method",
    "build_target",
    "canonical_json",
    "check_needs",
    "compose",
    "config_id",
    "hydra_loader",
    "register_configs",
]
