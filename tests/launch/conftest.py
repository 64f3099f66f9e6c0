"""Inputs that a run accepts, and roles that follow a script."""

import textwrap

import pytest
from scripted_roles import FAKE_ROLE, REAL_PYTHON

from scalerl.config import RunConfig
from scalerl.data.problem import make_problem, write_problems
from scalerl.launch import processes
from scalerl.settings import load_config


@pytest.fixture
def make_config(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    write_problems(tmp_path / "train.parquet", [make_problem("1+1?", ["2"], source="test")])
    write_problems(tmp_path / "heldout.parquet", [make_problem("2+1?", ["3"], source="test")])

    def make(*overrides: str) -> RunConfig:
        fixed = [
            f"model.path={tmp_path}/model",
            f"data.train={tmp_path}/train.parquet",
            f"data.heldout={tmp_path}/heldout.parquet",
            "generator.kv_cache_gb=0.1",
        ]
        fixed += ["trainer.num_ranks=2", "generator.num=1", "evaluation.num=1", "budget.max_steps=3"]
        fixed += ["logging.tensorboard=false"]
        return load_config([], [*fixed, *overrides])

    return make


@pytest.fixture
def script_roles(tmp_path, monkeypatch):
    """Let every role run this Python text, which knows `role`, `index`, `folder`, `post` and `step_row`."""

    def script(text: str) -> None:
        body = tmp_path / "role.py"
        body.write_text(FAKE_ROLE + textwrap.dedent(text) + "\nwhile True: time.sleep(0.05)\n")
        executable = tmp_path / "interpreter"
        executable.write_text(f'#!/bin/bash\nexec {REAL_PYTHON} -c "$(cat {body})" "$@"\n')
        executable.chmod(0o755)
        monkeypatch.setattr(processes.sys, "executable", str(executable))

    return script
