"""The supervisor with scripted roles in place of the engines: what it refuses, what it restarts, and when it
gives up.

The same behaviour with the real engines: tests/e2e.
"""

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest
from scripted_roles import processes_of, wait_until

from scalerl.common.files import read_json, write_json
from scalerl.config import RunConfig
from scalerl.launch.supervisor import run
from scalerl.metrics.rows import read_rows
from scalerl.paths import RunPaths


def test_dead_roles_are_started_again(paths, make_config, script_roles):
    script_roles(
        """
        seen = folder / f"seen-{role}-{index}"
        first = not seen.exists()
        seen.touch()
        if first and (role, index) != ("trainer", 0):
            while len(list(folder.glob("seen-*"))) < 4: time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)
        if not first: (folder / f"again-{role}-{index}").touch()
        if role == "trainer" and not first:
            while len(list(folder.glob("again-*"))) < 4: time.sleep(0.02)
            if index == 0: step_row(1)
            end()
        """
    )
    assert run(make_config(), paths) == 0
    assert {path.name for path in paths.root.glob("seen-*")} == {
        "seen-trainer-0", "seen-trainer-1", "seen-generator-0", "seen-evaluator-0"
    }  # fmt: skip
    intervals = read_json(paths.compute)["intervals"]
    assert (
        sorted(interval["role"] for interval in intervals)
        == ["evaluator"] * 2 + ["generator"] * 2 + ["trainer"] * 4
    )
    assert all(interval["end_s"] for interval in intervals)


def test_a_role_that_cannot_be_kept_up_ends_the_run(paths, make_config, script_roles, capsys):
    script_roles('if role == "generator": sys.exit("ValueError: no such weights")')
    assert run(make_config("launch.max_restarts=1"), paths) == 1
    reason = read_json(paths.status)["reason"]
    assert "generator-0 died with exit code 1 (ValueError: no such weights)" in reason
    assert "restarted 1 times already" in reason
    assert processes_of(paths) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=", "model.path is not set"),
        ("model.path=/nowhere", "not a Hugging Face directory"),
        ("data.train=", "data.train is not set"),
        ("data.heldout=/nowhere.parquet", "there is no problem file"),
        ("generator.kv_cache_gb=0", "on a CPU give a number"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(paths, make_config, override, message):
    with pytest.raises(ValueError) as error:
        run(make_config(override), paths)
    assert message in str(error.value)
    assert not paths.root.exists()


def test_a_folder_of_another_run_is_refused(paths, make_config, script_roles, tmp_path):
    script_roles(
        """
        if role == "trainer":
            if index == 0: step_row(3)
            end()
        """
    )
    run(make_config(), paths)
    with pytest.raises(ValueError, match=r"another run .*algo\.loss_type: 'cispo' -> 'dapo'"):
        run(make_config("algo.loss_type=dapo"), paths)
    assert run(make_config("budget.max_steps=9"), paths) == 0
    assert RunConfig.model_validate(read_json(paths.config)["config"]).budget.max_steps == 9
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="not empty and is not a run folder"):
        run(make_config(), RunPaths(Path(tmp_path / "other")))


def test_a_refused_command_changes_nothing_in_a_live_run(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            if index == 0: step_row(3)
            end()
        """
    )
    assert run(make_config(), paths) == 0
    before = paths.config.read_text()
    owner = read_json(paths.attempt)
    sleeper = subprocess.Popen(["sleep", "60"])
    ticks = int(Path(f"/proc/{sleeper.pid}/stat").read_text().split()[21])
    paths.attempt.write_text(json.dumps(owner | {"pid": sleeper.pid, "started_ticks": ticks}))
    with pytest.raises(ValueError, match="is being run by process"):
        run(make_config("budget.max_steps=9"), paths)
    sleeper.kill()
    sleeper.wait()
    assert paths.config.read_text() == before


def test_a_supervisor_that_is_fenced_off_writes_nothing_more(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            for step in range(1, 1000):
                step_row(step)
                time.sleep(0.1)
        """
    )

    def take_over() -> None:
        wait_until(lambda: len(read_rows(paths.metrics)) >= 3, "three rows")
        write_json(paths.attempt, read_json(paths.attempt) | {"attempt": 7})
        time.sleep(0.5)  # whoever claims a folder reads much before writing
        paths.metrics.write_text("theirs")
        paths.status.write_text("theirs")

    other = threading.Thread(target=take_over)
    other.start()
    assert run(make_config("trainer.num_ranks=1", "budget.max_steps=1000"), paths) == 1
    other.join()
    time.sleep(0.5)
    assert (paths.metrics.read_text(), paths.status.read_text()) == ("theirs", "theirs")
    assert read_json(paths.attempt)["attempt"] == 7
    assert processes_of(paths) == []


def test_an_exit_code_of_zero_is_no_proof_that_the_trainer_has_finished(paths, make_config, script_roles):
    script_roles(
        """
        if role == "trainer":
            if not (folder / "lost").exists():
                (folder / "lost").touch()
                sys.exit(0)  # as srun does for a step that it lost with its node
            step_row(3)
            end()
        """
    )
    assert run(make_config("trainer.num_ranks=1"), paths) == 0
    assert "trainer-0 died with exit code 0" in read_json(paths.status)["last_error"]
    assert read_json(paths.status)["reason"] == "max_steps reached"
