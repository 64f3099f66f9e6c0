"""The answers of sbatch, squeue, sacct, scontrol and srun without a cluster; `fake_slurm.py COMMAND
ARGUMENTS`.

$FAKE_SLURM is a folder: jobs.json holds {job id: {name, state, reason}}. See FakeSlurm in conftest.py.
"""

import fcntl
import json
import os
import re
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["FAKE_SLURM"])
ACTIVE = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING")


def option(name: str) -> str | None:
    return next((word.partition("=")[2] for word in sys.argv[1:] if word.startswith(f"--{name}=")), None)


def load() -> dict:
    return json.loads((FOLDER / "jobs.json").read_text())


def sbatch(settings: dict) -> None:
    time.sleep(settings["sbatch_s"])
    script = Path(sys.argv[-1]).read_text()
    name = re.search(r"--job-name=(\S+)", script)[1].strip("'")
    array = re.search(r"--array=0-(\d+)", script)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        number = int((FOLDER / "next").read_text())
        if number > settings["max_submissions"]:
            sys.exit("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy")
        (FOLDER / "next").write_text(str(number + 1))
        (FOLDER / f"{number}.sh").write_text(script)
        tasks = [f"{number}_{index}" for index in range(int(array[1]) + 1)] if array else [str(number)]
        new = {task: {"name": name, "state": "PENDING", "reason": "Priority"} for task in tasks}
        (FOLDER / "jobs.new").write_text(json.dumps(load() | new))
        (FOLDER / "jobs.new").rename(FOLDER / "jobs.json")
    print(f"Submitted batch job {number}")


def squeue(settings: dict) -> None:
    every = option("states") == "all"
    for job_id, job in load().items():
        if (
            job.get("forgotten")
            or not (every or job["state"] in ACTIVE)
            or option("name") not in (None, job["name"])
        ):
            continue
        line = option("format")
        words = {
            "%i": job_id,
            "%F": job_id.split("_")[0],
            "%T": job["state"],
            "%r": job["reason"],
            "%j": job["name"],
        }
        for field, word in words.items():
            line = line.replace(field, word)
        print(line)


def sacct(settings: dict) -> None:
    """Tasks that never started are one row of their array, which only its own id finds."""
    if not settings["accounting"]:
        sys.exit("Slurm accounting storage is disabled")
    wanted = (option("jobs") or "").split(",")
    unstarted: dict[str, list[str]] = {}
    rows = []
    for job_id, job in load().items():
        array, _, task = job_id.partition("_")
        if job["name"] != option("name") and job_id not in wanted and array not in wanted:
            continue
        if job["state"] == "CANCELLED" and task:
            unstarted.setdefault(array, []).append(task)
        else:
            rows.append((job_id, job["state"]))
    rows += [
        (f"{array}_[{','.join(tasks)}%2]", "CANCELLED by 0")
        for array, tasks in unstarted.items()
        if array in wanted
    ]
    for job_id, state in rows:
        values = {"JobID": job_id, "JobIDRaw": job_id.partition("_")[0], "State": state}
        values |= {"Start": "2026-01-01T00:00:00", "ElapsedRaw": "60"}
        print("|".join(values.get(field, "") for field in option("format").split(",")))


def scontrol(settings: dict) -> None:
    print("Configuration data as of now")
    print(f"MaxArraySize            = {settings['max_array_size']}\nMinJobAge = 300 sec")


with (FOLDER / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\n")
COMMANDS = {"sbatch": sbatch, "squeue": squeue, "sacct": sacct, "scontrol": scontrol}
COMMANDS[sys.argv[1]](json.loads((FOLDER / "settings.json").read_text()))
