"""The table and the details, from files as the supervisor writes them."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import factories
import pytest
from factories import make_status

from scalerl.cli import main
from scalerl.common.files import write_json
from scalerl.paths import RunPaths
from scalerl.run_folder import Attempt, write_attempt
from scalerl.sweep.status import COLUMNS, format_hours, status_report

CURVE = {"a": 0.6124, "lo90": 0.6, "hi90": 0.625, "identified": True, "reason": ""}
LATEST = {"pass_rate": 0.53214, "off_policyness_mean": 3.25, "dropped_share": 0.125}
HOURS = {"generator": 1200.0, "trainer": 30.5, "evaluator": 3.25, "idle": 0.75, "total": 1234.5}


@pytest.fixture
def write_run(tmp_path):
    """write_run(name, *budget, **status): a run folder; without status, one that was never started."""

    def write(name: str, *budget: str, **status) -> RunPaths:
        told = {
            "reason": "",
            "final": True,
            "attempt": 2,
            "gpu_hours": HOURS,
            "latest": LATEST,
            "curve": CURVE,
        }
        return factories.write_run(
            tmp_path / "sweep" / name,
            *(budget or ["budget.max_gpu_hours=4000"]),
            status=make_status(**(told | status)) if status else None,
        )

    return write


def cells(report: str, run: str) -> dict[str, str]:
    """The row of a run by column; columns begin where their titles do."""
    head, *lines = report.splitlines()
    line = next(line for line in lines if line.startswith(run))
    begin = [head.index(column) for column in COLUMNS]
    return {name: line[i:j].strip() for name, i, j in zip(COLUMNS, begin, [*begin[1:], None], strict=True)}


def test_a_table_of_runs_that_ended_failed_and_never_started(tmp_path, write_run):
    nothing = {"pass_rate": None, "off_policyness_mean": None, "dropped_share": None}
    write_run("a-new")
    write_run("b-done", reason="max_gpu_hours = 4000 reached")
    vague = {
        "a": 0.7,
        "lo90": 0.4,
        "hi90": 0.9,
        "identified": False,
        "reason": "no bend in the window: " + "x" * 60 + "; also",
    }
    write_run(
        "c-failed",
        "budget.max_steps=200",
        state="failed",
        reason="trainer-0 died",
        final=False,
        latest=nothing,
        curve=vague,
    )
    write_run("d-odd", last_error="OSError: disk", curve=None)
    report = status_report(tmp_path / "sweep")
    new = "a-new|planned|0|-|-|0/4000|-|-|"
    assert "|".join(cells(report, "a-new").values()) == new
    done = "b-done|finished|120|0.5321|0.612 (0.600-0.625)|1234/4000|3.2|12%|max_gpu_hours = 4000 reached"
    assert "|".join(cells(report, "b-done").values()) == done
    failed = cells(report, "c-failed")
    assert failed["state"] == "failed" and failed["step"] == "120/200" and failed["GPU-hours"] == "1234"
    assert (
        failed["A (90 %)"] == "- no bend in the window: xxxxxxxxxxxxxxxxxx..."
        and failed["reason or last error"] == "trainer-0 died"
    )
    assert cells(report, "d-odd")["reason or last error"] == "OSError: disk"
    assert report.splitlines()[-1] == "4 runs: 1 planned, 1 failed, 2 finished; 3704 GPU-hours used"
    assert max(map(len, status_report(tmp_path / "sweep", width=40).splitlines())) == 40


def test_totals_know_every_budget(tmp_path, write_run):
    write_run("one", state="finished")
    write_run("two", "budget.max_gpu_hours=1500.5", state="finished")
    assert status_report(tmp_path / "sweep").endswith("2 runs: 2 finished; 2469 of 5500 GPU-hours used")
    write_run("three", "budget.max_gpu_hours=4000", "budget.sweep_max_gpu_hours=5000")
    assert status_report(tmp_path / "sweep").endswith("2469 of 5000 GPU-hours used")


def test_details_of_one_run(tmp_path, write_run):
    paths = write_run(
        "one",
        reason="max_gpu_hours = 4000 reached",
        last_error="generator-0 died with exit code 1 (OSError: disk)",
    )
    for attempt in (1, 2):
        paths.log(attempt, "any").parent.mkdir(parents=True)
    start_s = time.mktime((2026, 11, 21, 10, 0, 0, 0, 0, -1))
    common = {"devices": 5, "start_s": start_s, "job_id": "12_3"}
    intervals = [
        {"role": "allocation", "end_s": start_s + 3661.0, **common},
        {"role": "allocation", "end_s": None, **common},
    ]
    write_json(
        paths.compute,
        {"saved_s": start_s + 60.0, "intervals": [{"role": "trainer", "end_s": None, **common}, *intervals]},
    )
    report = status_report(paths.root)
    for text in (
        "finished (max_gpu_hours = 4000 reached)",
        "120, attempt 2; budget max_gpu_hours = 4000.0",
        "pass_rate 0.5321, off_policyness_mean 3.25, dropped_share 0.125",
        "0.612 (0.600-0.625)",
        "1234 (generator 1200, trainer 30.5, evaluator 3.25, idle 0.75)",
        "12_3: 5 devices from 2026-11-21 10:00:00 for 1:01:01",
        "12_3: 5 devices from 2026-11-21 10:00:00 for 0:01:00",
        "generator-0 died with exit code 1 (OSError: disk)",
        f"{paths.logs}/0001",
        f"{paths.logs}/0002",
    ):
        assert text in report
    assert "a-new: planned" in status_report(write_run("a-new").root)


def test_no_run_is_an_error(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert "is no run folder and holds none" in capsys.readouterr().err
    (tmp_path / "loss_type").mkdir()
    assert main(["status", str(tmp_path / "loss_typ")]) == 2
    error = capsys.readouterr().err
    assert f"there is no folder {tmp_path}/loss_typ; did you mean {tmp_path}/loss_type?" in error


def test_watch_shows_what_has_changed(tmp_path, write_run, capsys, monkeypatch):
    """Until Ctrl-C, which is no error."""
    paths = write_run("one", step=1)
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt
        write_json(paths.status, json.loads(paths.status.read_text()) | {"step": 2})

    monkeypatch.setattr(time, "sleep", sleep)
    assert main(["status", str(tmp_path / "sweep"), "--watch", "3"]) == 0
    tables = capsys.readouterr().out.split("run  ")[1:]
    assert naps == [3.0, 3.0] and [cells("run  " + table, "one")["step"] for table in tables] == ["1", "2"]


def test_files_that_change_meanwhile_are_read_whole(tmp_path, write_run):
    """A supervisor rewrites status.json every second."""
    paths = write_run("one", step=1)
    status, stop = json.loads(paths.status.read_text()), threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            write_json(paths.status, status)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        assert {status_report(tmp_path / "sweep") for _ in range(200)} == {
            status_report(Path(tmp_path / "sweep"))
        }
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.0, "0"), (0.12345, "0.1235"), (999.94, "999.9"), (1000.4, "1000"), (123456.7, "123457")],
)
def test_hours_have_no_exponent(hours, text):
    assert format_hours(hours) == text


def test_five_hundred_runs_take_less_than_two_seconds():
    """Against a fake queue of that size, as a process of its own."""
    repository = Path(__file__).parents[2]
    command = [sys.executable, repository / "tools" / "bench_status.py"]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alarms_in_table_and_details(tmp_path, write_run):
    paths = write_run("one", state="finished", reason="max_steps reached")
    rows = [
        {"kind": "step", "step": step, "truncation_rate": 0.5 if 20 < step <= 30 else 0.0}
        for step in range(1, 51)
    ]
    paths.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "truncation 0.25 above 0.1 since step 25, until 45; raise length" in status_report(paths.root)
    alarm = {"kind": "pass_rate", "step": 40, "last_step": 50, "value": 0.3, "level": 0.45, "advice": "look"}
    write_json(paths.status, json.loads(paths.status.read_text()) | {"alarms": [alarm]})
    remarks = cells(status_report(tmp_path / "sweep"), "one")["reason or last error"]
    assert remarks == "max_steps reached", "it has ended: the alarm stands in its details"
    write_json(paths.status, json.loads(paths.status.read_text()) | {"state": "running", "reason": ""})
    write_attempt(paths, Attempt(attempt=1, host="elsewhere", pid=1, started_ticks=1))
    remarks = cells(status_report(tmp_path / "sweep"), "one")["reason or last error"]
    assert remarks == "ALARM pass_rate 0.3 below 0.45 since step 40"


def test_equal_errors_of_many_runs_are_told_once(tmp_path, write_run):
    """Each names the log of its own run."""
    error = "trainer died with exit code 1 (RuntimeError: CUDA out of memory" + " of this and that" * 15
    for number in range(12):
        paths = write_run(f"run-{number:02}", state="failed", final=False)
        reason = f"{error if number < 10 else f'{number} {error}'}); log: {paths.log(1, 'trainer')}"
        write_json(paths.status, json.loads(paths.status.read_text()) | {"reason": reason})
    write_run("short", last_error="OSError: disk")
    report = status_report(tmp_path / "sweep")
    cell = "trainer died with exit code 1 (RuntimeError: CUDA out of ..."
    assert [cells(report, f"run-{number:02}")["reason or last error"] for number in range(10)] == [cell] * 10
    assert cells(report, "short")["reason or last error"] == "OSError: disk"
    *table, first, second, third, totals = report.splitlines()
    assert len(table) == 14 and totals.startswith("13 runs: 12 failed, 1 finished")
    assert first == f"10 runs: {error}); log: RUN/logs/0001/trainer.log"
    assert {second.partition(": ")[0], third.partition(": ")[0]} == {"1 run"}
