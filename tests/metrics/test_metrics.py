"""metrics.jsonl: one writer, unique and monotone rows, GPU-hours from the ledger."""

import pytest

from scalerl.common.files import write_json
from scalerl.fits.inputs import read_folder, read_input
from scalerl.metrics import ledger, loggers, rows
from scalerl.metrics.ledger import ComputeLedger
from scalerl.metrics.loggers import TrainingLog
from scalerl.metrics.rows import EvalRow, StepRow, format_rows, post_row, read_rows
from scalerl.metrics.writer import MetricsWriter
from scalerl.run_folder import GpuHours

pytestmark = pytest.mark.usefixtures("run_folder")


@pytest.fixture
def clock(monkeypatch):
    """A clock the test sets: clock["now"]."""
    now = {"now": 0.0}
    monkeypatch.setattr(ledger.time, "time", lambda: now["now"])
    return now


def step_row(step, time_s, attempt=1, **values):
    return StepRow.from_json({"step": step, "time_s": time_s, "attempt": attempt, **values}, "test")


def eval_row(step, time_s, attempt=1, pass_rate=0.5):
    return EvalRow(step=step, time_s=time_s, attempt=attempt, pass_rate=pass_rate)


def write_metrics(paths, attempt=1):
    return MetricsWriter(paths, ComputeLedger(paths), attempt)


def test_gpu_hours_are_devices_times_wall_time(paths, clock):
    ledger = ComputeLedger(paths)
    trainer = ledger.open("trainer", devices=4)
    clock["now"] = 1800.0
    ledger.open("generator", devices=2)
    clock["now"] = 3600.0
    trainer.end_s = 3600.0
    assert ledger.gpu_hours(7200.0) == GpuHours(generator=3.0, trainer=4.0, total=7.0)
    assert ledger.gpu_hours(900.0) == GpuHours(trainer=1.0, total=1.0)


def test_a_slurm_job_costs_all_its_devices_from_its_start(paths, clock):
    ledger = ComputeLedger(paths, job_id="7")
    clock["now"] = 1000.0
    job = ledger.open("allocation", devices=8, start_s=0.0)
    trainer = ledger.open("trainer", devices=4)
    clock["now"] = 4600.0
    assert ledger.gpu_hours(3600.0).total == 8.0
    trainer.end_s = job.end_s = 4600.0
    ledger.save()
    hours = ledger.gpu_hours()
    assert hours.trainer == 4.0
    assert hours.total == pytest.approx(8 * 4600 / 3600)
    assert hours.idle == pytest.approx(hours.total - 4.0)
    on_a_workstation = ComputeLedger(paths)
    on_a_workstation.open("generator", devices=1)
    clock["now"] = 8200.0
    assert on_a_workstation.gpu_hours().total == pytest.approx(hours.total + 1.0)
    assert on_a_workstation.gpu_hours().idle == pytest.approx(hours.idle)
    assert (ledger.num_jobs_since(-1.0), ledger.num_jobs_since(0.0)) == (1, 0)


def test_ledger_runs_on_over_restarts(paths, clock):
    first = ComputeLedger(paths)
    first.open("trainer", devices=1)
    clock["now"] = 3600.0
    first.save()
    clock["now"] = 9000.0  # the supervisor was killed just after the save; nothing ran since
    second = ComputeLedger(paths)
    assert second.gpu_hours().total == 1.0
    second.open("trainer", devices=1)
    clock["now"] = 9000.0 + 1800.0
    assert second.gpu_hours().total == 1.5


@pytest.mark.parametrize("collected", [True, False], ids=["collected", "in the inbox"])
def test_compute_never_falls_after_a_supervisor_that_died_or_hung_between_saves(paths, clock, collected):
    killed = ComputeLedger(paths)
    killed.open("trainer", devices=2)
    clock["now"] = 3600.0
    killed.save()
    post_row(paths, step_row(1, time_s=3600.0))
    clock["now"] = (
        5400.0  # the trainer went on without its supervisor, or was seen once more before both were killed
    )
    post_row(paths, step_row(2, time_s=5400.0))
    if collected:
        MetricsWriter(paths, killed, 1).collect()
    clock["now"] = 9000.0
    ledger = ComputeLedger(paths)
    assert (
        ledger.gpu_hours().total == 3.0
    )  # two devices for 1.5 hours: the row of step 2 is the last sign of life
    ledger.open("trainer", devices=2)
    clock["now"] = 10800.0
    post_row(paths, step_row(3, time_s=10800.0))
    MetricsWriter(paths, ledger, 1).collect()
    assert [row.gpu_hours for row in read_rows(paths.metrics)] == [2.0, 3.0, 4.0]


