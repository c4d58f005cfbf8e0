"""Variance-preserving diffusions: schedules and time grids, noised marginals, noise predictors (teachers)."""
