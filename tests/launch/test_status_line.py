"""What a run shows while it goes on: the progress line and TensorBoard."""

import pytest

from scalerl.alarms import standing_alarms
from scalerl.launch import status_line as status_line_module
from scalerl.launch.status_line import Display, eta_s, format_duration, status_line
from scalerl.metrics.loggers import TensorBoardLogger, scalars
from scalerl.metrics.rows import EvalRow, Rows, StepRow
from scalerl.paths import RunPaths
from scalerl.run_folder import GpuHours
from scalerl.settings import load_config

HOURS = GpuHours(generator=2.0, trainer=0.5, evaluator=0.25, total=2.75)


def step_row(step: int, **values) -> StepRow:
    """A step every 10 s, 1,000 tokens each, .1 GPU-hours each."""
    row = {
        "step": step,
        "time_s": 100.0 + 10 * step,
        "generated_tokens": 1000 * step,
        "gpu_hours": 0.1 * step,
    }
    return StepRow(**row | {"reward": -0.5, "pass_rate": 0.25, "off_policyness_mean": 3.0} | values)


def test_the_line_by_hand():
    rows = Rows(step_row(step) for step in range(1, 6))
    rows += [EvalRow(step=0, pass_rate=0.2), EvalRow(step=4, pass_rate=0.3)]
    line = status_line(load_config([], ["budget.max_steps=11"]), rows, HOURS)
    assert line == (
        "step 5/11 | reward -0.500 | pass 0.250 | 100 tokens/s | off-policy 3.0/8 | "
        "held-out 0.300 at step 4 (R0 0.200) | GPU-hours 2.75 (2 + 0.5 + 0.25) | ETA 0:01:00"
    )


def test_standing_alarms_come_first():
    rows = Rows(step_row(step, truncation_rate=0.5) for step in range(1, 21))
    line = status_line(load_config([], ["budget.max_steps=30"]), rows, HOURS, standing_alarms(rows))
    assert line.startswith("step 20/30 | ALARM truncation 0.5 above 0.1 since step 20 | reward -0.500 | ")


def test_nothing_to_say_yet():
    line = status_line(load_config([], ["budget.max_steps=11"]), Rows(), GpuHours(total=0.0))
    assert line == "starting/11 | GPU-hours 0 | ETA -"


def test_the_nearer_budget_sets_the_eta():
    rows = [step_row(1), step_row(2)]
    config = load_config([], ["budget.max_steps=1000", "budget.max_gpu_hours=0.5"])
    assert eta_s(config, rows, gpu_hours=0.2) == pytest.approx(30.0)  # .3 GPU-hours at .01 a second
    assert eta_s(config, rows[:1], gpu_hours=0.2) is None
    assert format_duration(3 * 3600 + 5 * 60 + 7.4) == "3:05:07"


def test_tensorboard_reads_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(RunPaths(tmp_path))
    logger.log(step_row(1, loss=None, groups_dropped={"zero_variance": 2}))
    logger.log(step_row(2, loss=0.5, groups_dropped={}))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("step/reward")] == [(1, -0.5), (2, -0.5)]
    assert [(event.step, event.value) for event in events.Scalars("step/loss")] == [(2, 0.5)]
    assert [event.value for event in events.Scalars("step/groups_dropped/zero_variance")] == [2.0]


def test_only_numbers_are_scalars():
    row = EvalRow(step=3, pass_rate=0.5, extra={"name": "x", "nothing": None, "flag": True})
    assert scalars(row) == {
        "eval/step": 3.0,
        "eval/attempt": 0.0,
        "eval/time_s": 0.0,
        "eval/pass_rate": 0.5,
        "eval/flag": 1.0,
    }


def test_a_log_gets_one_line_a_step_and_a_sign_of_life(capsys, monkeypatch):
    now = {"now": 1000.0}
    monkeypatch.setattr(status_line_module.time, "monotonic", lambda: now["now"])
    display = Display(every_s=10.0, alive_s=600.0)
    shown = []
    for second in range(3000):
        now["now"] = 1000.0 + second
        step = min(second // 4, 10)  # a step every 4 s until step 10, then one that takes 49 minutes
        if display.due(step):
            display.show(f"step {step}", step)
            shown.append((second, step))
    # a line every 10 s while steps are quick; 40 s is step 10, which is then shown every ten minutes
    assert shown == [
        (0, 0),
        (10, 2),
        (20, 5),
        (30, 7),
        (40, 10),
        (640, 10),
        (1240, 10),
        (1840, 10),
        (2440, 10),
    ]
    assert capsys.readouterr().out.splitlines() == [f"step {step}" for _, step in shown]
