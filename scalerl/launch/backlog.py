"""The evaluations a run owes: what they will cost, whether the evaluators keep up, and which are late."""

from collections.abc import Callable, Sequence

from scalerl.launch.processes import RoleProcess
from scalerl.metrics.rows import EvalRow, Rows
from scalerl.paths import RunPaths
from scalerl.spool.evaluations import EvaluationRequest, pending_evaluations


class Backlog:
    """The evaluations that the trainer asked for and nobody has answered yet."""

    def __init__(self, paths: RunPaths, note: Callable[[str], None], *, has_test: bool = False) -> None:
        """Owe nothing yet, or a test at the end; `note` shows a line to the user."""
        self._paths, self._note, self._has_test = paths, note, has_test
        self._num_late = 0
        self._said = False

    def gpu_hours(self, rows: Rows, devices: int) -> float:
        """Return the GPU-hours that evaluations still due will cost a job of so many devices, which all wait.

        They are those that are asked for, the last one and the test. 0 until one was measured.
        """
        newest = rows.evaluations[-1:]
        owed = len(pending_evaluations(self._paths)) + 1 + self._has_test
        return owed * (newest[0].evaluation_s or 0.0) * devices / 3600 if newest else 0.0

    def evaluated(self, row: EvalRow) -> None:
        """Say it once if evaluations pile up: twice in a row, one ended when two or more later ones were due
        already."""
        num_waiting = sum(request.step > row.step for request in pending_evaluations(self._paths))
        self._num_late = self._num_late + 1 if num_waiting > 1 else 0
        if self._num_late == 2 and not self._said:
            self._said = True
            self._note(
                f"evaluations pile up: {num_waiting} wait, and one takes {row.evaluation_s or 0:.0f} s; stop "
                f"and continue with a larger evaluation.num (and more devices). A new run may also set "
                f"evaluation.every_steps, num_prompts or samples_per_prompt"
            )

    def lacking(self, request: EvaluationRequest, evaluators: Sequence[RoleProcess]) -> str:
        """Say whose part an evaluation waits for."""
        num = len(evaluators)
        done = [self._paths.evaluation_part(request.key, index, num).exists() for index in range(num)]
        missing = [process for process, there in zip(evaluators, done, strict=True) if not there]
        # all parts are there, and evaluator 0 has not put them together
        missing = missing or [evaluators[0]]
        return f"{request} lacks the part of " + ", ".join(
            f"{process.name} (log: {process.log})" for process in missing
        )
