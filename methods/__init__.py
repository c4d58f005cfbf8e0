"""Variational methods, one file per family; every module here is imported by ``bench.registry.discover``."""
