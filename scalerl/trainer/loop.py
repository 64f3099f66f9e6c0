"""The training loop of one run, on one rank: `scalerl role trainer` (see scalerl/trainer/__init__.py)."""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import distributed as dist

from scalerl.data.problem import load_problems
from scalerl.fence import asked_to_stop, check_attempt
from scalerl.metrics.rows import StepRow, post_row
from scalerl.paths import RunPaths
from scalerl.role import StopSignal
from scalerl.run_folder import TrainerEnd, read_config, write_end
from scalerl.spool.shards import Spool
from scalerl.trainer.batch import BatchReader, Group
from scalerl.trainer.checkpoint import SavedState, collect_old_checkpoints, find_checkpoint, save_checkpoint
from scalerl.trainer.engine import StepStatistics, TrainingEngine, init_distributed, uses_flash_attention
from scalerl.trainer.objective import batch_statistics, training_sequences
from scalerl.trainer.packing import pack
from scalerl.trainer.publisher import Publisher
from scalerl.trainer.state import TrainingState

MAX_SKIPPED_STEPS = 3
"""Steps in a row that may be skipped for a loss or gradient that is not finite."""


class Trainer:
    """One rank. All ranks do the same; rank 0 also writes to the run folder."""

    def __init__(self, run_dir: Path, *, rank: int, attempt: int) -> None:
        self.paths, self.rank, self.attempt = RunPaths(run_dir), rank, attempt
        self.config = config = read_config(self.paths)
        control = init_distributed(config.launch.distributed_timeout_s)
        problems = load_problems(Path(config.data.train))
        code_ids = {problem.prompt_id for problem in problems if problem.task == "code"}
        self.state = TrainingState.begin(config, [problem.prompt_id for problem in problems], code_ids)
        saved = self._newest_checkpoint(control)
        model = saved.model if saved else config.model.path
        self.engine = TrainingEngine(config, model, control)
        if saved:
            self.state.restore(saved.training_state)
            saved.restore(self.engine)
        self.saved_step = self.state.step if saved else -1
        self.publisher = Publisher(self.paths, self.engine, model, attempt)
        vocabulary_size = self.engine.model.get_input_embeddings().num_embeddings
        self.stop = StopSignal()
        self.stop.loop_started = True
        self.reader = BatchReader(
            self.paths,
            config,
            vocabulary_size=vocabulary_size,
            control=control,
            stopped=lambda: self.stop.requested or asked_to_stop(self.paths, attempt),
        )
        self.seconds = dict.fromkeys(("wait_s", "read_s", "train_s", "publish_s", "checkpoint_s"), 0.0)

    def _newest_checkpoint(self, control: dist.ProcessGroup) -> SavedState | None:
        box = [find_checkpoint(self.paths) if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0, group=control)
        if box[0] is None:
            return None
        saved = SavedState(self.paths, box[0], rank=self.rank, world_size=dist.get_world_size())
        saved.check(self.config)
        if self.rank == 0:
            print(f"continuing from the checkpoint of step {box[0]}", flush=True)
        return saved

    def run(self) -> bool:
        """Train until budget.max_steps, until no prompt is left, or until the stop file or SIGTERM comes;
        then checkpoint and have the last policy evaluated and say in end.json why. Says whether it was
        SIGTERM.

        Raises:
            TimeoutError: the generators did not deliver. StaleAttempt: another attempt took over.
                FloatingPointError: diverged.
        """
        self.publisher.publish_policy(self.state)
        if self.state.step == 0:
            self.publisher.request_evaluation(self.state)
        max_steps = math.inf if self.config.budget.max_steps is None else self.config.budget.max_steps
        while (
            self.state.step < max_steps
            and not self.state.exhausted
            and (groups := self._next_groups()) is not None
        ):
            row = self._train(groups)
            self._publish()
            self._post(row)
            self._check_finite()
            if self.state.step % self.config.checkpoint.every_steps == 0:
                self._checkpoint()
        self._checkpoint()
        self.publisher.request_evaluation(self.state)
        self.engine.barrier()
        self._say_end()
        return self.stop.requested

    def _say_end(self) -> None:
        """An exit code is not enough: srun may return 0 for a step it lost with its node."""
        if self.rank == 0 and not self.stop.requested:
            check_attempt(self.paths, self.attempt)
            state = self.state
            write_end(
                self.paths,
                TrainerEnd(attempt=self.attempt, step=state.step, exhausted=state.exhausted),
            )

    def _next_groups(self) -> list[Group] | None:
        begin_s = time.monotonic()
        groups = self.reader.next(self.state)
        self.seconds["read_s"] = self.reader.read_s
        self.seconds["wait_s"] = time.monotonic() - begin_s - self.reader.read_s
        return groups

    def _train(self, groups: list[Group]) -> dict[str, Any]:
        """One optimizer step, or none if no group is left; the row of the step. The policy version advances
        either way."""
        begin_s = time.monotonic()
        state, config = self.state, self.config
        row = batch_statistics(groups, state.step) | {"learning_rate": state.learning_rate}
        sequences, dropped = training_sequences(groups, config.algo)
        micro_batches = []
        statistics = None
        if sequences:
            micro_batches = pack(
                sequences,
                budget_tokens=config.trainer.micro_batch_tokens,
                one_row=uses_flash_attention(),
                rank=self.rank,
                world_size=self.engine.world_size,
            )
            statistics = self.engine.train(micro_batches, state.learning_rate)
            state.num_skipped = 0 if statistics.applied else state.num_skipped + 1
        self._count_compute(sum(len(sequence.loss_positions) for sequence in sequences), groups)
        state.finish_step(groups, row["pass_rate"])
        self.seconds["train_s"] = time.monotonic() - begin_s
        return (
            row | _as_row(statistics) | {"groups_dropped": dropped, "num_micro_batches": len(micro_batches)}
        )

    def _count_compute(self, num_trained: int, groups: list[Group]) -> None:
        """6 N FLOPs a token trained (forward and backward), 2 N a token generated; N parameters, active ones
        of experts."""
        num_generated = sum(len(rollout.completion_token_ids) for group in groups for rollout in group)
        self.state.tokens += num_trained
        self.state.flops += self.engine.num_active_parameters * (6.0 * num_trained + 2.0 * num_generated)

    def _publish(self) -> None:
        begin_s = time.monotonic()
        if self.state.is_generation_policy:
            self.publisher.publish_policy(self.state)
        if self.state.step % self.config.evaluation.every_steps == 0:
            self.publisher.request_evaluation(self.state)
        self.seconds["publish_s"] = time.monotonic() - begin_s

    def _post(self, row: dict[str, Any]) -> None:
        """Before the checkpoint, or a crash in between would lose the row: checkpoint_s is of the checkpoint
        before this step."""
        check_attempt(self.paths, self.attempt)
        if self.rank == 0:
            state = self.state
            totals = {"epoch": state.epoch, "tokens": state.tokens, "flops": state.flops}
            totals["prompts_dropped_total"] = state.stream.num_dropped
            head = {
                "step": state.step,
                "policy_version": state.step,
                "time_s": time.time(),
            }
            head["attempt"] = self.attempt
            values = head | row | totals | self.seconds
            post_row(self.paths, StepRow.from_json(values, "the row of a step"))
        self.seconds = dict.fromkeys(self.seconds, 0.0)

    def _check_finite(self) -> None:
        if self.state.num_skipped >= MAX_SKIPPED_STEPS:
            raise FloatingPointError(
                f"loss or gradient was not finite in {MAX_SKIPPED_STEPS} steps in a row, up to step {self.state.step}: lower "
                f"optimizer.learning_rate, or continue from an earlier checkpoint with other settings in a new --dir"
            )

    def _checkpoint(self) -> None:
        """Save this moment, unless that was done; then delete what no kept checkpoint needs."""
        if self.saved_step == self.state.step:
            return
        begin_s = time.monotonic()
        save_checkpoint(
            self.paths,
            self.engine,
            config=self.config,
            training_state=self.state.to_json(),
            write_model=self.publisher.write_model,
            attempt=self.attempt,
        )
        self.saved_step = self.state.step
        if self.rank == 0:
            oldest_group = collect_old_checkpoints(self.paths, self.config.checkpoint.keep)
            # generators start what the manifest admits and the spool lacks: its window must stay
            Spool(self.paths.spool).collect_garbage(min(oldest_group, self.publisher.admitted_from))
        self.seconds["checkpoint_s"] = time.monotonic() - begin_s


def _as_row(statistics: StepStatistics | None) -> dict[str, Any]:
    """The fields of a step row; null where there was nothing to train or the number is not finite."""
    values = asdict(statistics) if statistics else dict.fromkeys(StepStatistics.__dataclass_fields__)
    row = {
        name: value if value is not None and math.isfinite(value) else None for name, value in values.items()
    }
    del row["applied"]
    return row | {"step_applied": statistics is not None and statistics.applied}
