"""The ledger against what sacct printed on a real cluster (job ids and lines as there)."""

import os

import pytest

from scalerl.cluster.slurm import SlurmError
from scalerl.common.files import write_json
from scalerl.paths import RunPaths
from scalerl.sweep.accounting import reconcile

TRES = "billing=8,cpu=8,gres/gpu:fake=4,gres/gpu=4,mem=1G,node=2"
ARRAY = f"""\
31_0|32|COMPLETED|2026-11-21T10:00:00|1800|{TRES}
31_1|31|PREEMPTED|2026-11-21T10:00:00|900|{TRES}
31_1|31|COMPLETED|2026-11-21T11:00:00|2700|{TRES}
31_[2-3]|33|PENDING|Unknown|0||
"""
HET = f"""\
40+0|40|COMPLETED|2026-11-21T10:00:00|3600|{TRES}
40+1|41|COMPLETED|2026-11-21T10:00:00|3600|cpu=8,gres/gpu=2
42|42|COMPLETED|2026-11-21T10:00:00|3600|cpu=8
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(lines, *allocations): a run folder with allocations of (job_id, devices, start_s, end_s); sacct
    prints `lines`."""

    def make(lines: str, *allocations: tuple) -> RunPaths:
        sacct = tmp_path / "bin" / "sacct"
        sacct.parent.mkdir()
        (tmp_path / "lines").write_text(lines)
        sacct.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat {tmp_path}/lines\n')
        sacct.chmod(0o755)
        monkeypatch.setenv("PATH", f"{sacct.parent}:{os.environ['PATH']}")
        names = ("job_id", "devices", "start_s", "end_s")
        intervals = [{"role": "allocation"} | dict(zip(names, values, strict=True)) for values in allocations]
        if intervals:  # what the roles held of it is no cost of its own
            intervals.append(intervals[0] | {"role": "trainer", "devices": 1})
        paths = RunPaths(tmp_path / "run")
        paths.root.mkdir()
        write_json(paths.compute, {"saved_s": 10_000.0, "intervals": intervals})
        return paths

    return make


def test_every_start_of_an_array_task_and_of_no_other(run, tmp_path):
    """4 GPUs x (900 + 2700) s = 4 GPU-hours for sacct; the ledger has 4 x (890 + 2674) s = 3.96."""
    compared = reconcile(run(ARRAY, ("31_1", 4, 0.0, 890.0), ("31_1", 4, 4000.0, 6674.0)))
    assert compared.accounted_gpu_hours == pytest.approx(4.0) and compared.num_starts == 2
    assert compared.ledger_gpu_hours == pytest.approx(3.96) and compared.difference == pytest.approx(-0.01)
    assert str(compared) == "ledger 3.96, sacct 4 GPU-hours, -1.0% over 2 starts"
    assert (
        "--duplicates" in (tmp_path / "arguments").read_text()
        and "--jobs=31_1" in (tmp_path / "arguments").read_text()
    )


def test_a_raw_id_is_one_task(run):
    assert reconcile(run(ARRAY, ("31", 4, 0.0, 3600.0))).num_starts == 2


def test_all_components_of_a_heterogeneous_job(run):
    assert reconcile(run(HET, ("40", 6, 0.0, 3600.0))).accounted_gpu_hours == pytest.approx(6.0)


def test_an_attempt_that_was_cut_off_ended_when_it_was_last_saved(run):
    """From 6400 to 10,000 s: one hour of 4 GPUs."""
    assert reconcile(run(ARRAY, ("31_1", 4, 6400.0, None))).ledger_gpu_hours == pytest.approx(4.0)


def test_without_gpus_or_jobs_there_is_nothing_to_compare(run, tmp_path):
    compared = reconcile(run(HET, ("42", 3, 0.0, 3600.0)))
    assert compared.difference is None and "sacct counted no GPUs" in str(compared)
    write_json(tmp_path / "run" / "compute.json", {"saved_s": 0.0, "intervals": []})
    assert reconcile(RunPaths(tmp_path / "run")) is None
    assert reconcile(RunPaths(tmp_path / "never-started")) is None


def test_no_accounting_is_said(run, tmp_path):
    paths = run(ARRAY, ("31_1", 4, 0.0, 890.0))
    (tmp_path / "bin" / "sacct").write_text(
        "#!/bin/sh\necho Slurm accounting storage is disabled >&2\nexit 1\n"
    )
    with pytest.raises(SlurmError, match="storage is disabled"):
        reconcile(paths)
