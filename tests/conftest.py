"""Every test: one torch thread and a seed, none of the user's settings, no network."""

from __future__ import annotations

import os
import socket

import pytest

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "disabled"  # tests of the mirror say otherwise
# SIVIBENCH_DATA only says where data files lie, SIVIBENCH_PLUGINS adds components: with them, more is tested
KEPT = ("SIVIBENCH_DATA", "SIVIBENCH_PLUGINS")
for name in [name for name in os.environ if name.startswith("SIVIBENCH_") and name not in KEPT]:
    del os.environ[name]

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """What a test draws from torch's own generator does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def stub_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the components of ``tests/stubs.py``."""
    from bench import registry
    from stubs import add_stubs

    registry.discover()
    monkeypatch.setattr(registry, "_ENTRIES", {"method": {}, "target": {}, "metric": {}, "baseline": {}})
    add_stubs()
