"""Where batched runs are carried out: processes here, this process, or jobs of a SLURM cluster."""
