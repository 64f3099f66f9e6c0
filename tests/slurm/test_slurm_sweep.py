"""A sweep on a real Slurm with the real engines, by the commands a user would type.

Its launcher dies, one of its runs fails, the same command goes on; then the best recipe is extended, and what
was predicted of it is scored.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest

from scalerl.cli import main
from scalerl.cluster import slurm
from scalerl.metrics.rows import read_rows
from scalerl.paths import RunPaths
from scalerl.run_folder import read_config, read_status, save_config
from scalerl.sweep.accounting import reconcile
from scalerl.sweep.states import RunState, sweep_states
from scalerl.sweep.submissions import read_submissions

REPO = Path(__file__).parents[2]
NAMES = [f"advantage_norm-{norm}-seed0" for norm in ("batch", "prompt", "none")]
STEPS = 8
"""With one evaluation each: enough for a fit."""
DEVICES = 3
"""GPUs of a run's job: a trainer rank, a generator and an evaluator."""
MORE_GPU_HOURS = DEVICES * 36 / 3600
"""36 s for an extension, beside the time that the engines take to start on this machine."""
SMALL = [
    f"budget.max_steps={STEPS}",
    "batch.prompts=8",
    "batch.generations_per_prompt=4",
    "length.max_thinking_tokens=40",
    "length.interruption_min_tokens=30",
    "length.interruption_max_tokens=40",
    "generator.kv_cache_gb=0.1",
    "generator.max_num_seqs=32",
    "evaluation.every_steps=1",
    "evaluation.num_prompts=8",
    "evaluation.samples_per_prompt=2",
    "checkpoint.every_steps=1",
    "launch.max_restarts=0",
    "launch.preflight=off",
    "logging.tensorboard=false",
]
LAUNCHER_THAT_DIES = """
import os, sys
import scalerl.sweep.submission as submission
write = submission.write_submission
def die(sweep_dir, record):
    if record.job_id:
        os._exit(9)
    write(sweep_dir, record)
submission.write_submission = die
from scalerl.cli import main
main(sys.argv[1:])
"""


