"""Imported once by the fork server, so that a fresh process starts with torch and all components loaded."""

import bench.run  # noqa: F401
import bench.sweep.pool  # noqa: F401
from bench.registry import discover

discover()
