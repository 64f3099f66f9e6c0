"""Runs as Slurm jobs on the real engines: time limit, requeue, preemption, dead nodes, split brain, and the
budget over all of it."""

import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scalerl.cluster import slurm
from scalerl.common.files import read_json
from scalerl.metrics.rows import StepRow, read_rows
from scalerl.paths import RunPaths
from scalerl.run_folder import read_config, save_config
from scalerl.spool.evaluations import pending_evaluations
from scalerl.sweep.accounting import reconcile

REPO = Path(__file__).parents[2]
ONE_NODE = ("--nodes=1", "--gpus-per-node=3", "--cpus-per-task=3", "--mem=8000")
ONE_EACH = ("trainer.num_ranks=1", "generator.num=1")
STEPS = 80
"""More than the attempts that are cut short can do; each step takes some tenths of a second."""
LAST_STEPS = 12
"""Steps of an attempt that is only to prove that the run goes on; an evaluation is due among them."""
START_S = 150.0
"""Five processes import their engines on two cores."""


class SlurmRun:
    """A run submitted with a script of slurm/."""

    def __init__(
        self, cluster, inputs: Path, folder: Path, *overrides: str, script: str = "scalerl_100k.sh"
    ) -> None:
        self.cluster, self.paths = cluster, RunPaths(folder)
        self.output = folder.parent / f"{folder.name}.out"
        self._script = [str(REPO / "slurm" / script), str(Path(__file__).with_name("tiny.toml"))]
        self._script += [f"model.path={inputs / 'tied'}", f"data.train={inputs / 'data' / 'train.parquet'}"]
        self._script += [f"data.heldout={inputs / 'data' / 'heldout.parquet'}", *overrides]
        self.job_id = ""

    def submit(self, *options: str) -> str:
        run_dir = f"RUN_DIR={self.paths.root},PYTHON={sys.executable},OMP_NUM_THREADS=1"
        fixed = [
            f"--output={self.output}",
            f"--chdir={REPO}",
            f"--export=ALL,{run_dir}",
            "--signal=B:USR1@20",
        ]
        self.job_id = slurm.call("sbatch", "--parsable", *fixed, *options, *self._script).strip()
        return self.job_id

    @property
    def steps(self) -> list[StepRow]:
        return read_rows(self.paths.metrics).steps

    def step(self) -> int:
        return self.steps[-1].step if self.steps else 0

    def status(self) -> dict:
        return read_json(self.paths.status) if self.paths.status.exists() else {"state": "none", "attempt": 0}

    def attempt(self) -> int:
        return self.status()["attempt"]

    def node(self) -> str:
        return slurm.describe("job", self.job_id)["BatchHost"]

    def wait_for(self, condition: Callable[[], bool], what: str, deadline_s: float = START_S) -> None:
        def checked() -> bool:
            assert self.status()["state"] != "failed", f"while waiting for {what}\n{self.report()}"
            return condition()

        try:
            self.cluster.wait_for(checked, what, deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from None

    def wait_for_progress(self, attempt: int) -> None:
        """Wait until this attempt has trained two steps of its own."""
        self.wait_for(lambda: self.attempt() == attempt, f"attempt {attempt}")
        begin = self.step()
        self.wait_for(lambda: self.step() >= begin + 2, f"two steps of attempt {attempt}")

    def wait_for_end(self, deadline_s: float = START_S) -> None:
        self.wait_for(
            lambda: self.cluster.state(self.job_id) == "COMPLETED", "the end of the job", deadline_s
        )

    def report(self) -> str:
        texts = [
            f"status {self.status()}",
            self.output.read_text()[-3000:] if self.output.exists() else "no output",
        ]
        for log in sorted((self.paths.logs / "latest").glob("*.log")):
            texts.append(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}")
        return "\n".join(texts)

    def processes(self) -> list[psutil.Process]:
        """Everything on this machine that works in the run folder, supervisors included."""
        wanted = str(self.paths.root)
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if wanted in " ".join(process.info["cmdline"] or [])
        ]

    def check_rows(self) -> None:
        """Nothing trained twice, nothing left out, compute and counters never fall, no evaluation missing."""
        steps = self.steps
        assert [row.step for row in steps] == list(range(1, len(steps) + 1))
        for name in ("gpu_hours", "time_s", "generated_tokens", "flops"):
            values = [getattr(row, name) for row in steps]
            assert values == sorted(values), name
        per_step = steps[0].epoch  # groups trained by step 1, per training prompt
        assert [row.epoch for row in steps] == pytest.approx([per_step * row.step for row in steps])
        assert all(row.off_policyness_max <= 8 and row.num_groups == 8 for row in steps)
        evaluated = [row.step for row in read_rows(self.paths.metrics).evaluations]
        assert len(evaluated) == len(set(evaluated)) and {0, len(steps)} <= set(evaluated)
        assert not pending_evaluations(self.paths)


