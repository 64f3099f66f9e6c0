"""The evaluator: held-out mean@k of one fixed policy, as a process of a run and as a function of its own."""

from scalerl.evaluator.loop import run_evaluator
from scalerl.evaluator.standalone import evaluate_model

__all__ = ["evaluate_model", "run_evaluator"]
