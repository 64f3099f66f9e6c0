"""The trainer's exam: publish the base model, score the generator's sequences, and try one optimizer step."""

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from scalerl.config import RunConfig
from scalerl.exams.handover import publish_base, wait_for_sequences
from scalerl.paths import RunPaths
from scalerl.preflight.exam import ScoredSequence, write_exam, write_figures
from scalerl.run_folder import read_config
from scalerl.trainer.engine import TrainingEngine, init_distributed
from scalerl.trainer.packing import Row, TrainingSequence, micro_batch, plan, schedule


def run_trainer_exam(run_dir: Path, *, rank: int, attempt: int) -> None:
    """Examine one rank of the trainer; rank 0 writes its paths and figures.

    Raises:
        ValueError: the trainer cannot train this model as it is (see `TrainingEngine`).
        TimeoutError: the generator's exam made no sequences.
    """
    paths = RunPaths(run_dir)
    config = read_config(paths)
    control = init_distributed(config.launch.distributed_timeout_s)
    engine = TrainingEngine(config, config.model.path, control)
    publish_base(config, paths, engine, attempt)
    exam = TrainerExam(config, engine, control, wait_for_sequences(config, paths))
    alone, packed, figures = exam.alone(), exam.packed(), exam.try_step()
    if rank == 0:
        write_exam(paths, "trainer_alone", alone)
        write_exam(paths, "trainer_packed", packed)
        write_figures(paths, "trainer", figures)
    engine.barrier()


class TrainerExam:
    """One rank of an engine that scores the sequences of an exam. Every method is a collective."""

    def __init__(
        self,
        config: RunConfig,
        engine: TrainingEngine,
        control: dist.ProcessGroup,
        sequences: Sequence[ScoredSequence],
    ) -> None:
        """Prepare to score every token of `sequences` but the first."""
        self._config, self._engine, self._control = config, engine, control
        num_losses = sum(len(sequence.token_ids) - 1 for sequence in sequences)
        self._sequences = {
            sequence.sequence: TrainingSequence(
                tokens=np.array(sequence.token_ids),
                loss_positions=np.arange(1, len(sequence.token_ids)),
                generator_logprobs=np.zeros(len(sequence.token_ids) - 1, dtype=np.float32),
                advantage=1.0,
                weight=1.0 / num_losses,
            )
            for sequence in sequences
        }

    def alone(self) -> list[ScoredSequence]:
        """Return the log-probabilities with each sequence alone in a micro-batch; empty but on rank 0."""
        rows = [[sequence] for sequence in self._sequences.values()]
        return self._scored(schedule(rows, 1, self._engine.rank, self._engine.world_size))

    def packed(self) -> list[ScoredSequence]:
        """Return the log-probabilities in the micro-batches of a run; empty but on rank 0."""
        return self._scored(self._plan())

    def try_step(self) -> dict[str, Any]:
        """Do a step at a learning rate of 0, and return the figures of this rank."""
        begin_s = time.monotonic()
        statistics = self._engine.train([micro_batch(rows) for rows in self._plan()], learning_rate=0.0)
        seconds = time.monotonic() - begin_s
        num_tokens = sum(len(sequence.tokens) for sequence in self._sequences.values())
        return {
            "tokens_per_s": num_tokens / seconds,
            "layout": self._engine.layout,
            "attention": self._engine.model.config._attn_implementation,
            "entropy": statistics.entropy,
            "grad_norm": statistics.grad_norm,
            "step_applied": statistics.applied,
            "peak_memory_gb": _peak_memory_gb(),
        }

    def _plan(self) -> list[list[Row]]:
        return plan(
            list(self._sequences.values()),
            budget_tokens=self._config.trainer.micro_batch_tokens,
            layout=self._engine.layout,
            rank=self._engine.rank,
            world_size=self._engine.world_size,
        )

    def _scored(self, shares: Sequence[list[Row]]) -> list[ScoredSequence]:
        """Score the rows of every micro-batch of this rank; return all ranks' sequences, on rank 0."""
        names = {id(sequence): name for name, sequence in self._sequences.items()}
        found = self._engine.logprobs([micro_batch(rows) for rows in shares])
        scored: list[ScoredSequence] = []
        for rows, logprobs in zip(shares, found, strict=True):
            sequences = [sequence for row in rows for sequence in row]
            lengths = [sequence.num_inputs for sequence in sequences]
            # A rank without rows has scored a dummy, which is no sequence of the exam.
            parts = logprobs.split(lengths) if sequences else ()
            scored += [
                ScoredSequence(
                    sequence=names[id(sequence)],
                    token_ids=sequence.tokens.tolist(),
                    scored_from=1,
                    logprobs=part.tolist(),
                )
                for sequence, part in zip(sequences, parts, strict=True)
            ]
        ranks: list[list[ScoredSequence]] = [[] for _ in range(self._engine.world_size)]
        dist.all_gather_object(ranks, scored, group=self._control)
        return [sequence for rank in ranks for sequence in rank] if self._engine.rank == 0 else []


def _peak_memory_gb() -> float:
    """Return the peak of the device's memory, or of the process's where it runs on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