@pytest.fixture
def make_run(cluster, inputs, tmp_path):
    def make(*overrides: str, script: str = "scalerl_100k.sh") -> SlurmRun:
        return SlurmRun(cluster, inputs, tmp_path / "run", *overrides, script=script)

    return make


@pytest.mark.timeout(900)
def test_the_100k_script_goes_through_time_limit_and_requeue_to_its_budget(make_run, cluster):
    run = make_run("budget.max_gpu_hours=100")
    shape = ("--nodes=2", "--gpus-per-node=3", "--cpus-per-task=6", "--mem=8000")
    job_id = run.submit(*shape, "--time=1")
    second = run.submit(*shape, "--time=5")
    run.job_id = job_id

    run.wait_for(lambda: run.status()["state"] == "requeued", "the requeue before the time limit")
    requeued = run.status()
    # a trainer that is not in its loop yet, as on a slow machine, is asked in vain: then the job ends at its
    # time limit
    assert any(words in requeued["reason"] for words in ("time limit", "Slurm ended the job: TIMEOUT"))
    run.wait_for(lambda: cluster.state(job_id) in ("PENDING", "RUNNING"), "the job to be queued again")
    slurm.call("scontrol", "update", f"JobId={job_id}", "TimeLimit=10")
    run.wait_for_progress(attempt=2)
    assert cluster.state(second) == "PENDING" and slurm.describe("job", second)["Reason"] == "Dependency"
    names = slurm.call("squeue", "--noheader", "--steps", f"--jobs={job_id}", "--format=%j").split()
    assert sorted(names) == ["batch", "evaluator-0.2", "generator-0.2", "generator-1.2", "trainer.2"]
    check_that_a_dead_generator_is_restarted_alone(run)
    to_first_step = (
        next(row.gpu_hours for row in run.steps if row.attempt == 2) - requeued["gpu_hours"]["total"]
    )
    # for another start, which may take twice as long, and twenty seconds of six GPUs for some steps
    budget = run.status()["gpu_hours"]["total"] + 2 * to_first_step + 6 * 20 / 3600
    slurm.requeue(job_id)
    run.wait_for(lambda: cluster.state(job_id) == "PENDING", "the requeue")
    set_budget(run.paths, max_gpu_hours=budget)
    run.wait_for(lambda: run.attempt() == 3, "attempt 3")
    run.wait_for(lambda: run.status()["state"] == "finished", "the budget to be used up", 3 * START_S)
    run.wait_for_end()
    assert "max_gpu_hours" in run.status()["reason"]
    run.check_rows()
    steps = run.steps
    # The job ends at its budget, with the last evaluation: a second or two of six GPUs either way.
    assert run.status()["gpu_hours"]["total"] == pytest.approx(budget, rel=0.07)
    assert sum(row.gpu_hours > budget for row in steps) <= 1
    row = steps[-1]
    parts = ("generator_gpu_hours", "trainer_gpu_hours", "evaluator_gpu_hours", "idle_gpu_hours")
    assert sum(getattr(row, part) for part in parts) == pytest.approx(row.gpu_hours)

    run.job_id = second  # its budget is the script's: larger, so that it would go on
    run.wait_for(lambda: run.attempt() == 4, "the second submission, which had to wait for the first")
    slurm.call("scancel", second)
    cluster.wait_state(second, "CANCELLED")
    compared = reconcile(run.paths)
    assert abs(compared.ledger_gpu_hours / compared.accounted_gpu_hours - 1) < 0.05


def set_budget(paths: RunPaths, **limits: float) -> None:
    """Change the budget as `scalerl extend` does, but downwards; a job started again keeps to this."""
    config = read_config(paths)
    save_config(paths, config.model_copy(update={"budget": config.budget.model_copy(update=limits)}))


