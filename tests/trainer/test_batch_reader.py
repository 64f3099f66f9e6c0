"""Waiting for a batch on one rank, in this process; refused shards and missing ones are in
test_training_run.py."""

import threading
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_generator import VOCABULARY, make_group
from torch import distributed as dist

from scalerl.paths import RunPaths
from scalerl.settings import build_config
from scalerl.spool.schema import SCHEMA, ShardError
from scalerl.spool.shards import Spool
from scalerl.trainer import batch
from scalerl.trainer.batch import BatchReader
from scalerl.trainer.state import TrainingState


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield dist.new_group(backend="gloo")
    dist.destroy_process_group()


@pytest.fixture
def run(tmp_path, control):
    paths = RunPaths(tmp_path)
    paths.create()
    config = build_config(
        {"budget.max_steps": 1, "batch.prompts": 3, "batch.generations_per_prompt": 2, "off_policy.k": 1}
    )
    reader = BatchReader(
        paths, config, vocabulary_size=VOCABULARY, control=control, stopped=paths.stop.exists
    )
    return paths, TrainingState.begin(config, [f"prompt-{number}" for number in range(9)]), reader


def publish(paths, state, group):
    Spool(paths.spool).publish(make_group(group, state.admitted[group], 0, 2))


def test_groups_come_in_order_whatever_the_order_of_arrival(run):
    paths, state, reader = run
    for group in (4, 2, 0, 1):  # 4 belongs to the next step
        publish(paths, state, group)
    groups = reader.next(state)
    assert [group[0].group for group in groups] == [0, 1, 2]
    assert [rollout.completion for rollout in groups[1]] == [0, 1]


def test_arrays_hold_what_was_written(run):
    paths, state, reader = run
    for group in range(3):
        publish(paths, state, group)
    (read, *_), *_ = reader.next(state)
    written = make_group(0, state.admitted[0], 0, 2)[0]
    for column in ("prompt_token_ids", "completion_token_ids", "loss_mask", "policy_versions"):
        assert getattr(read, column).tolist() == getattr(written, column)
    assert read.logprobs.tolist() == pytest.approx(written.logprobs)
    assert (read.reward, read.correct, read.prompt_id) == (written.reward, written.correct, written.prompt_id)


def test_it_waits_for_the_last_group_over_several_turns(run, monkeypatch):
    monkeypatch.setattr(batch, "TURN_S", 0.05)
    paths, state, reader = run
    publish(paths, state, 0)
    publish(paths, state, 2)
    timer = threading.Timer(0.4, publish, (paths, state, 1))
    timer.start()
    assert [group[0].group for group in reader.next(state)] == [0, 1, 2]
    timer.join()


def test_the_stop_file_ends_the_wait(run):
    paths, state, reader = run
    publish(paths, state, 0)
    timer = threading.Timer(0.2, paths.stop.touch)
    timer.start()
    assert reader.next(state) is None
    timer.join()


def test_the_stop_file_comes_before_a_batch_that_is_ready(run):
    paths, state, reader = run
    for group in range(3):
        publish(paths, state, group)
    paths.stop.touch()
    assert reader.next(state) is None


@pytest.mark.parametrize(("column", "values"), [("logprobs", [None, -1.0]), ("reward", None)])
@pytest.mark.parametrize("as_arrays", [True, False])
def test_a_shard_with_missing_values_is_refused(run, column, values, as_arrays):
    paths, state, _ = run
    rows = [asdict(rollout) for rollout in make_group(0, state.admitted[0], 0, 2)]
    rows[1][column] = values
    path = Spool(paths.spool).path(0)
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    with pytest.raises(ShardError, match=f"column {column} has missing values"):
        Spool(paths.spool).read(0, as_arrays=as_arrays)
