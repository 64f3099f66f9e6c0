"""The rows of metrics.jsonl, one a step and one an evaluation: posted by the roles, read by everybody."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from scalerl.common.files import read_json, write_json
from scalerl.common.json_record import JsonRecord
from scalerl.paths import RunPaths
from scalerl.run_folder import GpuHours

NO_ANSWER = ("no_answer", "no_code")
"""Reasons of verdicts on completions in which nothing to grade was found."""


@dataclass(frozen=True, kw_only=True)
class _Row(JsonRecord):
    """What both kinds of rows say. A field is None where there is no number, or where an older version did
    not measure it. `extra` also holds the fields of each task, such as pass_rate_math."""

    kind: ClassVar[str]
    step: int
    """Optimizer step, from 1; also the policy version after it. An evaluation of step 0 is R0."""
    attempt: int = 0
    """Number of the attempt that measured it; 0: not told."""
    time_s: float = 0.0
    """Unix time of the measurement, s; of an evaluation: when its policy was published. 0: not told."""
    policy_version: int | None = None
    """Policy after the step; of an evaluation: the one fixed policy that sampled everything."""
    gpu_hours: float | None = None
    """GPU-hours of the run up to `time_s`, cumulative over restarts: devices x wall time, a CPU process
    counting as one device. The supervisor stamps these five fields; None in a row it has not taken yet."""
    generator_gpu_hours: float | None = None
    """GPU-hours of the generators."""
    trainer_gpu_hours: float | None = None
    """GPU-hours of the trainer ranks."""
    evaluator_gpu_hours: float | None = None
    """GPU-hours of the evaluators."""
    idle_gpu_hours: float | None = None
    """GPU-hours of the Slurm job that no role held."""
    epoch: float | None = None
    """Groups trained per training prompt, up to this policy."""
    generated_tokens: int | None = None
    """Completion tokens of all groups the steps took, cumulative: what the generators had to compute, forced
    tokens and groups without a loss included. Recipes are compared on it."""
    trained_tokens: int | None = None
    """Those of them that had a loss, cumulative: without forced tokens and without dropped groups."""
    flops: float | None = None
    """FLOPs, cumulative: 6 N a trained token and 2 N a generated one, with N the parameters (of a mixture of
    experts: those that compute one token)."""

    def to_json(self) -> dict[str, Any]:
        """Return the row as it stands in the file; GPU-hours are left out until they are stamped."""
        row = {"kind": self.kind, **super().to_json()}
        return {name: value for name, value in row.items() if value is not None or name not in STAMPED}


@dataclass(frozen=True, kw_only=True)
class StepRow(_Row):
    """One optimizer step: means over the completions of its batch, and what the trainer did."""

    kind: ClassVar[str] = "step"
    reward: float | None = None
    """Mean reward over all completions of the batch, before any filter."""
    pass_rate: float | None = None
    """Share of correct completions of the batch, before any filter."""
    loss: float | None = None
    """Loss of the step; None where it is not finite or no group was left to train."""
    grad_norm: float | None = None
    """L2 norm of the gradient before clipping; None as for `loss`."""
    learning_rate: float | None = None
    """Learning rate of the step."""
    step_applied: bool = True
    """Whether the weights changed: not when the gradient was not finite, or no group was left."""
    log_ratio_mean: float | None = None
    """Mean |log pi_train - log pi_gen| over loss tokens, nats: mismatch of the engines and off-policyness."""
    log_ratio_max: float | None = None
    """Largest |log pi_train - log pi_gen| of a loss token, nats."""
    clip_fraction: float | None = None
    """Share of loss tokens whose importance ratio was clipped."""
    entropy: float | None = None
    """Mean entropy over loss tokens, nats."""
    completion_tokens_mean: float | None = None
    """Mean length of a completion, tokens."""
    completion_tokens_max: int | None = None
    """Length of the longest completion, tokens."""
    truncation_rate: float | None = None
    """Share of completions that ran out of tokens."""
    interruption_rate: float | None = None
    """Share of completions whose thinking was cut short by force."""
    off_policyness: dict[str, int] | None = None
    """Histogram: optimizer steps between the policy of a token and the policy it trained -> tokens."""
    off_policyness_mean: float | None = None
    """Mean off-policyness of a token, optimizer steps."""
    off_policyness_max: int | None = None
    """Largest off-policyness of a token, optimizer steps."""
    verdicts: dict[str, int] | None = None
    """Completions of the batch by task and reason of the verdict (`scalerl.tasks.task.Reason`):
    {"math/equal": 12, "math/no_answer": 3}."""
    restated_share: float | None = None
    """Share of the right math answers that contain a formula of the question which is still to be worked
    out (`spool.verdicts.restates`): a rise means that the grader pays for copying. None: no right answer."""
    num_groups: int | None = None
    """Prompt groups of the batch."""
    zero_variance_groups: int | None = None
    """Groups whose rewards are all equal, dropped or not: they teach nothing."""
    groups_dropped: dict[str, int] | None = None
    """Groups that left the batch, by reason ("zero_variance")."""
    prompts_dropped_total: int | None = None
    """Prompts that have left the run for good (no-positive-resampling), cumulative."""
    num_micro_batches: int | None = None
    """Micro-batches of one rank; 0 where no group was left to train."""
    wait_s: float | None = None
    """Seconds that the trainer waited for groups."""
    read_s: float | None = None
    """Seconds that it read them."""
    train_s: float | None = None
    """Seconds of forward, backward and optimizer."""
    publish_s: float | None = None
    """Seconds that it wrote weights and requests."""
    checkpoint_s: float | None = None
    """Seconds of the checkpoint before this step."""

    @property
    def dropped_share(self) -> float | None:
        """Return the share of the batch's groups that left it; None where the groups were not counted."""
        return sum((self.groups_dropped or {}).values()) / self.num_groups if self.num_groups else None

    @property
    def zero_variance_share(self) -> float | None:
        """Return the share of the batch's groups whose rewards are all equal; None where not counted."""
        if not self.num_groups or self.zero_variance_groups is None:
            return None
        return self.zero_variance_groups / self.num_groups

    @property
    def no_answer_share(self) -> float | None:
        """Return the share of the completions in which nothing to grade was found; None where not counted."""
        if not self.verdicts:
            return None
        unread = sum(self.verdicts[name] for name in self.verdicts if name.rpartition("/")[2] in NO_ANSWER)
        return unread / sum(self.verdicts.values())


