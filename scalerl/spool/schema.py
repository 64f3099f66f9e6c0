"""The rollout record: one row a completion, one Parquet file (a shard) a finished prompt group.

`Rollout` is the schema: the annotation of a field is its column type, the text below it says unit and
meaning. Shards are plain Parquet, so pandas reads a bucket of them as one table:

    pd.read_parquet("runs/x/spool/0000000")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 1
"""Raised with every change of the columns; a shard of another version is refused."""
_VERSION_KEY = b"scalerl_rollout_schema"

Int32 = Annotated[int, pa.int32()]
Int64 = Annotated[int, pa.int64()]
Float32 = Annotated[float, pa.float32()]
Float64 = Annotated[float, pa.float64()]
Bool = Annotated[bool, pa.bool_()]
String = Annotated[str, pa.string()]
Int32List = Annotated[Sequence[int], pa.list_(pa.int32())]
Float32List = Annotated[Sequence[float], pa.list_(pa.float32())]
BoolList = Annotated[Sequence[bool], pa.list_(pa.bool_())]


class ShardError(ValueError):
    """A file in the spool that is not a whole, valid shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One completion of one prompt. P prompt tokens, T completion tokens."""

    group: Int64
    """Index of the prompt group, counted over the whole run: optimizer steps train groups in this order."""
    completion: Int32
    """Index of the completion in its group, from 0."""
    prompt_id: String
    """Id of the prompt in the prepared data."""
    task: String
    """Task of the prompt in the prepared data, such as "math" or "code"."""
    prompt_token_ids: Int32List
    """[P] token ids, chat template included."""
    completion_token_ids: Int32List
    """[T] token ids, a forced interruption and the end-of-sequence token included."""
    logprobs: Float32List
    """[T] natural logarithms of the probabilities the generator sampled with; 0 where forced."""
    loss_mask: BoolList
    """[T] true where the token was sampled, false where it was forced and has no loss."""
    policy_versions: Int32List
    """[T] version of the policy that produced each token, that is, the optimizer steps it had seen."""
    response: String
    """Completion as text, without the end-of-sequence token."""
    reward: Float32
    """Reward the trainer sees, from -1 to 1, length penalty included."""
    correct: Bool
    """Judgement of the verifier."""
    verdict: String
    """Reason of that judgement (`scalerl.tasks.task.Verdict`): "equal", "timeout", "wrong_output", ..."""
    finish_reason: String
    """Why sampling ended: "stop" at an end-of-sequence token, "length" at the token limit."""
    truncated: Bool
    """True if the completion ran out of tokens."""
    interrupted: Bool
    """True if its thinking was cut short by force."""
    started_s: Float64
    """Unix time at which the completion was submitted, in seconds."""
    finished_s: Float64
    """Unix time of its last token, in seconds."""
    writer: String
    """Generator that wrote the shard, such as "generator-0"."""
    attempt: Int32
    """Attempt of the run that generator belonged to."""


Group = Sequence[Rollout]
"""All completions of one prompt group, in order."""

# The columns stand in the order of the fields above, which is part of the schema.
SCHEMA = pa.schema(
    [(name, hint.__metadata__[0]) for name, hint in get_type_hints(Rollout, include_extras=True).items()],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


def check_group(rollouts: Group, group: int) -> None:
    """Check that `rollouts` are all of group `group`, in order, with per-token columns of equal length.

    Raises:
        ShardError: they are not; names the completion and what is wrong with it.
    """
    if not rollouts:
        raise ShardError(f"group {group} has no completions")
    # The file name says which group this is; rows that say otherwise are of another file, mixed up with it.
    for index, rollout in enumerate(rollouts):
        where = f"group {group}, completion {index}"
        if (rollout.group, rollout.completion) != (group, index):
            raise ShardError(f"{where}: the row says group {rollout.group}, completion {rollout.completion}")
        if rollout.prompt_id != rollouts[0].prompt_id:
            raise ShardError(
                f"{where}: prompt {rollout.prompt_id} in a group of prompt {rollouts[0].prompt_id}"
            )
        num_tokens = len(rollout.completion_token_ids)
        lengths = {len(rollout.logprobs), len(rollout.loss_mask), len(rollout.policy_versions)}
        if lengths != {num_tokens} or num_tokens == 0 or len(rollout.prompt_token_ids) == 0:
            raise ShardError(
                f"{where}: {num_tokens} completion tokens, but per-token columns of lengths {sorted(lengths)}"
            )


def write_group(path: Path, rollouts: Group) -> None:
    """Write one group as a Parquet file; `Spool.publish` makes it appear whole."""
    columns = {name: [getattr(rollout, name) for rollout in rollouts] for name in SCHEMA.names}
    pq.write_table(pa.table(columns, schema=SCHEMA), path, compression="zstd")


def read_group(path: Path, group: int, *, as_arrays: bool = False) -> list[Rollout]:
    """Read and check the shard of group `group`.

    as_arrays: make the per-token columns NumPy arrays instead of lists, which is far faster for long
    completions.

    Raises:
        ShardError: torn file, other schema version, missing values, or rows that are not one whole group.
        FileNotFoundError: there is no such shard.
    """
    table = _read_table(path)
    columns = {name: _values(name, table[name].combine_chunks(), as_arrays) for name in SCHEMA.names}
    rows = zip(*columns.values(), strict=True)
    rollouts = [Rollout(**dict(zip(columns, row, strict=True))) for row in rows]
    check_group(rollouts, group)
    return rollouts


def _read_table(path: Path) -> pa.Table:
    """Read a Parquet file and refuse it unless it has the columns of this schema version."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise ShardError(f"not a readable Parquet file: {error}") from None
    # First the version, then the columns: a shard of other code is refused with the reason that helps.
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ShardError(f"rollout schema {version}, this code reads {SCHEMA_VERSION}")
    if not table.schema.equals(SCHEMA):
        raise ShardError(f"columns differ from rollout schema {SCHEMA_VERSION}: {table.schema.names}")
    return table


def _values(name: str, column: pa.Array, as_arrays: bool) -> Sequence[Any]:
    """Return the values of one column, one a row."""
    is_list = pa.types.is_list(column.type)
    if column.null_count or (is_list and column.flatten().null_count):
        raise ShardError(f"column {name} has missing values")
    if not (is_list and as_arrays):
        return column.to_pylist()
    # One array holds the tokens of all rows: cut it at the offsets, counted from the first row of this
    # column.
    begins = column.offsets.to_numpy() - column.offsets[0].as_py()
    return np.split(column.flatten().to_numpy(zero_copy_only=False), begins[1:-1])