def test_rows_carry_the_compute_of_their_own_time(paths, clock):
    ledger = ComputeLedger(paths)
    ledger.open("generator", devices=3)
    ledger.open("trainer", devices=1)
    writer = MetricsWriter(paths, ledger, 1)
    post_row(paths, step_row(1, time_s=900.0))
    post_row(paths, eval_row(0, time_s=0.0))
    clock["now"] = 7200.0
    assert [row.kind for row in writer.collect()] == ["eval", "step"]
    start, step = read_rows(paths.metrics)
    assert (start.gpu_hours, step.gpu_hours) == (0.0, 1.0)
    assert (step.generator_gpu_hours, step.trainer_gpu_hours, step.evaluator_gpu_hours) == (
        0.75,
        0.25,
        0.0,
    )
    assert list(paths.inbox.iterdir()) == []


def test_a_replayed_step_replaces_the_lost_timeline(paths):
    writer = write_metrics(paths)
    for step in (1, 2, 3):
        post_row(paths, step_row(step, time_s=step))
    post_row(paths, eval_row(2, time_s=2.5, pass_rate=0.1))
    writer.collect()
    post_row(paths, step_row(2, time_s=10, note="replayed"))
    post_row(paths, eval_row(2, time_s=10.5, pass_rate=0.2))
    writer.collect()
    rows = read_rows(paths.metrics)
    assert [(row.kind, row.step) for row in rows] == [("step", 1), ("step", 2), ("eval", 2)]
    assert rows[1].extra == {"note": "replayed"}
    assert rows[2].pass_rate == 0.2


def test_a_row_is_not_counted_twice_when_the_writer_dies_before_it_empties_the_inbox(paths):
    post_row(paths, step_row(1, time_s=1))
    posted = paths.inbox / "step-00000001-1.json"
    content = posted.read_text()
    write_metrics(paths).collect()
    posted.write_text(content)
    assert write_metrics(paths).collect() == []
    assert len(read_rows(paths.metrics)) == 1


def steps_in(paths):
    return [row.step for row in read_rows(paths.metrics).steps]


def test_what_an_earlier_attempt_posts_late_changes_nothing(paths):
    """Its trainer hung between the look at the attempt and the write, as on a shared file system that
    stalls."""
    write_metrics(paths)
    writer = write_metrics(paths, attempt=2)
    for step in range(1, 5):
        post_row(paths, step_row(step, time_s=step, attempt=2))
    post_row(paths, step_row(3, time_s=9, attempt=1))
    post_row(paths, eval_row(4, time_s=9, attempt=1))
    writer.collect()
    assert steps_in(paths) == [1, 2, 3, 4] and list(paths.inbox.iterdir()) == []
    post_row(paths, step_row(2, time_s=10, attempt=1))
    assert writer.collect() == [] and steps_in(paths) == [1, 2, 3, 4]


def test_a_supervisor_that_is_fenced_off_takes_no_rows_and_adds_none(paths):
    stale = write_metrics(paths)
    post_row(paths, step_row(1, time_s=1))
    stale.collect()
    current = write_metrics(paths, attempt=2)
    post_row(paths, step_row(2, time_s=2))  # of attempt 1, which both see
    post_row(paths, step_row(2, time_s=3, attempt=2))
    assert [row.attempt for row in stale.collect()] == [1]
    assert steps_in(paths) == [1]
    assert [row.attempt for row in current.collect()] == [2]
    assert steps_in(paths) == [1, 2]


