"""Sets of images as targets: rows of flattened images scaled to [-1, 1]."""

from targets.images import celeba, cifar10, digits, imagenet64, mnist

__all__ = ["celeba", "cifar10", "digits", "imagenet64", "mnist"]
