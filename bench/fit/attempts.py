"""How often a run has been tried."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

from bench.config import Config
from bench.fit.checkpoint import covering
from bench.store import Store


def attempts(config: Config, seeds: Sequence[int], store: Store) -> list[int]:
    """Of each seed, with the attempt that begins now.

    A record has counted up to the attempt that it ended, a checkpoint up to the one that saved it; whichever is later
    has counted all before it.  Attempts that were killed before they saved anything leave nothing to be counted by.

    Raises:
        UserError: a record or the checkpoint is corrupt.
    """
    saved = covering(store.artifacts / "checkpoints", config.config_id, seeds).about()
    # Earlier code did not say it there: then it has been one at least.
    interrupted = dict(zip(saved.get("seeds", ()), saved.get("attempts", repeat(1)), strict=False))
    found = []
    for seed in seeds:
        record = store.get(config.run_id(seed), config.target["name"], config.method["name"])
        ended = 0 if record is None else int(record["cost"].get("attempts") or 0)
        found.append(1 + max(ended, interrupted.get(seed, 0)))
    return found
