"""Pack sequences of unequal length into micro-batches [rows, row_length] by a budget of tokens.

Every rank must have the same number of micro-batches: under ZeRO-3 each forward and backward pass is a
collective, and a rank without a partner waits for ever. All ranks therefore compute the same rows from the
same sequences, and each takes its share.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

DUMMY_TOKENS = 4
"""Length of the sequence that a rank without work passes through the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSequence:
    """Prompt and completion of one rollout, with N tokens, T of them with a loss."""

    tokens: np.ndarray
    """[N] token ids."""
    loss_positions: np.ndarray
    """[T] indices into `tokens` of the loss tokens, sampled and not forced; at least 1: nothing predicts the
    first.
    """
    generator_logprobs: np.ndarray
    """[T] log-probabilities that the generator reported, in nats."""
    advantage: float
    """Advantage of the completion, common to its tokens."""
    weight: float
    """Weight of each loss token; it holds the denominators (`algo.aggregation`)."""

    @property
    def num_inputs(self) -> int:
        """Return N - 1: the last token is predicted, but predicts nothing."""
        return len(self.tokens) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """What one rank passes through the model at once: R rows of length L, T loss tokens."""

    input_ids: Tensor
    """[R, L] int64, token ids; 0 in the padding."""
    position_ids: Tensor
    """[R, L] int64, from 0 again at each sequence and at the padding, which keeps their attention apart."""
    predictors: Tensor
    """[T] int64, indices into the flattened [R * L] of the positions that predict the loss tokens."""
    targets: Tensor
    """[T] int64, the loss tokens."""
    generator_logprobs: Tensor
    """[T] float32, log-probabilities that the generator reported, in nats."""
    advantages: Tensor
    """[T] float32, of the completion of each token."""
    weights: Tensor
    """[T] float32, of each token; 0 for a dummy."""
    sequence_ids: Tensor
    """[T] int64, the number of a token's sequence in this micro-batch."""

    def to(self, device: torch.device) -> "MicroBatch":
        """Return a copy on `device`."""
        return MicroBatch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


Row = list[TrainingSequence]

Layout = Literal["one_row", "rows", "alone"]
"""How a micro-batch is laid out. one_row: as one long row, which suits attention that skips what the blocks
mask out. rows: in rows as long as the longest sequence, for ordinary attention costs the square of a row.
alone: with one sequence in a row, for models whose layers carry a state from one sequence into the next.
"""


def pack_rows(sequences: Sequence[TrainingSequence], row_length: int) -> list[Row]:
    """Return the sequences in rows of at most `row_length` inputs, the fullest rows first.

    First-fit-decreasing: the longest sequence first, each into the first row with room for it.
    """
    # Sorting is stable, and every rank has the sequences in the same order, so every rank gets the same rows.
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
    """Return the rows of every micro-batch of one rank.

    Ranks have equally many micro-batches, whose numbers of rows differ by at most one. With fewer rows than
    ranks some micro-batches are empty.
    """
    # Rows come sorted by how full they are. Neighbours go to the same micro-batch of different ranks, so that
    # the ranks, which wait for each other after every micro-batch, take equally long.
    num_micro_batches = math.ceil(len(rows) / (rows_per_micro_batch * world_size))
    bounds = [len(rows) * index // num_micro_batches for index in range(num_micro_batches + 1)]
    return [list(rows[begin:end][rank::world_size]) for begin, end in itertools.pairwise(bounds)]


def plan(
    sequences: Sequence[TrainingSequence], *, budget_tokens: int, layout: Layout, rank: int, world_size: int
) -> list[list[Row]]:
    """Return the rows of the micro-batches of one rank for a whole optimizer step.

    sequences: those of the whole step, the same on every rank; at least one.
    budget_tokens: size of a micro-batch, padding included.
    """
    longest = max(sequence.num_inputs for sequence in sequences)
    row_length = budget_tokens if layout == "one_row" else longest
    if layout == "alone":
        rows = sorted(([sequence] for sequence in sequences), key=_fill, reverse=True)
    else:
        rows = pack_rows(sequences, row_length)
    return schedule(rows, budget_tokens // row_length, rank, world_size)


def pack(
    sequences: Sequence[TrainingSequence], *, budget_tokens: int, layout: Layout, rank: int, world_size: int
) -> list[MicroBatch]:
    """Return the micro-batches of one rank for a whole optimizer step; the arguments are those of `plan`."""
    shares = plan(sequences, budget_tokens=budget_tokens, layout=layout, rank=rank, world_size=world_size)
    return [micro_batch(share) for share in shares]


def micro_batch(rows: Sequence[Row]) -> MicroBatch:
    """Return the tensors of one micro-batch.

    Without rows it is a dummy: it has a zero gradient, but takes part in the collectives.
    """
    rows = rows or [[_dummy()]]
    input_ids, position_ids, predictors = _lay_out(rows)
    sequences = [sequence for row in rows for sequence in row]
    lengths = [len(sequence.loss_positions) for sequence in sequences]
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        predictors=torch.from_numpy(predictors),
        targets=_join([sequence.tokens[sequence.loss_positions] for sequence in sequences], torch.int64),
        generator_logprobs=_join([sequence.generator_logprobs for sequence in sequences], torch.float32),
        advantages=_repeat([sequence.advantage for sequence in sequences], lengths),
        weights=_repeat([sequence.weight for sequence in sequences], lengths),
        sequence_ids=torch.from_numpy(np.repeat(np.arange(len(sequences)), lengths)),
    )


def _lay_out(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (input_ids [R, L], position_ids [R, L], predictors [T]) of `MicroBatch`."""
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
            # The token before a loss token predicts it.
            predictors.append(index * row_length + begin + sequence.loss_positions - 1)
            begin = end
        position_ids[index, begin:] = np.arange(row_length - begin)
    return input_ids, position_ids, np.concatenate(predictors)


def _join(parts: list[np.ndarray], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(dtype)


def _repeat(values: list[float], lengths: list[int]) -> Tensor:
    return torch.from_numpy(np.repeat(np.array(values, dtype=np.float32), lengths))


def _dummy() -> TrainingSequence:
    """Return a sequence with one loss token of weight 0."""
    # Its loss depends on the parameters, times 0: so there is a backward pass in which to meet the others.
    return TrainingSequence(
        tokens=np.zeros(DUMMY_TOKENS, dtype=np.int64),
        loss_positions=np.array([DUMMY_TOKENS - 1]),
        generator_logprobs=np.zeros(1, dtype=np.float32),
        advantage=0.0,
        weight=0.0,
    )
