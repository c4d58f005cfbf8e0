"""Distances between sets of images in the space of a frozen feature network (``docs/metrics-images.md``)."""

from bench.metrics.images import digits, mnist, standard, teacher

__all__ = ["digits", "mnist", "standard", "teacher"]
