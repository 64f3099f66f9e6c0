"""The rollout spool: format, atomic publication, order of cost, quarantine, garbage collection."""

from dataclasses import asdict

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import make_group, make_rollout
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.spool import shards
from scalerl.spool.schema import SCHEMA, ShardError
from scalerl.spool.shards import BUCKET_GROUPS, Spool

float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
int32 = st.integers(-(2**31), 2**31 - 1)


@st.composite
def groups(draw):
    group = draw(st.integers(0, 10**6))
    rollouts = []
    for index in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 12))
        columns = {
            "completion_token_ids": draw(st.lists(int32, min_size=size, max_size=size)),
            "logprobs": draw(st.lists(float32, min_size=size, max_size=size)),
            "loss_mask": draw(st.lists(st.booleans(), min_size=size, max_size=size)),
            "policy_versions": draw(st.lists(int32, min_size=size, max_size=size)),
            "response": draw(st.text(st.characters(codec="utf-8"), max_size=20)),
            "reward": draw(float32),
            "finished_s": draw(st.floats(allow_nan=False, allow_infinity=False)),
        }
        rollouts.append(make_rollout(group, index, **columns))
    return rollouts


@settings(max_examples=40, deadline=None)
@given(rollouts=groups())
def test_what_is_published_is_what_is_read(tmp_path_factory, rollouts):
    spool = Spool(tmp_path_factory.mktemp("spool"))
    assert spool.publish(rollouts)
    assert [asdict(rollout) for rollout in spool.read(rollouts[0].group)] == [
        asdict(rollout) for rollout in rollouts
    ]


def test_plain_pandas_reads_a_shard(tmp_path):
    spool = Spool(tmp_path)
    spool.publish(make_group(7, size=3))
    frame = pd.read_parquet(spool.path(7))
    assert list(frame.columns) == SCHEMA.names
    assert list(frame.completion) == [0, 1, 2]
    assert list(frame.logprobs[0]) == [-0.5] * 3


def test_first_writer_of_a_group_wins(tmp_path):
    spool = Spool(tmp_path)
    assert spool.publish(make_group(3, writer="first"))
    assert not spool.publish(make_group(3, writer="second"))
    assert spool.read(3)[0].writer == "first"
    assert [path.name for path in spool.path(3).parent.iterdir()] == ["000000003.parquet"]


def test_nothing_is_visible_when_the_writer_fails(tmp_path, monkeypatch):
    spool = Spool(tmp_path)

    def torn_write(path, rollouts):
        path.write_bytes(b"PAR1 half a file")
        raise OSError("disk full")

    monkeypatch.setattr(shards, "write_group", torn_write)
    with pytest.raises(OSError, match="disk full"):
        spool.publish(make_group(0))
    assert spool.present(0, 10) == set()
    assert list(spool.path(0).parent.iterdir()) == []


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ([], "no completions"),
        ([make_rollout(1, 0), make_rollout(1, 2)], "completion 1: the row says group 1, completion 2"),
        ([make_rollout(1, 0), make_rollout(1, 1, prompt_id="other")], "in a group of prompt"),
        (
            [make_rollout(1, 0, logprobs=[-1.0])],
            "3 completion tokens, but per-token columns of lengths [1, 3]",
        ),
        ([make_rollout(1, 0, num_tokens=0)], "0 completion tokens"),
    ],
)
def test_a_group_that_is_not_whole_is_refused(tmp_path, group, message):
    with pytest.raises(ShardError) as error:
        Spool(tmp_path).publish(group)
    assert message in str(error.value)


def test_present_lists_only_the_buckets_of_the_window(tmp_path, monkeypatch):
    spool = Spool(tmp_path)
    for group in (0, BUCKET_GROUPS - 1, BUCKET_GROUPS, 5 * BUCKET_GROUPS):
        spool.publish(make_group(group))
    listed = []
    real_listdir = shards.os.listdir
    monkeypatch.setattr(
        shards.os, "listdir", lambda folder: listed.append(folder.name) or real_listdir(folder)
    )
    assert spool.present(BUCKET_GROUPS - 1, BUCKET_GROUPS + 1) == {BUCKET_GROUPS - 1, BUCKET_GROUPS}
    assert listed == ["0000000", "0000001"]
    assert spool.present(4, 4) == set()


def test_foreign_files_are_quarantined_with_a_reason(tmp_path):
    spool = Spool(tmp_path)
    spool.publish(make_group(1))
    (spool.path(1).parent / "notes.txt").write_text("hello")
    (spool.path(1).parent / ".000000002.parquet.ab.tmp").write_text("being written")
    assert spool.present(0, 10) == {1}
    assert (tmp_path / "quarantine" / "notes.txt").read_text() == "hello"
    assert "not the name of a shard" in (tmp_path / "quarantine" / "notes.txt.reason.txt").read_text()
    assert (spool.path(1).parent / ".000000002.parquet.ab.tmp").exists()


def torn(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def other_schema(path):
    pq.write_table(pa.table({"group": [1]}), path)


def newer_schema(path):
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"scalerl_rollout_schema": b"2"}), path)


def other_group(path):
    path.unlink()
    spool = Spool(path.parent.parent)
    spool.publish(make_group(2))
    spool.path(2).rename(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (torn, "not a readable Parquet file"),
        (empty, "not a readable Parquet file"),
        (other_schema, "rollout schema none, this code reads 1"),
        (newer_schema, "rollout schema 2, this code reads 1"),
        (other_group, "the row says group 2"),
    ],
)
def test_a_damaged_shard_is_named_and_can_be_generated_again(tmp_path, damage, message):
    spool = Spool(tmp_path)
    spool.publish(make_group(1))
    damage(spool.path(1))
    with pytest.raises(ShardError) as error:
        spool.read(1)
    assert message in str(error.value)
    spool.quarantine(spool.path(1), str(error.value))
    assert spool.present(0, 10) == set()
    assert spool.publish(make_group(1))
    assert len(spool.read(1)) == 2


def test_two_quarantined_files_of_one_name_are_both_kept(tmp_path):
    spool = Spool(tmp_path)
    kept = set()
    for reason in ("first", "second"):
        spool.publish(make_group(1))
        kept.add(spool.quarantine(spool.path(1), reason).name)
    assert kept == {"000000001.parquet", "000000001.parquet.2"}
    assert (tmp_path / "quarantine" / "000000001.parquet.2.reason.txt").read_text() == "second\n"


def test_garbage_is_collected_only_behind_the_oldest_checkpoint(tmp_path):
    spool = Spool(tmp_path)
    for group in (0, BUCKET_GROUPS, 2 * BUCKET_GROUPS):
        spool.publish(make_group(group))
    assert spool.collect_garbage(BUCKET_GROUPS - 1) == 0
    assert spool.collect_garbage(2 * BUCKET_GROUPS - 1) == 1
    assert spool.present(0, 3 * BUCKET_GROUPS) == {BUCKET_GROUPS, 2 * BUCKET_GROUPS}