def test_a_row_that_somebody_takes_while_it_is_read(paths, monkeypatch):
    post_row(paths, step_row(1, time_s=1))

    def taken(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(rows, "read_json", taken)
    assert write_metrics(paths).collect() == []


def test_evaluations_stay_in_order_when_a_run_goes_back(paths):
    """Killed at 74, after the evaluation of 70; started again from the checkpoint of 65, it ends at 67 and
    evaluates that."""
    writer = write_metrics(paths)
    for step in (0, 35, 70):
        post_row(paths, eval_row(step, time_s=step))
    writer.collect()
    writer = write_metrics(paths, attempt=2)
    post_row(paths, eval_row(67, time_s=100, attempt=2))
    assert writer.collect() == []
    post_row(paths, eval_row(105, time_s=150, attempt=2))
    writer.collect()
    assert [row.step for row in read_rows(paths.metrics)] == [0, 35, 70, 105]


def test_a_torn_last_line_is_dropped_and_the_file_mended(paths):
    write_metrics(paths)
    with paths.metrics.open("a") as file:
        file.write(format_rows([step_row(1, time_s=1)]) + '{"kind": "st')
    assert [row.step for row in write_metrics(paths).rows] == [1]
    assert paths.metrics.read_text().count("\n") == 1


def test_a_damaged_line_is_named(paths):
    paths.metrics.write_text('{"kind": "step", "step": 1}\nnot json\n{"kind": "step", "step": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2 is not JSON"):
        read_rows(paths.metrics)


def test_nan_is_refused_before_it_is_published(paths):
    with pytest.raises(ValueError, match="not JSON compliant"):
        post_row(paths, step_row(1, time_s=1, loss=float("nan")))
    assert list(paths.inbox.iterdir()) == []
    write_json(paths.root / "x.json", {"fine": 1})


def training_log(paths):
    return paths.training_log.read_text().splitlines()


def test_the_training_log_has_a_line_a_step(paths):
    log = TrainingLog(paths)
    log.log(EvalRow(step=0, pass_rate=0.25, gpu_hours=0.5))
    for step in (1, 2, 3):
        log.log(StepRow(step=step, gpu_hours=1.0 * step, reward=-0.5, loss=0.125 if step > 1 else None))
    log.log(EvalRow(step=2, pass_rate=0.5, gpu_hours=2.125))
    log.close()
    assert training_log(paths) == [
        "step,gpu_hours,pass_rate,reward,loss",
        "0,0.5,0.25,,",
        "1,1.0,,-0.5,",
        "2,2.125,0.5,-0.5,0.125",
        "3,3.0,,-0.5,0.125",
    ]


def test_the_training_log_goes_on_in_a_later_attempt_and_back_with_a_replay(paths):
    rows = [EvalRow(step=0, pass_rate=0.25, gpu_hours=0.5)]
    rows += [StepRow(step=step, gpu_hours=1.0 * step, reward=0.5) for step in (1, 2, 3)]
    paths.metrics.write_text(format_rows(rows))
    log = TrainingLog(paths)
    log.log(StepRow(step=2, gpu_hours=5.0, reward=0.75))
    assert training_log(paths)[1:] == ["0,0.5,0.25,,", "1,1.0,,0.5,", "2,5.0,,0.75,"]


def test_the_training_log_is_written_at_intervals_and_at_the_end(paths, monkeypatch):
    now = {"now": 100.0}
    monkeypatch.setattr(loggers.time, "monotonic", lambda: now["now"])
    log = TrainingLog(paths)
    log.log(StepRow(step=1))
    log.log(StepRow(step=2))
    assert len(training_log(paths)) == 2
    now["now"] = 111.0
    log.log(StepRow(step=3))
    log.log(StepRow(step=4))
    assert len(training_log(paths)) == 4
    log.close()
    assert len(training_log(paths)) == 5


def test_the_training_log_is_fitted_like_the_run_itself(paths):
    log = TrainingLog(paths)
    rows = [EvalRow(step=0, pass_rate=0.2, gpu_hours=0.0)]
    for step in range(1, 61):
        rows.append(StepRow(step=step, gpu_hours=0.5 * step, reward=0.1, loss=-0.1))
        if step % 10 == 0:
            rows.append(EvalRow(step=step, pass_rate=0.2 + 0.01 * step, gpu_hours=0.5 * step + 0.125))
    paths.metrics.write_text(format_rows(rows))
    for row in rows:
        log.log(row)
    log.close()
    run = read_folder(paths.root)
    (logged,), unreadable = read_input(paths.training_log)
    assert not unreadable and logged.r0 == run.r0 == 0.2
    assert (
        logged.compute.tolist() == run.compute.tolist() == [0.5 * step + 0.125 for step in range(10, 61, 10)]
    )
    assert logged.pass_rate.tolist() == run.pass_rate.tolist()
