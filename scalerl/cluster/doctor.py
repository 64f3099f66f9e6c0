"""`scalerl doctor [--site FILE]`: is this site ready for runs, and what is there to fix?

One line a check. Most checks are in cluster/checks.py and cluster/slurm_checks.py; here are those that need a
job: one short step on two nodes, which runs cluster/probe.py.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any
from uuid import uuid4

from scalerl.cluster import slurm
from scalerl.cluster.checks import Finding, check_python, check_runs_dir, check_sandbox, fail, ok, warn
from scalerl.cluster.probe import INVITATION, NUM_CONTESTS
from scalerl.cluster.site import JobShape, SiteConfig, as_flags
from scalerl.cluster.slurm_checks import (
    Fields,
    check_accounting,
    check_arrays,
    check_controller,
    check_nodes,
    check_partition,
    check_requeue,
    check_submission,
    find_partition,
)
from scalerl.common.files import write_text

IMMEDIATE_S = 60
"""How long the probe waits for two free nodes."""
PROBE_S = 300
"""How long the probe may take before it is ended."""
PROBE_MIN = 5
"""The time limit that Slurm holds the probe to, in minutes."""
SLOW_S = 5.0
"""A file that takes longer to be seen by other nodes delays every step of a run."""
CLOCK_S = 1.0
"""How far the clock of a node may be off."""
OTHER_FILES = "set runs_dir to another file system: a POSIX one such as Lustre, GPFS or NFSv4"


def main(site: SiteConfig) -> int:
    """Print all findings; return 1 if one is a FAIL, else 0."""
    failed = False
    for finding in examine(site):
        print(finding, flush=True)
        failed |= finding.level == "FAIL"
    return int(failed)


def examine(site: SiteConfig) -> Iterator[Finding]:
    """Yield the finding of every check, in order; without Slurm those of this machine alone."""
    runs_dir = check_runs_dir(Path(site.runs_dir))
    yield check_python()
    yield check_sandbox()
    yield runs_dir
    if not slurm.available():
        text = "its commands are not installed here: runs start on this machine"
        yield warn("slurm", text, "on a cluster, put them into PATH")
        return
    try:
        yield from _check_slurm(site, runs_dir)
    except slurm.SlurmError as error:
        yield fail("slurm command", str(error), "Slurm must answer before the rest can be checked")


def _check_slurm(site: SiteConfig, runs_dir: Finding) -> Iterator[Finding]:
    controller = check_controller()
    yield controller
    if controller.level == "FAIL":
        return
    partition = find_partition(site.slurm, slurm.describe_all("partition"))
    if isinstance(partition, Finding):
        yield partition
        return
    findings = list(_check_settings(site, partition))
    yield from findings
    if any(finding.level == "FAIL" for finding in [runs_dir, *findings]):
        yield warn("two nodes", "not checked", "correct the above first")
    elif partition["TotalNodes"] == "1":
        yield warn("two nodes", f"not checked: {partition['PartitionName']} has one node only")
    else:
        yield from check_two_nodes(site)


def _check_settings(site: SiteConfig, partition: Fields) -> Iterator[Finding]:
    config = slurm.settings()
    yield from check_partition(site, partition)
    yield check_nodes(site.slurm, partition, slurm.describe_all("node"))
    yield from check_accounting(site.slurm, config)
    yield check_requeue(config, partition)
    yield check_arrays(config)
    yield check_submission(site)


@dataclass
class Answers:
    """What the two tasks of the probe printed."""

    clock_offsets_s: dict[str, float] = field(default_factory=dict)
    """node -> its clock minus ours, too low by the time that its quickest line took to arrive."""
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    """node -> ProbeReport."""
    words: list[str] = field(default_factory=list)
    """Everything else, such as errors."""


def read_answers(lines: Iterable[str]) -> Answers:
    """Sort the lines of both tasks as they arrive."""
    answers = Answers()
    for line in lines:
        now_s = time.time()
        try:
            answer = json.loads(line)
            node = answer["node"]
        except (ValueError, TypeError, KeyError):
            answers.words += [line.strip()] if line.strip() else []
            continue
        if "report" in answer:
            answers.reports[node] = answer["report"]
        else:
            offset_s = answer["clock_s"] - now_s
            answers.clock_offsets_s[node] = max(offset_s, answers.clock_offsets_s.get(node, offset_s))
    return answers


def check_two_nodes(site: SiteConfig) -> Iterator[Finding]:
    """Check what two nodes see of the runs folder, each other and the environment, in one short step."""
    folder = (Path(site.runs_dir) / f".doctor-{uuid4().hex[:8]}").absolute()
    folder.mkdir()
    try:
        write_text(folder / INVITATION, "")
        code, answers = run_probe(site, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield from assess_probe(code, answers)


def run_probe(site: SiteConfig, folder: Path) -> tuple[int, Answers]:
    """Return the exit code of srun and what the tasks said; the probe is ended after PROBE_S."""
    name = f"scalerl-{folder.name.strip('.')}"
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("SLURM_") or key == "SLURM_CONF"
    }
    with subprocess.Popen(
        probe_command(site, folder, name),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        timer = Timer(PROBE_S, _cancel, [name, process])
        timer.start()
        try:
            assert process.stdout is not None
            answers = read_answers(process.stdout)
            return process.wait(), answers
        finally:
            timer.cancel()


def _cancel(name: str, process: subprocess.Popen) -> None:
    try:
        slurm.call("scancel", "--me", f"--name={name}")  # a killed srun would leave its tasks on the nodes
    finally:
        process.kill()


def probe_command(site: SiteConfig, folder: Path, name: str) -> list[str]:
    """Return srun with the site's own options, around the interpreter and container of the roles of a run."""
    gpus_per_node = min(1, site.slurm.gpus_per_node)
    shape = JobShape(nodes=2, gpus_per_node=gpus_per_node, cpus_per_node=1, mem_gb_per_node=1.0)
    options = as_flags(site.slurm.options(shape) | {"time": PROBE_MIN, "job-name": name})
    options += ["--ntasks=2", f"--immediate={IMMEDIATE_S}", "--kill-on-bad-exit=1", "--input=none"]
    options += site.steps.srun
    words = [sys.executable, "-m", "scalerl.cluster.probe", str(folder)]
    task = shlex.join([*site.steps.container, *words, str(gpus_per_node if site.steps.cuda else 0)])
    return ["srun", *options, "bash", "-c", "\n".join([*site.slurm.setup, f"exec {task}"])]


