"""Slurm and the site: what the machines are, what the queue says, and whether they are fit to run on."""
