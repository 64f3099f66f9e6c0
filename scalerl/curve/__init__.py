"""Compute curves of RL runs: the sigmoid law, its fits, intervals and predictions.

NumPy and SciPy only; nothing here reads or writes a file. `fit.fit_curve` is the way in; README.md explains
the rest.
"""
