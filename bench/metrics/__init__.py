"""Metrics, one idea per file; every module here is imported by ``bench.registry.discover``."""