def assess_probe(code: int, answers: Answers) -> Iterator[Finding]:
    """Yield the findings about the shared folder, the clocks and the environment of two nodes."""
    if code or len(answers.reports) != 2:
        yield _assess_failure(code, answers)
        return
    yield _assess_folder(list(answers.reports.values()))
    yield _assess_clocks(answers.clock_offsets_s)
    yield _assess_engines(answers.reports)


def _assess_failure(code: int, answers: Answers) -> Finding:
    by_tasks = [line for line in answers.words if not line.startswith(("srun:", "slurmstepd"))]
    said = (by_tasks or answers.words or [f"srun ended with exit code {code}"])[-1]
    if answers.clock_offsets_s:
        fix = "runs_dir must be a folder that all nodes share, under the same name as here"
        return fail("shared folder", said, fix)
    if not by_tasks and any("busy" in line for line in answers.words):
        text = f"not checked: no two nodes were free within {IMMEDIATE_S} s"
        return warn("two nodes", text, "run doctor again later")
    fix = f"a task must be able to start {sys.executable}: see slurm.setup and steps.container"
    return fail("two nodes", said, fix)


def _assess_folder(reports: list[dict[str, Any]]) -> Finding:
    nodes = " and ".join(sorted(report["node"] for report in reports))
    torn = [text for report in reports for text in report["torn"]]
    won = sum(report["won"] for report in reports)
    visible_s = max(report["visible_s"] for report in reports)
    if torn:
        text = f"{len(torn)} reads of a file being renamed over failed: {torn[-1]}"
        return fail("shared folder", text, OTHER_FILES)
    if won != NUM_CONTESTS:
        text = f"{won} links made of {NUM_CONTESTS} names: two nodes got the same one"
        return fail("shared folder", text, OTHER_FILES)
    text = f"{nodes} share it, renames and links are atomic, new files are seen within {visible_s:.2f} s"
    if visible_s > SLOW_S:
        fix = "every step waits that long for rollouts: mount it with shorter attribute caching"
        return warn("shared folder", text, fix)
    return ok("shared folder", text)


def _assess_clocks(offsets_s: dict[str, float]) -> Finding:
    text = ", ".join(f"{node} {offset_s:+.2f} s" for node, offset_s in sorted(offsets_s.items()))
    if any(abs(offset_s) > CLOCK_S for offset_s in offsets_s.values()):
        fix = "have the operators run a time service (chrony) everywhere"
        return fail("clocks", f"off this machine's: {text}", fix)
    return ok("clocks", text)


def _assess_engines(reports: dict[str, dict[str, Any]]) -> Finding:
    for node, report in sorted(reports.items()):
        if missing := [engine for engine, version in report["versions"].items() if version is None]:
            fix = f"`make setup` on a node, for {sys.executable}, or name the image in steps.container"
            return fail("engines", f"missing on {node}: {', '.join(missing)}", fix)
        if error := report["gpu_error"]:
            fix = "steps.cuda = false, if these nodes have no GPUs to compute on"
            return fail("engines", f"the GPUs of {node} cannot be used: {error}", fix)
    first, second = (report["versions"] for report in reports.values())
    if first != second:
        text = f"the nodes differ: {first} and {second}"
        return fail("engines", text, "install the same environment on all nodes")
    return ok("engines", ", ".join(f"{engine} {version}" for engine, version in first.items()))
