"""Which W&B server is meant and whether there is a key for it, found without importing the client."""

from __future__ import annotations

import configparser
import netrc
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

PUBLIC = "https://api.wandb.ai"

PROBE_SECONDS = 3.0
"""How long a server may take to answer anything at all before it counts as absent."""


def server() -> str:
    """Address of the server: ``WANDB_BASE_URL``, else that of the user's W&B settings, else the public one."""
    found = os.environ.get("WANDB_BASE_URL")
    if not found:
        folder = os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb"
        kept = configparser.ConfigParser()
        try:
            kept.read(Path(folder) / "settings")
            found = kept.get("default", "base_url", fallback=None)
        except (configparser.Error, OSError, UnicodeDecodeError):
            found = None
    return (found or PUBLIC).rstrip("/")


def has_key() -> bool:
    """Whether a key for the server is in the environment or in ``~/.netrc`` (where ``wandb login`` puts it)."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(server()).hostname or ""
    given = os.environ.get("NETRC")
    for path in [Path(given)] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if host in netrc.netrc(path).hosts:
                return True
        except (netrc.NetrcParseError, OSError, UnicodeDecodeError):
            continue
    return False


def resolve(mode: str) -> tuple[str, str | None]:
    """``disabled``, ``offline`` or ``online`` for a ``wandb.mode``, and a remark where it is not what was asked for."""
    if mode == "auto":
        return ("online" if has_key() else "offline"), None
    if mode == "online" and not has_key():
        return "offline", f"no key for {server()} (`wandb login`), so offline; `sivibench wandb sync` uploads later"
    return mode, None


def answers(address: str) -> bool:
    """Whether something that speaks HTTP is there; the client itself would try for minutes."""
    try:
        urllib.request.urlopen(address, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # a page that is not there, told by a server that is
    except (OSError, ValueError):
        return False
    return True
