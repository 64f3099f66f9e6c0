"""The training loop of one run, on one rank: `scalerl role trainer` (see scalerl/trainer/__init__.py).

A step goes: wait for its groups, train, publish weights and manifest, post the metrics row, checkpoint. A
crash between any two of them only repeats work: weights are named by their content, a policy is evaluated
once, and the row of a step that is done again replaces the one before.
"""

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
from scalerl.spool.plateau import decide_plateau, watches_plateaus
from scalerl.spool.schema import Group
from scalerl.spool.shards import Spool
from scalerl.spool.verdicts import verdict_statistics
from scalerl.tasks.registry import TASKS
from scalerl.trainer.batch import BatchReader
from scalerl.trainer.checkpoint import SavedState, collect_old_checkpoints, find_checkpoint, save_checkpoint
from scalerl.trainer.engine import StepStatistics, TrainingEngine, init_distributed
from scalerl.trainer.objective import batch_statistics, training_sequences
from scalerl.trainer.packing import MicroBatch, TrainingSequence, pack
from scalerl.trainer.publisher import Publisher
from scalerl.trainer.state import TrainingState

MAX_SKIPPED_STEPS = 3
"""Steps in a row that may be skipped for a loss or gradient that is not finite."""


class Trainer:
    """One rank. All ranks do the same; rank 0 also writes to the run folder."""

    def __init__(self, run_dir: Path, *, rank: int, attempt: int) -> None:
        """Join the other ranks, and continue from the newest checkpoint if there is one.

        Raises:
            ValueError: the checkpoint is of another config, every checkpoint is damaged, or a constant of the
                model differs from a plain load.
        """
        self.paths, self.rank, self.attempt = RunPaths(run_dir), rank, attempt
        self.config = config = read_config(self.paths)
        self.control = control = init_distributed(config.launch.distributed_timeout_s)
        problems = load_problems(Path(config.data.train))
        self.questions = {problem.prompt_id: problem.prompt for problem in problems}
        code_ids = {problem.prompt_id for problem in problems if TASKS[problem.task].fraction_key}
        self.state = TrainingState.begin(config, [problem.prompt_id for problem in problems], code_ids)
        saved = self._newest_checkpoint(control)
        model = saved.model if saved else config.model.path
        self.engine = TrainingEngine(config, model, control)
        # The engine was built from the model in the checkpoint; exact fp32 weights and moments come on top.
        if saved:
            self.state.restore(saved.training_state)
            saved.restore(self.engine)
        self.saved_step = self.state.step if saved else -1
        self.publisher = Publisher(self.paths, self.engine, model, attempt)
        self.stop = StopSignal()
        self.stop.loop_started = True
        self.reader = self._batch_reader(control)
        self.seconds = dict.fromkeys(("wait_s", "read_s", "train_s", "publish_s", "checkpoint_s"), 0.0)

    def _newest_checkpoint(self, control: dist.ProcessGroup) -> SavedState | None:
        """Return the checkpoint to continue from, the same on every rank: rank 0 chooses."""
        box = [find_checkpoint(self.paths) if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0, group=control)
        if box[0] is None:
            return None
        saved = SavedState(self.paths, box[0], rank=self.rank, world_size=dist.get_world_size())
        saved.check(self.config)
        if self.rank == 0:
            print(f"continuing from the checkpoint of step {box[0]}", flush=True)
        return saved

    def _batch_reader(self, control: dist.ProcessGroup) -> BatchReader:
        return BatchReader(
            self.paths,
            self.config,
            vocabulary_size=self.engine.model.get_input_embeddings().num_embeddings,
            control=control,
            stopped=lambda: self.stop.requested or asked_to_stop(self.paths, self.attempt),
        )

    def run(self) -> bool:
        """Train to the end of the run, and say whether SIGTERM was the end.

        Training ends at budget.max_steps, when no prompt is left, or when the stop file or SIGTERM comes.
        Then the last policy is saved and its evaluation requested, and end.json says how it ended.

        Raises:
            TimeoutError: the generators did not deliver.
            StaleAttempt: another attempt took the run folder over.
            FloatingPointError: loss or gradient was not finite in MAX_SKIPPED_STEPS steps in a row.
        """
        # After a restart, too: generators must hear which groups the checkpoint needs, and drop what they run
        # if they serve a later policy.
        self.publisher.publish_policy(self.state)
        # Version 0 is evaluated before any update: that is R0 of the curve.
        if self.state.step == 0:
            self.publisher.request_evaluation(self.state)
        while not self._finished() and (groups := self._next_groups()) is not None:
            self._step(groups)
        self._checkpoint()
        self.publisher.request_evaluation(self.state)
        # No rank may still be at work on the last checkpoint when end.json says that the run is over.
        self.engine.barrier()
        self._say_end()
        return self.stop.requested

    def _finished(self) -> bool:
        max_steps = self.config.budget.max_steps
        return self.state.exhausted or (max_steps is not None and self.state.step >= max_steps)

    def _step(self, groups: list[Group]) -> None:
        """Do one optimizer step and everything that follows from it."""
        row = self._train(groups)
        self._publish()
        # Before the checkpoint: after a crash in between, the replay would begin behind this row and lose it.
        self._post(row)
        self._check_finite()
        if self.state.step % self.config.checkpoint.every_steps == 0:
            self._checkpoint()

    def _say_end(self) -> None:
        """Write end.json: no exit code is enough, for srun may return 0 for a step it lost with its node."""
        if self.rank == 0 and not self.stop.requested:
            check_attempt(self.paths, self.attempt)
            state = self.state
            write_end(
                self.paths,
                TrainerEnd(attempt=self.attempt, step=state.step, exhausted=state.exhausted),
            )

    def _next_groups(self) -> list[Group] | None:
        """Return the groups of the next step, or None when the run is to stop."""
        begin_s = time.monotonic()
        groups = self.reader.next(self.state)
        self.seconds["read_s"] = self.reader.read_s
        self.seconds["wait_s"] = time.monotonic() - begin_s - self.reader.read_s
        return groups

    def _train(self, groups: list[Group]) -> dict[str, Any]:
        """Train on the groups, unless none of them has a loss, and return the row of the step.

        The policy version advances either way.
        """
        begin_s = time.monotonic()
        state = self.state
        row = batch_statistics(groups, state.step) | {"learning_rate": state.learning_rate}
        row |= verdict_statistics(groups, self.questions, self.config.length.think_end)
        sequences, dropped = training_sequences(groups, self.config.algo)
        micro_batches = self._pack(sequences) if sequences else []
        statistics = None
        if micro_batches:
            statistics = self.engine.train(micro_batches, state.learning_rate)
            state.num_skipped = 0 if statistics.applied else state.num_skipped + 1
        self._count_compute(sum(len(sequence.loss_positions) for sequence in sequences), groups)
        state.finish_step(groups, plateau=self._on_plateau())
        self.seconds["train_s"] = time.monotonic() - begin_s
        counts = {"groups_dropped": dropped, "num_micro_batches": len(micro_batches)}
        return row | _as_row(statistics) | counts

    def _on_plateau(self) -> bool:
        """Say whether the held-out pass rate has stopped rising at the end of this step; rank 0 decides."""
        step = self.state.step + 1
        if not watches_plateaus(self.config) or step % self.config.evaluation.every_steps:
            return False
        check_attempt(self.paths, self.attempt)
        decision = [False]
        if self.rank == 0:
            decision = [decide_plateau(self.paths, self.config, step, self.state.plateau_step)]
            if decision[0]:
                print(f"step {step}: the held-out pass rate is on a plateau, see {self.paths.plateaus}")
        dist.broadcast_object_list(decision, src=0, group=self.control)
        return decision[0]

    def _pack(self, sequences: list[TrainingSequence]) -> list[MicroBatch]:
        return pack(
            sequences,
            budget_tokens=self.config.trainer.micro_batch_tokens,
            layout=self.engine.layout,
            rank=self.rank,
            world_size=self.engine.world_size,
        )

    def _count_compute(self, num_trained: int, groups: list[Group]) -> None:
        """Add the tokens and FLOPs of a step to the totals.

        A token trained counts 6 N FLOPs, forward and backward, a token generated 2 N; N are the parameters
        that compute one token.
        """
        # Forced tokens count as generated, for the model computes them, too; so do groups without a loss.
        num_generated = sum(len(rollout.completion_token_ids) for group in groups for rollout in group)
        self.state.generated_tokens += num_generated
        self.state.trained_tokens += num_trained
        self.state.flops += self.engine.num_active_parameters * (6.0 * num_trained + 2.0 * num_generated)

    def _publish(self) -> None:
        """Publish the policy of this moment where generators or evaluators need it."""
        begin_s = time.monotonic()
        if self.state.is_generation_policy:
            self.publisher.publish_policy(self.state)
        if self.state.step % self.config.evaluation.every_steps == 0:
            self.publisher.request_evaluation(self.state)
        self.seconds["publish_s"] = time.monotonic() - begin_s

    def _post(self, row: dict[str, Any]) -> None:
        """Hand the row of the step to the supervisor; checkpoint_s is of the checkpoint before this step."""
        check_attempt(self.paths, self.attempt)
        if self.rank == 0:
            state = self.state
            head = {"step": state.step, "policy_version": state.step, "attempt": self.attempt}
            totals = {
                "epoch": state.epoch,
                "generated_tokens": state.generated_tokens,
                "trained_tokens": state.trained_tokens,
                "flops": state.flops,
                "prompts_dropped_total": state.stream.num_dropped,
            }
            values = head | {"time_s": time.time()} | row | totals | self.seconds
            post_row(self.paths, StepRow.from_json(values, "the row of a step"))
        self.seconds = dict.fromkeys(self.seconds, 0.0)

    def _check_finite(self) -> None:
        # One step that is not finite is left out and reported in its row; several in a row are divergence.
        if self.state.num_skipped >= MAX_SKIPPED_STEPS:
            raise FloatingPointError(
                f"loss or gradient was not finite in {MAX_SKIPPED_STEPS} steps in a row, "
                f"up to step {self.state.step}: lower optimizer.learning_rate, or continue from an earlier "
                f"checkpoint with other settings in a new --dir"
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
            # Generators start what the manifest admits and the spool lacks, so its window must stay: deleted
            # groups would be generated a second time.
            Spool(self.paths.spool).collect_garbage(min(oldest_group, self.publisher.admitted_from))
        self.seconds["checkpoint_s"] = time.monotonic() - begin_s


def _as_row(statistics: StepStatistics | None) -> dict[str, Any]:
    """Return the fields of a step row; None where nothing was trained or the number is not finite."""
    # JSON has no NaN: a number that is not finite becomes null, and step_applied says why.
    values = asdict(statistics) if statistics else dict.fromkeys(StepStatistics.__dataclass_fields__)
    row = {
        name: value if value is not None and math.isfinite(value) else None for name, value in values.items()
    }
    del row["applied"]
    return row | {"step_applied": statistics is not None and statistics.applied}
