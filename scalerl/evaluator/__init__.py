"""The evaluator: held-out mean@k of one fixed policy, as a process of a run and as a function of its own.

loop.py        the process: samples its share of what the trainer asks for
mean_at_k.py   k completions of every prompt, graded
summary.py     mean@k and pass@k of them, with standard errors
parts.py       the share of each evaluator, on its way to evaluator 0
finish.py      the end of an evaluation: answer, metrics row, best/
standalone.py  `scalerl evaluate`, outside a run: the rows of a data set, from one engine
downstream.py  many data sets and many engines: the table and its CSV
model_config.py  how a model wants to be asked: the config of its run
"""

from scalerl.evaluator.loop import run_evaluator

__all__ = ["run_evaluator"]
