"""Speed of the training step, always beside a plain baseline measured in the same run."""

from bench.speed.command import add_arguments, main

__all__ = ["add_arguments", "main"]
