"""Where metric rows go beside metrics.jsonl: a table for spreadsheets, TensorBoard, Weights & Biases."""

import csv
import time
from io import StringIO
from typing import Protocol

from scalerl.common.files import write_text
from scalerl.config import RunConfig
from scalerl.metrics.rows import EvalRow, Row, StepRow, read_rows
from scalerl.paths import RunPaths

TRAINING_LOG_EVERY_S = 10.0
TRAINING_LOG_COLUMNS = ("step", "gpu_hours", "pass_rate", "reward", "loss")


class Logger(Protocol):
    """One receiver of the rows of a run, in the order in which the supervisor takes them."""

    def log(self, row: Row) -> None:
        """Take one row, with its GPU-hours stamped."""

    def close(self) -> None:
        """Write what is still to be written."""


class TrainingLog:
    """training_log.csv: a line a step, TRAINING_LOG_COLUMNS.

    reward and loss are the step's own. pass_rate is that of the held-out evaluation of this very step, and
    empty where there was none: repeated on every step until the next, it would count as many evaluations in a
    fit. A line with an evaluation has the evaluation's gpu_hours; R0 is a line of step 0.
    """

    def __init__(self, paths: RunPaths) -> None:
        """Begin with the rows of earlier attempts."""
        self._path = paths.training_log
        self._steps: dict[int, StepRow] = {}
        self._evaluations: dict[int, EvalRow] = {}
        self._written_s = 0.0
        for row in read_rows(paths.metrics):
            self._take(row)

    def log(self, row: Row) -> None:
        """Take one row; rewrite the file if that was not done lately."""
        self._take(row)
        if time.monotonic() - self._written_s > TRAINING_LOG_EVERY_S:
            self._write()

    def close(self) -> None:
        """Write the file with all rows."""
        self._write()

    def _take(self, row: Row) -> None:
        if isinstance(row, EvalRow):
            self._evaluations[row.step] = row
        else:
            # a replayed step: those after it belong to a timeline that was lost with a trainer
            self._steps = {step: old for step, old in self._steps.items() if step < row.step}
            self._steps[row.step] = row

    def _write(self) -> None:
        self._written_s = time.monotonic()
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(TRAINING_LOG_COLUMNS)
        rows: dict[int, Row] = {**self._steps, **self._evaluations}
        for number in sorted(rows):
            step, evaluation = self._steps.get(number), self._evaluations.get(number)
            pass_rate = evaluation.pass_rate if evaluation else None
            reward, loss = (step.reward, step.loss) if step else (None, None)
            writer.writerow([number, rows[number].gpu_hours, pass_rate, reward, loss])
        write_text(self._path, text.getvalue())


def scalars(row: Row) -> dict[str, float]:
    """Return the numbers of a row as `kind/name`; tables such as groups_dropped become `kind/table/name`."""
    flat: dict[str, float] = {}
    for name, value in row.to_json().items():
        entries = (
            {f"{name}/{key}": entry for key, entry in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
        flat |= {
            f"{row.kind}/{key}": float(entry)
            for key, entry in entries.items()
            if isinstance(entry, (int, float))
        }
    return flat


class TensorBoardLogger:
    """Scalars for TensorBoard, by its own event writer, which needs no torch."""

    def __init__(self, paths: RunPaths) -> None:
        """Open a new file of events."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._writer = EventFileWriter(str(paths.tensorboard))

    def log(self, row: Row) -> None:
        """Write the scalars of one row at its step."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in scalars(row).items()]
        self._writer.add_event(
            self._event(wall_time=row.time_s, step=row.step, summary=self._summary(value=values))
        )
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WandbLogger:
    """Scalars for Weights & Biases, in the same run of it after a restart."""

    def __init__(self, paths: RunPaths, config: RunConfig) -> None:
        """Open or continue its run.

        Raises:
            ValueError: the package is not installed.
        """
        try:
            import wandb
        except ImportError:
            raise ValueError(
                "logging.wandb_project is set but wandb is not installed: pip install wandb, or leave it "
                "empty"
            ) from None
        self._run = wandb.init(
            project=config.logging.wandb_project,
            id=f"{paths.root.name}-{config.signature()}",
            resume="allow",
            dir=str(paths.root),
            config=config.model_dump(),
        )

    def log(self, row: Row) -> None:
        """Send the scalars of one row."""
        self._run.log({**scalars(row), "step": row.step})

    def close(self) -> None:
        """Send what is still to be sent."""
        self._run.finish()


def open_loggers(paths: RunPaths, config: RunConfig) -> list[Logger]:
    """Open the training log, and the loggers that the config asks for.

    Raises:
        ValueError: one of them is not installed.
    """
    loggers: list[Logger] = [TrainingLog(paths)]
    if config.logging.tensorboard:
        loggers.append(TensorBoardLogger(paths))
    if config.logging.wandb_project:
        loggers.append(WandbLogger(paths, config))
    return loggers
