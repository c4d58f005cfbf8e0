"""``sivibench wandb push`` and ``sivibench wandb sync``."""

from __future__ import annotations

import argparse

from bench.cli.shared import present_store_of, print_json, records_of, teller
from bench.errors import UserError
from bench.mirror.options import wandb_settings
from bench.mirror.push import push, sync


def wandb(args: argparse.Namespace) -> int:
    """Mirror records or upload offline runs; 1 if some are left or a record is unreadable."""
    code, tell = 0, teller(args)
    if args.action == "sync":
        if args.overrides or args.target or args.method or args.again:
            raise UserError("`wandb sync` uploads all offline runs as they are", "leave out overrides and filters")
        counts = sync(present_store_of(args), tell=tell)
    else:
        settings = wandb_settings(args.overrides)
        if settings["mode"] == "disabled" and not any(text.startswith("wandb.mode=") for text in args.overrides):
            settings = {**settings, "mode": "auto"}  # WANDB_MODE is about runs; this command was asked for
        store, records, code = records_of(args)
        counts = push(store, records, settings, again=args.again, tell=tell)
    if args.json:
        print_json(counts)
    else:
        print(", ".join(f"{number} {what}" for what, number in counts.items()))
    return max(code, int(counts["left"] > 0))
