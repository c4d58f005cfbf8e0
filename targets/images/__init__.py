"""Sets of images as targets: rows of flattened images scaled to [-1, 1]."""

from targets.images import digits, mnist

__all__ = ["digits", "mnist"]