@dataclass(frozen=True, kw_only=True)
class EvalRow(_Row):
    """One evaluation of one fixed policy on the held-out prompts."""

    kind: ClassVar[str] = "eval"
    pass_rate: float
    """Mean over the held-out prompts of their share of correct samples: mean@k."""
    standard_error: float | None = None
    """Standard error of `pass_rate` over prompts; None for a single prompt."""
    num_prompts: int | None = None
    """Held-out prompts."""
    samples_per_prompt: int | None = None
    """Samples of each prompt: the k of mean@k."""
    pass_at_k: dict[str, float] | None = None
    """k -> mean over prompts of the chance that one of k samples is correct (unbiased), for 2, 4, 8, ... and
    all samples."""
    pass_at_k_standard_error: dict[str, float] | None = None
    """k -> standard error of that mean over prompts; empty for a single prompt."""
    completion_tokens_mean: float | None = None
    """Mean length of a sample, tokens."""
    truncation_rate: float | None = None
    """Share of samples that ran out of tokens."""
    interruption_rate: float | None = None
    """Share of samples whose thinking was cut short by force."""
    no_answer_rate: float | None = None
    """Share of samples without a final answer."""
    evaluation_s: float | None = None
    """Seconds that the slowest evaluator took."""


Row = StepRow | EvalRow
STAMPED = ("gpu_hours", "generator_gpu_hours", "trainer_gpu_hours", "evaluator_gpu_hours", "idle_gpu_hours")
_KINDS: dict[str, type[StepRow] | type[EvalRow]] = {record.kind: record for record in (StepRow, EvalRow)}


class Rows(list[Row]):
    """Rows in the order of the file, which within a kind is that of their steps."""

    @property
    def steps(self) -> list[StepRow]:
        """Return the rows of optimizer steps."""
        return [row for row in self if isinstance(row, StepRow)]

    @property
    def evaluations(self) -> list[EvalRow]:
        """Return the rows of evaluations."""
        return [row for row in self if isinstance(row, EvalRow)]


def row_from_json(values: Any, origin: str) -> Row:
    """Make a row of a parsed line.

    Raises:
        ValueError: it is of no known kind, or lacks a required field; the message begins with `origin`.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{origin} is not an object: {str(values)[:80]}")
    kind = values.get("kind")
    if kind not in _KINDS:
        raise ValueError(f"{origin} is of kind {kind!r}, not one of {', '.join(_KINDS)}; remove it")
    return _KINDS[kind].from_json({name: value for name, value in values.items() if name != "kind"}, origin)


def stamp(row: Row, hours: GpuHours) -> Row:
    """Return the row with the GPU-hours spent up to its time."""
    return replace(
        row,
        gpu_hours=hours.total,
        generator_gpu_hours=hours.generator,
        trainer_gpu_hours=hours.trainer,
        evaluator_gpu_hours=hours.evaluator,
        idle_gpu_hours=hours.idle,
    )


def post_row(paths: RunPaths, row: Row) -> None:
    """Hand a row to the supervisor, who stamps its GPU-hours."""
    write_json(paths.inbox / f"{row.kind}-{row.step:08d}-{row.attempt}.json", row.to_json())


def posted_rows(paths: RunPaths) -> dict[Path, Row]:
    """Return the rows in the inbox by their files, oldest first."""
    posted = {}
    for path in paths.inbox.glob("[!.]*.json"):
        # the supervisor of an earlier attempt that does not know yet that it is over may take one
        with suppress(FileNotFoundError):
            posted[path] = row_from_json(read_json(path), str(path))
    return dict(sorted(posted.items(), key=lambda item: item[1].time_s))


def read_rows(path: Path) -> Rows:
    """Read all rows of a metrics.jsonl; a torn last line (a writer died) is left out.

    Raises:
        ValueError: another line is not JSON, or no row; the message names it.
    """
    rows = Rows()
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            # the supervisor was killed while it appended; it still has the row in its inbox
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number} is not JSON ({error}); remove that line") from None
        rows.append(row_from_json(values, f"{path}: row {number}"))
    return rows


def format_rows(rows: Iterable[Row]) -> str:
    """Return the lines of a metrics.jsonl that holds these rows.

    Raises:
        ValueError: a row holds a number that JSON cannot express.
    """
    return "".join(json.dumps(row.to_json(), allow_nan=False) + "\n" for row in rows)
