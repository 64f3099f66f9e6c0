"""The run folder's own records: the resolved config, what the run is doing, who owns it, how it is to end.

Only this module reads and writes config.json, status.json, attempt.json, stop.json and end.json.
"""

import subprocess
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from scalerl.common.files import read_json, write_json
from scalerl.common.json_record import JsonRecord
from scalerl.config import NOT_IDENTITY, AlarmKind, BudgetConfig, RunConfig
from scalerl.paths import RunPaths
from scalerl.settings import build_config, differences, flatten

R = TypeVar("R", bound=JsonRecord)


@dataclass(frozen=True, kw_only=True)
class SavedConfig(JsonRecord):
    """config.json, unchecked: quick to read for hundreds of runs."""

    signature: str
    """What RunConfig.signature() says of `config`."""
    git_commit: str = "unknown"
    """Commit of the code that wrote it."""
    config: dict[str, Any]
    """The resolved config by section."""


@dataclass(frozen=True, kw_only=True)
class GpuHours(JsonRecord):
    """GPU-hours of a run up to one moment: devices x wall time over all its attempts."""

    generator: float = 0.0
    trainer: float = 0.0
    evaluator: float = 0.0
    idle: float = 0.0
    """GPU-hours of a Slurm job that no role held."""
    total: float
    """Sum of the four."""


@dataclass(frozen=True, kw_only=True)
class Alarm(JsonRecord):
    """One stretch of steps in which a sign of trouble was beyond its level."""

    kind: AlarmKind
    step: int
    """First optimizer step of the stretch."""
    last_step: int
    """Last optimizer step of the stretch so far."""
    value: float
    """Most extreme value in the stretch."""
    level: float
    """What `value` was held against."""
    advice: str

    def __str__(self) -> str:
        """Return the alarm in a few words, without the advice."""
        side = "below" if self.value < self.level else "above"
        return f"{self.kind} {self.value:.3g} {side} {self.level:.3g} since step {self.step}"


@dataclass(frozen=True, kw_only=True)
class Latest(JsonRecord):
    """Numbers of the newest evaluation and of the newest step; None before there is one."""

    pass_rate: float | None = None
    """Held-out pass rate of the newest evaluation."""
    off_policyness_mean: float | None = None
    """Mean off-policyness of a token of the newest step, optimizer steps."""
    dropped_share: float | None = None
    """Share of the newest step's groups that left its batch."""


@dataclass(frozen=True, kw_only=True)
class PredictedCeiling(JsonRecord):
    """What the default fit of the evaluations so far says of the pass rate at unlimited compute."""

    a: float
    """Ceiling A of the sigmoid."""
    lo90: float
    """Lower end of the 90 % interval of A."""
    hi90: float
    """Upper end of the 90 % interval of A."""
    identified: bool
    """Whether the evaluations fix A."""
    reason: str
    """Why they do not, and how far to run."""


@dataclass(frozen=True, kw_only=True)
class RunStatus(JsonRecord):
    """status.json: what the run is doing, or why it ended; the supervisor writes it every second."""

    state: str
    """running | finished | requeued | stopped | failed."""
    reason: str = ""
    """Why it ended; empty while it runs."""
    final: bool = False
    """Whether it has ended for good: a larger budget would not make it go on."""
    attempt: int = 0
    """Number of the attempt that wrote this."""
    job_id: str | None = None
    """Slurm job; None outside Slurm."""
    step: int
    """Newest optimizer step."""
    pids: dict[str, int] = field(default_factory=dict)
    """Process id of every role that runs (under Slurm: of its srun client), by name."""
    latest: Latest = Latest()
    curve: PredictedCeiling | None = None
    """None while the evaluations make no curve."""
    last_error: str | None = None
    """The newest error of a role in one line, and where its log is; empty if there was none."""
    alarms: list[Alarm] = field(default_factory=list)
    """Alarms that stand at the newest step."""
    limits: dict[str, float | None]
    """The budget it runs under, by the names of BudgetConfig; in the file each is a field of its own."""
    updated_s: float
    """Unix time at which this was written, s."""
    gpu_hours: GpuHours
    """Spent until then."""

    @classmethod
    def from_json(cls, values: Any, origin: str) -> Self:
        """Make a status of the parsed file; raises ValueError as JsonRecord.from_json."""
        if not isinstance(values, dict):
            return super().from_json(values, origin)
        flat = dict(values)
        flat["limits"] = {name: flat.pop(name) for name in BudgetConfig.model_fields if name in flat}
        if "gpu_hours" in flat:
            flat["gpu_hours"] = GpuHours.from_json(flat["gpu_hours"], f"{origin}: gpu_hours")
        flat["latest"] = Latest.from_json(flat.get("latest") or {}, f"{origin}: latest")
        if flat.get("curve"):
            flat["curve"] = PredictedCeiling.from_json(flat["curve"], f"{origin}: curve")
        flat["alarms"] = [Alarm.from_json(alarm, f"{origin}: alarms") for alarm in flat.get("alarms", [])]
        return super().from_json(flat, origin)

    def to_json(self) -> dict[str, Any]:
        """Return the object as it stands in the file."""
        flat = super().to_json() | self.limits
        del flat["limits"]
        curve = self.curve.to_json() if self.curve else None
        nested = {"latest": self.latest.to_json(), "curve": curve, "gpu_hours": self.gpu_hours.to_json()}
        return flat | nested | {"alarms": [alarm.to_json() for alarm in self.alarms]}


