"""The rollout record and its Parquet schema: one row a completion, one shard a finished prompt group.

| column | type | meaning |
|---|---|---|
| group | int64 | index of the prompt group, global over the run: step t trains groups in this order |
| completion | int32 | index of the completion in its group |
| prompt_id, task | string | as in the prepared data |
| prompt_token_ids | list<int32> | [prompt tokens] |
| completion_token_ids | list<int32> | [completion tokens], forced interruption included |
| logprobs | list<float32> | [completion tokens], natural log, of the distribution the generator sampled from; 0 where forced |
| loss_mask | list<bool> | [completion tokens], false where the token was forced |
| policy_versions | list<int32> | [completion tokens], the policy that produced each token |
| response | string | decoded completion |
| reward | float32 | what the trainer sees |
| correct | bool | the verifier's verdict |
| verdict | string | why: the reason of scalerl.verify.answers.Verdict, such as "equal", "timeout", "wrong_output" |
| finish_reason | string | "stop" or "length" |
| truncated, interrupted | bool | the completion ran out of tokens; its thinking was cut short by force |
| started_s, finished_s | float64 | unix time of admission and of the last token |
| writer | string | the generator that wrote the shard |
| attempt | int32 | the attempt of the run it belonged to |
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 1
_VERSION_KEY = b"scalerl_rollout_schema"

SCHEMA = pa.schema(
    [
        ("group", pa.int64()),
        ("completion", pa.int32()),
        ("prompt_id", pa.string()),
        ("task", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("completion_token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("loss_mask", pa.list_(pa.bool_())),
        ("policy_versions", pa.list_(pa.int32())),
        ("response", pa.string()),
        ("reward", pa.float32()),
        ("correct", pa.bool_()),
        ("verdict", pa.string()),
        ("finish_reason", pa.string()),
        ("truncated", pa.bool_()),
        ("interrupted", pa.bool_()),
        ("started_s", pa.float64()),
        ("finished_s", pa.float64()),
        ("writer", pa.string()),
        ("attempt", pa.int32()),
    ],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


class ShardError(ValueError):
    """A file in the spool is not a whole, valid shard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One completion; see the table above for lengths and units."""

    group: int
    completion: int
    prompt_id: str
    task: str
    prompt_token_ids: Sequence[int]
    completion_token_ids: Sequence[int]
    logprobs: Sequence[float]
    loss_mask: Sequence[bool]
    policy_versions: Sequence[int]
    response: str
    reward: float
    correct: bool
    verdict: str
    finish_reason: str
    truncated: bool
    interrupted: bool
    started_s: float
    finished_s: float
    writer: str
    attempt: int


def check_group(rollouts: Sequence[Rollout], group: int) -> None:
    """Check that `rollouts` are one whole group.

    Raises:
        ShardError: wrong group, wrong order, or columns of unequal length, naming the completion.
    """
    if not rollouts:
        raise ShardError(f"group {group} has no completions")
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


def write_group(path: Path, rollouts: Sequence[Rollout]) -> None:
    """Write one group as a Parquet file (not atomically: see Spool.publish)."""
    columns = {name: [getattr(rollout, name) for rollout in rollouts] for name in SCHEMA.names}
    table = pa.table(columns, schema=SCHEMA)
    pq.write_table(table, path, compression="zstd")


def read_group(path: Path, group: int, *, as_arrays: bool = False) -> list[Rollout]:
    """Read one shard.

    as_arrays: per-token columns become NumPy arrays instead of lists; far faster for long completions.

    Raises:
        ShardError: torn file, other schema version, missing values, or rows that are not one whole group.
        FileNotFoundError: there is no such shard.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ShardError(f"not a readable Parquet file: {error}") from None
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ShardError(f"rollout schema {version}, this code reads {SCHEMA_VERSION}")
    if not table.schema.equals(SCHEMA):
        raise ShardError(f"columns differ from rollout schema {SCHEMA_VERSION}: {table.schema.names}")
    columns = {name: _values(name, table[name].combine_chunks(), as_arrays) for name in SCHEMA.names}
    rollouts = [
        Rollout(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)
    ]
    check_group(rollouts, group)
    return rollouts


def _values(name: str, column: pa.Array, as_arrays: bool) -> Sequence[Any]:
    """The values of one column, one a row."""
    is_list = pa.types.is_list(column.type)
    if column.null_count or (is_list and column.flatten().null_count):
        raise ShardError(f"column {name} has missing values")
    if not (is_list and as_arrays):
        return column.to_pylist()
    begins = column.offsets.to_numpy() - column.offsets[0].as_py()
    return np.split(column.flatten().to_numpy(zero_copy_only=False), begins[1:-1])
