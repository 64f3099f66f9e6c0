"""Compute curves of RL runs: the sigmoid law, its fits, intervals and predictions. NumPy and SciPy only, no
files."""
