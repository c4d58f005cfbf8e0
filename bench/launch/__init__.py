"""Batched runs as jobs of a SLURM cluster: options, site, submission, what a job does, what the queue says."""
