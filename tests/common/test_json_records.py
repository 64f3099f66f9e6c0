"""Every record of a run folder, by property: what is written is read again, unknown fields included."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.config import BudgetConfig
from scalerl.metrics.rows import EvalRow, StepRow, format_rows, post_row, posted_rows, read_rows, stamp
from scalerl.paths import RunPaths
from scalerl.run_folder import (
    Alarm,
    Attempt,
    GpuHours,
    Latest,
    PredictedCeiling,
    RunStatus,
    StopRequest,
    TrainerEnd,
    read_attempt,
    read_end,
    read_status,
    read_stop,
    write_attempt,
    write_end,
    write_status,
    write_stop,
)

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**53)
texts = st.text(max_size=20)
unknown = st.dictionaries(st.text(min_size=1, max_size=9).map("newer_{}".format), numbers | texts, max_size=2)


def of_fields(record, **given):
    """Any values for the fields of a record, by their annotated types; `given` ones as they are given."""
    by_type = {
        "str": texts,
        "int": counts,
        "float": numbers,
        "bool": st.booleans(),
        "None": st.none(),
        "dict[str, int]": st.dictionaries(texts, counts, max_size=3),
        "dict[str, float]": st.dictionaries(texts, numbers, max_size=3),
    }
    strategies = {"extra": unknown} | given
    for entry in fields(record):
        names = getattr(entry.type, "__name__", None) if isinstance(entry.type, type) else None
        kinds = (names or str(entry.type)).split(" | ")
        if entry.name not in strategies:
            strategies[entry.name] = st.one_of([by_type[kind] for kind in kinds])
    return st.builds(record, **strategies)


alarms = of_fields(Alarm, kind=st.sampled_from(["truncation", "log_ratio"]))
limits = st.fixed_dictionaries({}, optional=dict.fromkeys(BudgetConfig.model_fields, st.none() | numbers))
statuses = of_fields(
    RunStatus,
    latest=of_fields(Latest),
    curve=st.none() | of_fields(PredictedCeiling),
    alarms=st.lists(alarms, max_size=2),
    limits=limits,
    gpu_hours=of_fields(GpuHours),
)
RECORDS = {
    "status": (statuses, write_status, read_status),
    "attempt": (of_fields(Attempt), write_attempt, read_attempt),
    "stop": (of_fields(StopRequest), write_stop, read_stop),
    "end": (of_fields(TrainerEnd), write_end, read_end),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_read_as_it_was_written(name, tmp_path_factory):
    records, write, read = RECORDS[name]
    paths = RunPaths(tmp_path_factory.mktemp(name))
    assert read(paths) is None

    @settings(max_examples=40, deadline=None)
    @given(records)
    def check(record):
        write(paths, record)
        assert read(paths) == record

    check()


step_rows = of_fields(StepRow).map(lambda row: replace(row, step=row.step % 10**8))
eval_rows = of_fields(EvalRow).map(lambda row: replace(row, step=row.step % 10**8))


@settings(max_examples=40, deadline=None)
@given(st.lists(step_rows | eval_rows, max_size=5))
def test_rows_are_read_as_they_were_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "metrics.jsonl"
    path.write_text(format_rows(rows))
    read = read_rows(path)
    assert read == rows
    assert read.steps == [row for row in rows if row.kind == "step"]
    assert read.evaluations == [row for row in rows if row.kind == "eval"]


@settings(max_examples=20, deadline=None)
@given(step_rows | eval_rows)
def test_a_posted_row_is_taken_as_it_was_posted(tmp_path_factory, row):
    paths = RunPaths(tmp_path_factory.mktemp("run"))
    paths.create()
    post_row(paths, row)
    assert list(posted_rows(paths).values()) == [row]


def test_a_row_has_no_gpu_hours_until_they_are_stamped():
    row = EvalRow(step=4, pass_rate=0.5, extra={"pass_rate_math": 0.75})
    written = row.to_json()
    assert (written["kind"], written["pass_rate_math"], written["evaluation_s"]) == ("eval", 0.75, None)
    assert not [name for name in written if name.endswith("gpu_hours")]
    hours = GpuHours(generator=3.0, trainer=2.0, evaluator=1.0, idle=0.5, total=6.5)
    told = {name: value for name, value in stamp(row, hours).to_json().items() if name.endswith("gpu_hours")}
    assert told == {
        "gpu_hours": 6.5,
        "generator_gpu_hours": 3.0,
        "trainer_gpu_hours": 2.0,
        "evaluator_gpu_hours": 1.0,
        "idle_gpu_hours": 0.5,
    }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"kind": "eval", "step": 3}, "row 2 has no pass_rate"),
        ({"kind": "step", "reward": 1.0}, "row 2 has no step"),
        ({"kind": "steps", "step": 1}, "row 2 is of kind 'steps', not one of step, eval"),
        ({"step": 1}, "row 2 is of kind None"),
        ([1], r"row 2 is not an object: \[1\]"),
    ],
)
def test_a_row_that_lacks_what_it_needs_is_named(tmp_path, line, problem):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "step", "step": 1}\n' + json.dumps(line) + '\n{"kind": "step", "step": 2}\n')
    with pytest.raises(ValueError, match=f"metrics.jsonl: {problem}"):
        read_rows(path)


def test_a_status_that_lacks_what_it_needs_is_named(tmp_path):
    Path(tmp_path / "status.json").write_text('{"state": "running", "gpu_hours": {"total": 1.0}}')
    with pytest.raises(ValueError, match=r"status\.json has no step, updated_s"):
        read_status(RunPaths(tmp_path))


def test_the_status_of_a_first_version_is_read(tmp_path):
    old = {"state": "finished", "step": 7, "updated_s": 1.0, "gpu_hours": {"total": 2.0}, "max_steps": 7}
    (tmp_path / "status.json").write_text(json.dumps(old))
    status = read_status(RunPaths(tmp_path))
    assert status is not None
    assert (status.limits, status.latest, status.curve, status.alarms) == (
        {"max_steps": 7},
        Latest(),
        None,
        [],
    )
    assert (status.gpu_hours.total, status.gpu_hours.idle) == (2.0, 0.0)
