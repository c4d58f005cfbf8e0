"""What a device may be called; apart from ``bench.device``, so that a configuration is read without torch."""

from __future__ import annotations

import re

from bench.errors import UserError


def check_device_name(name: str) -> None:
    """Refuse what names no kind of device.

    Raises:
        UserError: neither auto, cpu, cuda nor cuda:<number>.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UserError(f"unknown device {name!r}", "choose from: auto, cpu, cuda, cuda:<number>")
