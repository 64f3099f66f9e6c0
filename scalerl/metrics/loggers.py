"""Where metric rows go beside metrics.jsonl: TensorBoard, and Weights & Biases if the user asks for it."""

from collections.abc import Callable

from scalerl.config import RunConfig
from scalerl.metrics.rows import Row
from scalerl.paths import RunPaths

Logger = Callable[[Row], None]


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row as `kind/name`; tables such as groups_dropped become `kind/table/name`."""
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


def tensorboard_logger(paths: RunPaths) -> Logger:
    """Writes scalars with TensorBoard's own event writer, which needs no torch."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(paths.tensorboard))

    def log(row: Row) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(row).items()]
        writer.add_event(Event(wall_time=row.time_s, step=row.step, summary=Summary(value=values)))
        writer.flush()

    return log


def wandb_logger(paths: RunPaths, config: RunConfig) -> Logger:
    """Logs to Weights & Biases, continuing the same run after a restart.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise ValueError(
            "logging.wandb_project is set but wandb is not installed: pip install wandb, or leave it empty"
        ) from None
    run_id = f"{paths.root.name}-{config.signature()}"
    run = wandb.init(
        project=config.logging.wandb_project,
        id=run_id,
        resume="allow",
        dir=str(paths.root),
        config=config.model_dump(),
    )

    def log(row: Row) -> None:
        run.log({**scalars(row), "step": row.step})

    return log


def open_loggers(paths: RunPaths, config: RunConfig) -> list[Logger]:
    """The loggers the config asks for."""
    loggers = []
    if config.logging.tensorboard:
        loggers.append(tensorboard_logger(paths))
    if config.logging.wandb_project:
        loggers.append(wandb_logger(paths, config))
    return loggers
