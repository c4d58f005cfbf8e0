"""Hydra configuration, found by absolute path; this file only makes the folder part of the wheel."""
