"""SLURM: site profiles (``sites/``) and a private cluster for tests (``testcluster/``)."""
