"""A copy of every run in Weights & Biases, made beside the fit and never in its way.

The record is the truth; the mirror follows.  A process of its own (``bench.mirror.worker``) talks to W&B, told through
a pipe what the curves are so far and, at the end, which records there are.  Whatever goes wrong there costs the run
no result and at most ``wandb.wait`` seconds; ``sivibench wandb push`` brings up later what is missing.
"""
