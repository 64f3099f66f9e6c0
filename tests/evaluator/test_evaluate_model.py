"""scalerl evaluate: any model on prepared problems, on an engine of its own."""

import pandas as pd
import pyarrow.parquet as pq
import pytest

from scalerl.common.files import read_json
from scalerl.evaluator import evaluate_model, standalone


def test_evaluate_a_model_outside_a_run(make_run, open_engine, tmp_path):
    open_engine.close()
    trainer = make_run()
    output = tmp_path / "answers.parquet"
    summary = evaluate_model(
        tmp_path / "base", trainer.paths.root / "train.parquet", output, trainer.config, 3
    )
    rows = pd.read_parquet(output)
    assert list(rows["prompt_id"]) == [problem.prompt_id for problem in trainer.problems]
    assert all(
        len(row) == 3 for name in ("responses", "correct", "verdicts", "num_tokens") for row in rows[name]
    )
    assert rows["pass_rate"].mean() == pytest.approx(summary["pass_rate"])
    assert (summary["num_prompts"], summary["samples_per_prompt"]) == (7, 3)

    answers = pq.read_table(output).to_pylist()
    standalone._write(tmp_path / "answers.json", answers)
    assert read_json(tmp_path / "answers.json") == answers


def test_an_output_of_unknown_format_is_refused_before_anything_starts(make_run, tmp_path):
    trainer = make_run()
    with pytest.raises(ValueError, match=r"must end with one of \.parquet, \.json"):
        evaluate_model(
            tmp_path / "base", trainer.paths.root / "train.parquet", tmp_path / "a.csv", trainer.config, 3
        )