@dataclass(frozen=True, kw_only=True)
class Attempt(JsonRecord):
    """attempt.json: the attempt that owns the folder, and its supervisor; scalerl/fence.py says what for."""

    attempt: int
    """Number of the attempt; it only ever rises."""
    host: str
    """Host of the supervisor."""
    pid: int
    """Process id of the supervisor there; 0 when it gave the folder free."""
    started_ticks: int | None
    """When that process started, clock ticks since the host's boot: process ids are used again."""
    job_id: str | None = None
    """Slurm job of the supervisor."""
    restarts: int = 0
    """How often Slurm had started that job again."""


@dataclass(frozen=True, kw_only=True)
class StopRequest(JsonRecord):
    """stop.json: the supervisor asks the trainer of its attempt to checkpoint and end."""

    attempt: int
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainerEnd(JsonRecord):
    """end.json: the trainer ended by itself and all is saved; an exit code would not be enough."""

    attempt: int
    step: int
    """Its last optimizer step."""
    exhausted: bool
    """Whether every prompt is mastered, so that nothing is left to train on."""


@cache
def git_commit() -> str:
    """Return the commit of the code that runs, with "-dirty" if it was changed since; "unknown" outside a git
    checkout."""
    where = Path(__file__).parent
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], cwd=where, capture_output=True, text=True
    )
    return result.stdout.strip() or "unknown"


def read_saved_config(paths: RunPaths) -> SavedConfig:
    """Read config.json without checking the config in it.

    Raises:
        ValueError: the folder has no config.json, or it holds something else.
    """
    if not paths.config.exists():
        raise ValueError(
            f"{paths.root} is not a run folder (no config.json); "
            f"`scalerl run CONFIG --dir {paths.root}` makes one"
        )
    saved = read_json(paths.config)
    if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
        raise ValueError(
            f"{paths.config} holds no resolved config; restore it from a copy, or choose another --dir"
        )
    return SavedConfig.from_json(saved, str(paths.config))


def read_config(paths: RunPaths) -> RunConfig:
    """Read the resolved config of an existing run folder.

    Raises:
        ValueError: the folder has no config.json, or one that this version cannot read.
    """
    return build_config(flatten(read_saved_config(paths).config), str(paths.config))


def save_config(paths: RunPaths, config: RunConfig) -> None:
    """Write the resolved config; only the attempt that owns the folder may."""
    saved = SavedConfig(
        signature=config.signature(), git_commit=git_commit(), config=config.model_dump(mode="json")
    )
    write_json(paths.config, saved.to_json())


def check_run_folder(paths: RunPaths, config: RunConfig) -> None:
    """Check that the folder is new, or belongs to the same run; change nothing.

    Raises:
        ValueError: the folder belongs to another run, or holds something else.
    """
    # listed before the config is looked for: another launcher may be writing it, under a temporary name first
    names = [file.name for file in paths.root.iterdir()] if paths.root.exists() else []
    if paths.config.exists():
        saved = read_config(paths)
        if saved.signature() != config.signature():
            changes = "; ".join(differences(saved, config))
            raise ValueError(
                f"{paths.root} belongs to another run (signature {saved.signature()}, yours "
                f"{config.signature()}): {changes}. Choose another --dir, or set these back; only "
                f"{', '.join(NOT_IDENTITY)} may change in a run"
            )
    elif not all(name.startswith(f".{paths.config.name}.") for name in names):
        raise ValueError(f"{paths.root} exists, is not empty and is not a run folder; choose another --dir")


def read_status(paths: RunPaths) -> RunStatus | None:
    """Read status.json; None before the run's first.

    Raises:
        ValueError: the file is not JSON, or lacks a field.
    """
    return _read(RunStatus, paths.status)


def write_status(paths: RunPaths, status: RunStatus) -> None:
    """Replace status.json; only the attempt that owns the folder may."""
    write_json(paths.status, status.to_json())


def read_attempt(paths: RunPaths) -> Attempt | None:
    """Read who owns the folder; None before the first attempt.

    Raises:
        ValueError: the file is not JSON, or lacks a field.
    """
    return _read(Attempt, paths.attempt)


def write_attempt(paths: RunPaths, attempt: Attempt) -> None:
    """Say who owns the folder; scalerl/fence.py says who may."""
    write_json(paths.attempt, attempt.to_json())


def read_stop(paths: RunPaths) -> StopRequest | None:
    """Read the request to stop; None if there is none.

    Raises:
        ValueError: the file is not JSON, or lacks a field.
    """
    return _read(StopRequest, paths.stop)


def write_stop(paths: RunPaths, request: StopRequest) -> None:
    """Ask the trainer to checkpoint and end."""
    write_json(paths.stop, request.to_json())


def read_end(paths: RunPaths) -> TrainerEnd | None:
    """Read how the trainer ended; None if it has not, or died.

    Raises:
        ValueError: the file is not JSON, or lacks a field.
    """
    return _read(TrainerEnd, paths.end)


def write_end(paths: RunPaths, end: TrainerEnd) -> None:
    """Say that the trainer has ended by itself."""
    write_json(paths.end, end.to_json())


def _read(record: type[R], path: Path) -> R | None:
    # not exists() first: another process may remove the file between the two
    try:
        return record.from_json(read_json(path), str(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
