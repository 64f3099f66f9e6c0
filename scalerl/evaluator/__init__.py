"""The evaluator: held-out mean@k of one fixed policy, as a process of a run and as a function of its own.

loop.py        the process: samples its share of what the trainer asks for
mean_at_k.py   k completions of every prompt, graded
summary.py     mean@k and pass@k of them, with standard errors
parts.py       the share of each evaluator, on its way to evaluator 0
finish.py      the end of an evaluation: answer, metrics row, best/
standalone.py  `scalerl evaluate`, outside a run
"""

from scalerl.evaluator.loop import run_evaluator
from scalerl.evaluator.standalone import evaluate_model

__all__ = ["evaluate_model", "run_evaluator"]
