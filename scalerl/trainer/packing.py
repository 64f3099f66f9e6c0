"""Packs sequences of unequal length into micro-batches [rows, row_length] by a token budget, equally many on
every rank."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

DUMMY_TOKENS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSequence:
    """Prompt and completion of one rollout. N tokens, T loss tokens."""

    tokens: np.ndarray
    """[N] ids."""
    loss_positions: np.ndarray
    """[T] indices into `tokens` of those that were sampled, not forced; at least 1, since the first token has
    no predictor."""
    generator_logprobs: np.ndarray
    """[T]"""
    advantage: float
    weight: float
    """Of each loss token."""

    @property
    def num_inputs(self) -> int:
        """The last token is predicted, but predicts nothing."""
        return len(self.tokens) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """What one rank passes through the model at once: R rows of length L, T loss tokens.

    position_ids restart at 0 with every sequence (and with the padding), which makes attention
    block-diagonal.
    """

    input_ids: Tensor
    """[R, L] int64"""
    position_ids: Tensor
    """[R, L] int64"""
    predictors: Tensor
    """[T] int64, indices into the flattened [R * L] of the positions that predict the loss tokens."""
    targets: Tensor
    """[T] int64, the loss tokens."""
    generator_logprobs: Tensor
    """[T] float32"""
    advantages: Tensor
    """[T] float32"""
    weights: Tensor
    """[T] float32, 0 for a dummy."""
    sequence_ids: Tensor
    """[T] int64, numbering the sequences of this micro-batch."""

    def to(self, device: torch.device) -> "MicroBatch":
        return MicroBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


Row = list[TrainingSequence]


def pack_rows(sequences: Sequence[TrainingSequence], row_length: int) -> list[Row]:
    """First-fit-decreasing: the sequences in rows of at most `row_length` inputs, the fullest rows first."""
    rows: list[Row] = []
    free: list[int] = []
    for sequence in sorted(sequences, key=lambda sequence: sequence.num_inputs, reverse=True):
        assert sequence.num_inputs <= row_length
        row = next((index for index, space in enumerate(free) if space >= sequence.num_inputs), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(row_length)
        rows[row].append(sequence)
        free[row] -= sequence.num_inputs
    return sorted(rows, key=_fill, reverse=True)


def _fill(row: Row) -> int:
    return sum(sequence.num_inputs for sequence in row)


def schedule(rows: Sequence[Row], rows_per_micro_batch: int, rank: int, world_size: int) -> list[list[Row]]:
    """The rows of every micro-batch of one rank. Ranks have equally many micro-batches, of equally many rows
    up to one.

    Neighbours in `rows` go to the same micro-batch of different ranks, so that the ranks take equally long.
    With fewer rows than ranks some micro-batches are empty.
    """
    num_micro_batches = math.ceil(len(rows) / (rows_per_micro_batch * world_size))
    bounds = [len(rows) * index // num_micro_batches for index in range(num_micro_batches + 1)]
    return [list(rows[begin:end][rank::world_size]) for begin, end in itertools.pairwise(bounds)]


def pack(
    sequences: Sequence[TrainingSequence], *, budget_tokens: int, one_row: bool, rank: int, world_size: int
) -> list[MicroBatch]:
    """The micro-batches of one rank for a whole optimizer step.

    sequences: of the whole step, the same on every rank; at least one. budget_tokens: size of a micro-batch,
    padding included.
    one_row: a micro-batch is one long row, which suits attention that skips what the blocks mask out.
    Otherwise rows are as long as the longest sequence: ordinary attention costs the square of a row.
    """
    longest = max(sequence.num_inputs for sequence in sequences)
    row_length = budget_tokens if one_row else longest
    rows = pack_rows(sequences, row_length)
    return [micro_batch(share) for share in schedule(rows, budget_tokens // row_length, rank, world_size)]


def micro_batch(rows: Sequence[Row]) -> MicroBatch:
    """The tensors of one micro-batch; without rows, a dummy that has a zero gradient but takes part in the
    collectives."""
    rows = rows or [[_dummy()]]
    row_length = max(_fill(row) for row in rows)
    input_ids = np.zeros((len(rows), row_length), dtype=np.int64)
    position_ids = np.zeros((len(rows), row_length), dtype=np.int64)
    predictors = []
    for index, row in enumerate(rows):
        begin = 0
        for sequence in row:
            end = begin + sequence.num_inputs
            input_ids[index, begin:end] = sequence.tokens[:-1]
            position_ids[index, begin:end] = np.arange(end - begin)
            predictors.append(index * row_length + begin + sequence.loss_positions - 1)
            begin = end
        position_ids[index, begin:] = np.arange(row_length - begin)
    sequences = [sequence for row in rows for sequence in row]
    lengths = [len(sequence.loss_positions) for sequence in sequences]
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        predictors=torch.from_numpy(np.concatenate(predictors)),
        targets=_join([sequence.tokens[sequence.loss_positions] for sequence in sequences], torch.int64),
        generator_logprobs=_join([sequence.generator_logprobs for sequence in sequences], torch.float32),
        advantages=_repeat([sequence.advantage for sequence in sequences], lengths),
        weights=_repeat([sequence.weight for sequence in sequences], lengths),
        sequence_ids=torch.from_numpy(np.repeat(np.arange(len(sequences)), lengths)),
    )


def _join(parts: list[np.ndarray], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(dtype)


def _repeat(values: list[float], lengths: list[int]) -> Tensor:
    return torch.from_numpy(np.repeat(np.array(values, dtype=np.float32), lengths))


def _dummy() -> TrainingSequence:
    return TrainingSequence(
        tokens=np.zeros(DUMMY_TOKENS, dtype=np.int64),
        loss_positions=np.array([DUMMY_TOKENS - 1]),
        generator_logprobs=np.zeros(1, dtype=np.float32),
        advantage=0.0,
        weight=0.0,
    )
