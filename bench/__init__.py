"""sivibench: one footing for semi-implicit variational inference methods and targets."""

__version__ = "0.1.0"
