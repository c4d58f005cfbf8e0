"""Plain Hydra: ``python -m bench.multirun -m method=ksivi,sivi target=banana 'seed=range(5)'``.

The same ``execute`` behind Hydra's own multirun, so any of its launchers works, e.g. ``hydra/launcher=submitit_slurm``
of hydra-submitit-launcher (``pip install 'sivibench[hydra]'``).  ``sivibench sweep launcher=slurm`` does more: it fits
seeds together, packs jobs, leaves out what is done or queued and returns at once.
"""

from __future__ import annotations

import logging
import signal

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bench.config.compose import make_config, plain, register_configs
from bench.config.overrides import CONF, check_overrides
from bench.fit.interrupt import listening
from bench.launch.options import refuse_options
from bench.run import execute

log = logging.getLogger("sivibench")


def task(composed: DictConfig) -> list[str]:
    """One configuration; the statuses of its seeds.

    Raises:
        UserError: as ``execute``; the launcher reports the first one, the log holds each.
    """
    from bench.registry import discover

    discover()
    overrides = HydraConfig.get().overrides.task
    try:
        refuse_options(overrides)
        check_overrides(overrides)
        with listening(signal.SIGINT, signal.SIGTERM):
            records = execute(make_config(plain(composed), overrides), progress=log.info)
    except Exception:
        log.exception("%s", " ".join(overrides))  # launchers may swallow it
        raise
    log.info("%s: %s", " ".join(overrides), ", ".join(record["status"] for record in records))
    return [record["status"] for record in records]


def main() -> None:
    """Hand over to Hydra."""
    register_configs()
    hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")(task)()


if __name__ == "__main__":
    # Under its real name, so that launchers can send `task` by name.
    from bench.multirun import main as entry

    entry()
