"""The test cluster is what the other tests assume, and scalerl.cluster.slurm reads what a real Slurm says."""

import sys
import time
from pathlib import Path

import pytest

from scalerl.cluster import slurm
from scalerl.cluster.site import load_site


def test_a_job_gets_its_gpus_and_is_accounted(cluster, tmp_path):
    output = tmp_path / "out"
    job = cluster.submit("echo $CUDA_VISIBLE_DEVICES", "-N1", "--gpus-per-node=fake:2", f"--output={output}")
    cluster.wait_state(job, "COMPLETED")
    assert output.read_text().split() == ["0,1"]
    cluster.wait_for(
        lambda: [start.state for start in slurm.accounted([job])] == ["COMPLETED"], "sacct to know the job"
    )
    (start,) = slurm.accounted([job])
    assert (start.job_id, start.gpus) == (job, 2)
    assert start.start_s == slurm.parse_time(slurm.describe("job", job)["StartTime"])


def test_steps_of_one_job_run_side_by_side_on_their_own_gpus(cluster, tmp_path):
    step = "srun --exact -N1 -n1 --gpus-per-node=2 --mem=100 sh -c "
    step += "'echo $CUDA_VISIBLE_DEVICES > {0}; until [ -e {1} ]; do sleep .1; done'"
    script = (
        " & ".join(step.format(tmp_path / one, tmp_path / other) for one, other in ("ab", "ba")) + " & wait"
    )
    job = cluster.submit(script, "-N1", "--gpus-per-node=fake:4", "--exclusive", "--mem=1000")
    cluster.wait_state(job, "COMPLETED")  # each waits for the other
    assert {(tmp_path / name).read_text().strip() for name in "ab"} == {"0,1", "2,3"}


def test_an_array_holds_its_throttle_and_is_listed_by_task(cluster):
    job = cluster.submit("sleep 20", "--array=0,3,7%2", "--job-name=odd|name")
    cluster.wait_for(
        lambda: [task.state for task in slurm.queue().values()].count("RUNNING") == 2, "two running tasks"
    )
    tasks = slurm.queue()
    assert set(tasks) == {f"{job}_{index}" for index in (0, 3, 7)}
    assert {task.name for task in tasks.values()} == {"odd|name"}
    assert [task.reason for task in tasks.values() if task.state == "PENDING"] == ["JobArrayTaskLimit"]
    cluster.wait_for(
        lambda: {start.job_id for start in slurm.accounted(tasks)} == set(tasks), "three accounted tasks"
    )


LAST_TASK = """
from scalerl.cluster import slurm
given = slurm.allocation(slurm.job_id_here())
print(given.job_id, [node.gpus for node in given.nodes])
slurm.kill_step(slurm.component_ids_here(), "role.1")
"""


def test_the_last_task_of_an_array_sees_and_kills_only_its_own(cluster, tmp_path):
    """Slurm gives it the array's own id as SLURM_JOB_ID."""
    repo, mark, output = Path(__file__).parents[2], tmp_path / "go", tmp_path / "out"
    (tmp_path / "last_task.py").write_text(LAST_TASK)
    last = f"until [ -e {mark} ]; do sleep .1; done; cd {repo}; "
    last += f"{sys.executable} {tmp_path}/last_task.py > {output}; touch {output}.done"
    step = "srun --exact -n1 --mem=100 --job-name=role.1 sleep 100"
    script = f"{step} & if [ $SLURM_ARRAY_TASK_ID = 2 ]; then export PYTHONPATH={repo}; {last}; fi; wait"
    job = cluster.submit(script, "--array=0-2", "-N1", "--gpus-per-node=fake:1", "--mem=1000")

    def tasks_with_steps() -> list[str]:
        lines = slurm.call("squeue", "--noheader", "--steps", "--format=%i %j").splitlines()
        return sorted(line.split(".")[0] for line in lines if line.endswith(" role.1"))

    tasks = [f"{job}_{task}" for task in range(3)]
    cluster.wait_for(lambda: tasks_with_steps() == tasks, "a step of every task")
    mark.touch()
    cluster.wait_for(Path(f"{output}.done").exists, "the last task to look and to kill")
    assert output.read_text() == f"{job}_2 [1]\n"
    cluster.wait_for(lambda: tasks_with_steps() == tasks[:2], "the end of the last task's step alone")


def test_a_requeued_job_keeps_its_id_and_every_start_is_accounted(cluster):
    job = cluster.submit("[ $SLURM_RESTART_COUNT ] || sleep 60", "--requeue")
    cluster.wait_state(job, "RUNNING")
    slurm.requeue(job)
    cluster.wait_state(job, "COMPLETED")
    assert slurm.describe("job", job)["Restarts"] == "1"
    cluster.wait_for(
        lambda: [start.state for start in slurm.accounted([job])] == ["REQUEUED", "COMPLETED"], "two starts"
    )


def test_only_a_power_loss_ends_the_processes_of_a_node(cluster, tmp_path):
    beat = tmp_path / "beat"
    job = cluster.submit(
        f"setsid sh -c 'while :; do date > {beat}; sleep .1; done' & wait", "--nodelist=node3", "--no-requeue"
    )
    cluster.wait_for(beat.exists, "the job to start")
    cluster.crash_daemon("node3")
    beat.unlink()
    cluster.wait_for(beat.exists, "a sign of life of the orphan")
    cluster.crash("node3")
    beat.unlink(missing_ok=True)
    time.sleep(0.5)
    assert not beat.exists()
    assert cluster.state(job) == "RUNNING"  # Slurm has not noticed yet


def test_settings_and_partitions_are_read(cluster):
    assert slurm.settings()["MaxArraySize"] == "1001"
    assert slurm.describe("partition", "grace")["GraceTime"] == "20"
    assert slurm.describe("partition", "high")["PreemptMode"] == "OFF"
    assert slurm.describe("node", "node4")["RealMemory"] == str(16 * 1024)
    with pytest.raises(slurm.SlurmError, match="no_such"):
        slurm.describe("partition", "no_such")
    assert load_site().slurm.gpu_type == "fake"
