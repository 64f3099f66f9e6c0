"""Prepared sets that were changed and saved with pandas since."""

from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalerl.data.prepare import prepare_generated
from scalerl.data.problem import load_problems


@pytest.fixture
def prepared(tmp_path):
    path = tmp_path / "data" / "train.parquet"
    prepare_generated(path.parent, "arithmetic:max_steps=3", count=60, heldout_fraction=0.1)
    return path


def test_a_set_cut_and_saved_with_pandas_is_read(prepared, tmp_path):
    problems = load_problems(prepared)
    frame = pd.read_parquet(prepared)
    cut, again = frame[frame["difficulty"] == 3][::-1], tmp_path / "again.parquet"
    cut.to_parquet(again)
    assert "__index_level_0__" in pq.read_schema(again).names
    wanted = [problem for problem in problems if problem.difficulty == 3][::-1]
    assert load_problems(again) == wanted
    cut.astype({"task": "category", "source": "category"}).to_parquet(again, index=False)
    assert pa.types.is_dictionary(pq.read_schema(again).field("task").type)
    assert load_problems(again) == wanted
    cut[cut.columns[::-1]].assign(difficulty=None).to_parquet(again)
    assert pa.types.is_null(pq.read_schema(again).field("difficulty").type)
    assert load_problems(again) == [replace(problem, difficulty=None) for problem in wanted]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.large_string())]
)
def test_every_type_of_text_is_read(prepared, tmp_path, kind):
    table = pq.read_table(prepared)
    texts = [name for name in table.column_names if name != "difficulty"]
    for name in texts:
        table = table.set_column(
            table.column_names.index(name), name, table[name].cast(pa.string()).cast(kind)
        )
    pq.write_table(table, tmp_path / "again.parquet")
    assert load_problems(tmp_path / "again.parquet") == load_problems(prepared)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda frame: frame.assign(answer=1),
            "its column answer is of type int64, a prepared one of string",
        ),
        (
            lambda frame: frame.assign(difficulty="3"),
            "its column difficulty is of type (large_)?string, .* of double",
        ),
        (
            lambda frame: frame.assign(answer=frame["answer"].where(frame.index > 1)),
            "its column answer misses 2 of ",
        ),
        (lambda frame: frame.assign(answer=None), "its column answer misses"),
        (lambda frame: frame.assign(extra=1), r"its columns are \[.*'extra'\], a prepared one has \["),
        (lambda frame: frame.drop(columns="task"), "its columns are"),
        (lambda frame: frame.assign(task="maths"), "there is no task 'maths'; did you mean math"),
    ],
)
def test_a_set_that_no_longer_is_one_is_refused(prepared, tmp_path, change, message):
    change(pd.read_parquet(prepared)).to_parquet(tmp_path / "again.parquet")
    with pytest.raises(ValueError, match=f"again.parquet is not a prepared problem file: {message}"):
        load_problems(tmp_path / "again.parquet")