class Sweep:
    """`make sweep` of advantage_norm into one folder."""

    def __init__(self, inputs: Path, folder: Path) -> None:
        self.dir = folder
        data = [f"data.{name}={inputs / 'data' / f'{name}.parquet'}" for name in ("train", "heldout", "test")]
        self.overrides = [f"model.path={inputs / 'tied'}", *data, *SMALL]
        # as from a shell: `make test`, whose own variables these are, must not reach into `make sweep`
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
        }
        self.environment = inherited | {"OMP_NUM_THREADS": "1"}

    def launch_and_die(self) -> None:
        """The launcher is gone as soon as sbatch has answered."""
        command = [
            sys.executable,
            "-c",
            LAUNCHER_THAT_DIES,
            "sweep",
            "sweeps/advantage_norm.toml",
            "--cluster=slurm",
            "--throttle=2",
        ]
        command += ["--dir", str(self.dir), *self.overrides]
        assert subprocess.run(command, cwd=REPO, env=self.environment, timeout=120).returncode == 9

    def make(self, *settings: str) -> str:
        """The last line of `make sweep`, with this Python instead of .venv's."""
        command = ["make", "-o", "setup", "sweep", f"PYTHON_BIN={sys.executable}", f"DIR={self.dir}"]
        command += [
            "AXIS=advantage_norm",
            "CLUSTER=slurm",
            "THROTTLE=2",
            f"ARGS={' '.join(self.overrides)}",
            *settings,
        ]
        done = subprocess.run(
            command, cwd=REPO, env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]

    def states(self) -> dict[str, RunState]:
        return {state.name: state for state in sweep_states(self.dir)}

    def state(self, name: str) -> str:
        return self.states()[name].state

    def wait_for(self, condition: Callable[[], bool], what: str, deadline_s: float) -> None:
        end_s = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end_s, f"waited {deadline_s:.0f} s for {what}\n{self.report()}"
            time.sleep(1)

    def wait_for_end(self) -> int:
        """Wait until no run is pending or running; the most jobs that were running at once."""
        most = 0

        def ended() -> bool:
            nonlocal most
            # by Slurm's own word: a run whose job is completing still counts as running, but the next task
            # has its place
            most = max(most, sum(job.state == "RUNNING" for job in slurm.queue().values()))
            return not {"pending", "running"} & {state.state for state in self.states().values()}

        self.wait_for(ended, "the end of every run", deadline_s=420)
        return most

    def kill_generator(self, name: str) -> None:
        """Kill the generator's own process, not the srun that waits for it."""
        role, folder = ["-m", "scalerl", "role", "generator"], str(self.dir / name)
        commands = {process: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
        found = [process for process, words in commands.items() if words[1:5] == role and folder in words]
        assert found, self.report()
        for process in found:
            process.kill()

    def report(self) -> str:
        texts = [f"{state.name}: {state.state} ({state.reason})" for state in self.states().values()]
        logs = [*self.dir.glob("submissions/*/*.log"), *self.dir.glob("*/logs/latest/*.log")]
        return "\n".join([*texts, *(f"--- {log}\n{log.read_text(errors='replace')[-1000:]}" for log in logs)])


def check_against_sacct(folder: Path, num_starts: int) -> None:
    """Check that the run's ledger holds its own job's GPUs and no sibling's.

    sacct counts whole seconds, from start to end, and a job ends a moment after the ledger's last word: three
    seconds a start of all its GPUs.
    """
    compared = reconcile(RunPaths(folder))
    assert compared is not None and compared.num_starts == num_starts
    slack_gpu_hours = 3 * num_starts * DEVICES / 3600
    assert compared.ledger_gpu_hours == pytest.approx(
        compared.accounted_gpu_hours, rel=0.05, abs=slack_gpu_hours
    ), str(compared)


@pytest.mark.timeout(900)
def test_a_sweep_survives_its_launcher_and_a_failed_run_and_is_extended(cluster, inputs, tmp_path, capsys):
    sweep = Sweep(inputs, tmp_path / "sweep")
    sweep.launch_and_die()
    (record,) = read_submissions(sweep.dir)
    assert record.job_id is None
    assert sweep.make() == "nothing to submit"
    (record,) = read_submissions(sweep.dir)
    assert record.job_id is not None
    assert record.runs == NAMES

    failing = NAMES[1]
    fail_one_run(sweep, failing)
    accounted = {f"{record.job_id}_{task}": "FAILED" if task == 1 else "COMPLETED" for task in range(3)}
    cluster.wait_for(
        lambda: {job.job_id: job.state for job in slurm.accounted(accounted)} == accounted,
        "sacct to know the ends",
    )
    begin_s = time.monotonic()
    assert sweep.make() == "nothing to submit; --retry submits the 1 that failed or were stopped"
    assert sweep.make("SEEDS=2", "DRY_RUN=1").split()[0] == "disk"
    assert sweep.make("RETRY=1").startswith("submitted 1 runs")
    assert time.monotonic() - begin_s < 60
    first, second = read_submissions(sweep.dir)
    assert (first, second.runs) == (record, [failing])
    sweep.wait_for_end()
    for name in NAMES:
        assert sweep.state(name) == "finished", sweep.report()
        rows = read_rows(sweep.dir / name / "metrics.jsonl")
        assert [row.step for row in rows.steps] == list(range(1, STEPS + 1))
        assert sorted(row.step for row in rows.evaluations) == list(range(STEPS + 1))
        check_against_sacct(sweep.dir / name, num_starts=2 if name == failing else 1)
    extend_the_best(sweep, failing, capsys)


def fail_one_run(sweep: Sweep, failing: str) -> None:
    """Kill the generator of one run and see the others to their end, two at a time."""
    # The generator waits for the first policy, then starts its engine for seconds: it dies before the first
    # of the few steps.
    policy = RunPaths(sweep.dir / failing).latest_policy
    sweep.wait_for(policy.exists, f"the first policy of {failing}", deadline_s=240)
    sweep.kill_generator(failing)
    assert sweep.wait_for_end() == 2
    ended = sweep.states()
    states = {name: state.state for name, state in ended.items()}
    assert states == dict.fromkeys(NAMES, "finished") | {failing: "failed"}
    assert "generator-0 died" in ended[failing].reason


def set_max_gpu_hours(paths: RunPaths, max_gpu_hours: float) -> None:
    """Say that the run had just the budget that it has used."""
    config = read_config(paths)
    budget = config.budget.model_copy(update={"max_gpu_hours": max_gpu_hours})
    save_config(paths, config.model_copy(update={"budget": budget}))


def extend_the_best(sweep: Sweep, failed_once: str, capsys) -> None:
    """Let the best recipe go on: it is predicted, continues from its checkpoint, and is scored."""
    used = {name: state.used_gpu_hours for name, state in sweep.states().items()}
    for name, gpu_hours in used.items():
        # the scale allows 2 GPU-hours, of which these runs take a fiftieth, and nothing is extended to less
        set_max_gpu_hours(RunPaths(sweep.dir / name), gpu_hours)
    target = 2 * max(used.values()) + MORE_GPU_HOURS
    extend = ["extend", str(sweep.dir), "--top", "1", "--to", str(target), "--cluster", "slurm"]
    assert main(extend) == 0
    (predicted,) = sweep.dir.glob("*/prediction.json")
    prediction, paths = predicted.read_bytes(), RunPaths(predicted.parent)
    before = read_status(paths)
    assert main(extend) == 2, "it is on its way"
    assert "is left alone: it is" in capsys.readouterr().err

    sweep.wait_for_end()
    last = read_status(paths)
    assert sweep.state(paths.root.name) == "finished" and "max_gpu_hours" in last.reason, sweep.report()
    assert last.attempt == before.attempt + 1 and last.job_id != before.job_id
    log = (paths.logs / f"{last.attempt:04d}" / "trainer.log").read_text()
    assert f"continuing from the checkpoint of step {STEPS}" in log
    assert [row.step for row in read_rows(paths.metrics).steps] == list(range(1, last.step + 1))
    assert last.step > STEPS
    # it stops early by what the evaluations that it owes are expected to cost, or late by what they and the
    # end of the step did; test_slurm_run.py has a budget that no evaluation blurs
    evaluations = [row for row in read_rows(paths.metrics).evaluations if row.attempt == last.attempt]
    owed_s = len(evaluations) * max(row.evaluation_s for row in evaluations)
    assert abs(last.gpu_hours.total - target) < 0.1 * target + owed_s * DEVICES / 3600

    fit = [sys.executable, "tools/fit_all.py", sweep.dir]
    assert subprocess.run(fit, cwd=REPO, env=sweep.environment, timeout=120).returncode == 0
    assert predicted.read_bytes() == prediction
    (score,) = pd.read_csv(sweep.dir / "fits" / "scores.csv").to_dict("records")
    assert score["compute"] == target
    assert score["hit"] == (score["lo90"] <= score["observed"] <= score["hi90"])
    assert score["foretold_at"] < used[paths.root.name] < target
    assert "Predictions scored" in (sweep.dir / "fits" / "report.html").read_text()

    check_against_sacct(paths.root, num_starts=3 if paths.root.name == failed_once else 2)
    capsys.readouterr()
    assert main(["status", str(paths.root)]) == 0
    details = capsys.readouterr().out
    assert str(reconcile(paths)) in details and "max_gpu_hours" in details