def check_that_a_dead_generator_is_restarted_alone(run: SlurmRun) -> None:
    pids = run.status()["pids"]
    mark = "role generator --index 1 "
    for process in [process for process in run.processes() if mark in " ".join(process.info["cmdline"])]:
        if "srun" not in process.name():
            process.kill()
    run.wait_for(
        lambda: run.status()["pids"].get("generator-1") not in (None, pids["generator-1"]),
        "another generator",
    )
    assert "generator-1 died" in run.status()["last_error"]
    same = ("trainer", "generator-0", "evaluator-0")
    assert {name: run.status()["pids"][name] for name in same} == {name: pids[name] for name in same}


@pytest.mark.timeout(900)
def test_preemption_with_and_without_grace(make_run, cluster, tmp_path):
    run = make_run(*ONE_EACH, "budget.max_steps=100000")
    for attempt, partition in ((1, "grace"), (2, "low")):
        mark = tmp_path / f"end-of-urgent-{attempt}"
        run.submit(f"--partition={partition}", *ONE_NODE, "--time=10")
        run.wait_for_progress(attempt)
        before = run.step()
        wait = f"until [ -e {mark} ]; do sleep .1; done"
        urgent = cluster.submit(wait, "--partition=high", "--nodes=4", "--exclusive")
        cluster.wait_state(urgent, "RUNNING", deadline_s=60)
        if partition == "low":
            last_step = run.step() + LAST_STEPS
            set_budget(run.paths, max_steps=last_step)
        mark.touch()
        cluster.wait_state(urgent, "COMPLETED")
        run.wait_for(
            lambda: cluster.state(run.job_id) in ("PENDING", "RUNNING"),
            "the preempted job to be queued again",
        )
        if partition == "grace":
            status = run.status()
            assert (status["state"], status["reason"]) == ("requeued", "preempted")
            newest = max(int(path.name) for path in run.paths.checkpoints.glob("[0-9]*"))
            assert newest == status["step"] >= before, "its grace was enough for a checkpoint"
            slurm.call("scancel", run.job_id)
            cluster.wait_idle()
    run.wait_for_end(300)
    assert run.attempt() == 3
    run.check_rows()
    assert run.step() == last_step


def wake_and_see_end(run: "SlurmRun", old: list[psutil.Process]) -> None:
    """Resume what hung of an old attempt: its steps end by themselves, then so do their supervisors."""
    supervisors = [process for process in old if "role" not in process.info["cmdline"]]
    steps = [process for process in old if process not in supervisors]
    # they go on where they were, and each has ended before a supervisor could end any
    for process in steps:
        process.resume()
    run.wait_for(
        lambda: not any(is_alive(process) for process in steps),
        "the old roles to see that they are fenced off",
        60,
    )
    for process in supervisors:
        process.resume()
    run.wait_for(
        lambda: not any(is_alive(process) for process in old),
        "the old attempt to see that it is fenced off",
        60,
    )


@pytest.mark.timeout(900)
def test_a_dead_node_then_a_split_brain(make_run, cluster):
    run = make_run(*ONE_EACH, f"budget.max_steps={STEPS}")
    job_id = run.submit(*ONE_NODE, "--time=10")
    run.wait_for_progress(attempt=1)
    dead = run.node()
    cluster.crash(dead)
    run.wait_for(
        lambda: cluster.state(job_id) == "PENDING" or run.attempt() == 2,
        "the requeue after the node's death",
        90,
    )

    run.wait_for_progress(attempt=2)
    cut_off = run.node()
    assert cut_off != dead
    old = run.processes()
    # hung, as behind a network that is gone: nothing tells them that Slurm gave up their node
    for process in old:
        process.suspend()
    cluster.crash_daemon(cut_off)
    run.wait_for_progress(attempt=3)
    assert run.node() not in (dead, cut_off)
    assert all(process.is_running() for process in old)
    wake_and_see_end(run, old)

    run.wait_for_end(300)
    run.check_rows()
    assert run.step() == STEPS
    assert "fenced off" in run.output.read_text()
    # Slurm numbers the steps of every start from 0: an old srun that learns late of the requeue aborts the
    # step of its number, a new one, which is then started again. Nothing else of the old attempt may harm the
    # new one.
    error = run.status()["last_error"]
    aborted = [
        log.name
        for log in (run.paths.logs / "0002").glob("*.log")
        if "Job step aborted" in log.read_text(errors="replace")
    ]
    assert not error or (aborted and "died with exit code 137 (" in error)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
