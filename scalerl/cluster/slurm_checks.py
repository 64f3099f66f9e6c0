"""Checks of `scalerl doctor` that ask Slurm, without a job: controller, partition, nodes, account, arrays."""

import getpass
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from scalerl.cluster import slurm
from scalerl.cluster.checks import Finding, fail, ok, warn
from scalerl.cluster.site import SiteConfig, SlurmSite, as_flags

Fields = Mapping[str, str]
"""The fields of one Slurm entity, as slurm.describe gives them."""

UNUSABLE = re.compile(r"DOWN|DRAIN|FAIL|NOT_RESPONDING|\*")
"""Words in the State of a node that takes no jobs. A powered-down cloud node does take them, so POWERED_DOWN
is removed before the search."""


def check_controller() -> Finding:
    """Check that Slurm answers."""
    said = slurm.call("scontrol", "ping", deadline_s=20).strip()
    if " UP" not in said:
        return fail("slurm", said, "slurmctld is down: ask the operators")
    return ok("slurm", said)


def find_partition(site: SlurmSite, partitions: Sequence[Fields]) -> Fields | Finding:
    """Return the partition that jobs of this site go to, or a FAIL if there is none."""
    for partition in partitions:
        is_default = partition["Default"] == "YES"
        if partition["PartitionName"] == site.partition or (is_default and not site.partition):
            return partition
    names = ", ".join(partition["PartitionName"] for partition in partitions)
    fix = f"set slurm.partition to one of {names}"
    if site.partition:
        return fail("partition", f"there is no partition {site.partition}", fix)
    return fail("partition", "the cluster has no default partition", fix)


def check_partition(site: SiteConfig, partition: Fields) -> Iterator[Finding]:
    """Check the partition's state and its time limit."""
    name = partition["PartitionName"]
    if partition["State"] != "UP":
        fix = "choose another slurm.partition, or ask the operators"
        yield fail("partition", f"{name} is {partition['State']}", fix)
    else:
        yield ok("partition", f"{name} is up, {partition['TotalNodes']} nodes")
    limit_min, max_min = site.slurm.time_limit_min, parse_minutes(partition["MaxTime"])
    allowed = "any" if math.isinf(max_min) else f"{max_min:.0f}"
    text = f"slurm.time_limit_min={limit_min}, {name} allows {allowed}"
    if limit_min > max_min:
        fix = f"set time_limit_min to {max_min:.0f} or less: runs requeue themselves through it"
        yield fail("time limit", text, fix)
    elif site.steps.warning_s >= limit_min * 60:
        text += f", all of it steps.warning_s={site.steps.warning_s:.0f}"
        yield fail("time limit", text, "lower steps.warning_s")
    else:
        yield ok("time limit", text)


def parse_minutes(limit: str) -> float:
    """Return Slurm's [days-]hours:minutes:seconds in minutes; inf for UNLIMITED."""
    if limit == "UNLIMITED":
        return math.inf
    days, _, clock = limit.rpartition("-")
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    return int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def check_nodes(site: SlurmSite, partition: Fields, nodes: Sequence[Fields]) -> Finding:
    """Check that the partition has nodes as large as the site file says, and that one of them takes jobs."""
    name = partition["PartitionName"]
    mine = [node for node in nodes if name in node.get("Partitions", "").split(",")]
    fitting = [node for node in mine if _fits(site, node)]
    usable = [node for node in fitting if not UNUSABLE.search(node["State"].replace("POWERED_DOWN", ""))]
    gpu_type = f" of type {site.gpu_type}" if site.gpu_type else ""
    wanted = f"{site.gpus_per_node} GPUs{gpu_type}, {site.cpus_per_node} CPUs"
    wanted += f", {site.mem_gb_per_node:g} GiB" if site.mem_gb_per_node else ""
    if not fitting:
        fix = "set gpus_per_node, gpu_type, cpus_per_node and mem_gb_per_node of [slurm] to one of these"
        return fail("nodes", f"no node of {name} has {wanted}; it has {_kinds(mine)}", fix)
    text = f"{len(fitting)} of {len(mine)} nodes of {name} have {wanted}; {len(usable)} of them are usable"
    if not usable:
        return fail("nodes", text, "jobs would wait: `sinfo -R` says why the nodes are out")
    return ok("nodes", text)


def _kinds(nodes: Sequence[Fields]) -> str:
    kinds = Counter(
        f"{node['Gres']}, {node['CPUTot']} CPUs, {int(node['RealMemory']) / 1024:.0f} GiB" for node in nodes
    )
    return "; ".join(f"{count} of {kind}" for kind, count in kinds.most_common(4)) or "no nodes"


def _fits(site: SlurmSite, node: Fields) -> bool:
    gpus = sum(count for kind, count in gpu_kinds(node["Gres"]) if not site.gpu_type or kind == site.gpu_type)
    enough_memory = int(node["RealMemory"]) >= site.mem_gb_per_node * 1024
    return gpus >= site.gpus_per_node and int(node["CPUTot"]) >= site.cpus_per_node and enough_memory


def gpu_kinds(gres: str) -> list[tuple[str, int]]:
    """Return (type, number) of the GPUs in such as "gpu:h100:8(S:0-1),nvme:2"; the type may be empty."""
    parts = [part.split(":") for part in re.sub(r"\([^)]*\)", "", gres).split(",")]
    return [(":".join(part[1:-1]), int(part[-1])) for part in parts if part[0] == "gpu"]


def check_accounting(site: SlurmSite, config: Fields) -> Iterator[Finding]:
    """Check that there is accounting, and that account and QOS are the user's."""
    if not config["AccountingStorageType"].endswith("slurmdbd"):
        yield warn("accounting", "this cluster has none: a run's own GPU-hours are not compared with Slurm's")
        return
    if "gres/gpu" in config["AccountingStorageTRES"] or not site.gpus_per_node:
        yield ok("accounting", "there, a run's GPU-hours are compared with sacct's")
    else:
        text = "sacct does not count GPUs: a run's GPU-hours are not compared with Slurm's"
        yield warn("accounting", text, "operators can add AccountingStorageTRES=gres/gpu")
    command = ["sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={getpass.getuser()}"]
    try:
        listing = slurm.call(*command, "format=account,qos")
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
    """Say what becomes of a job that is preempted, or whose node dies."""
    modes = partition["PreemptMode"].split(",")
    text = f"JobRequeue={config['JobRequeue']}, PreemptMode={partition['PreemptMode']}"
    text += f", GraceTime={partition['GraceTime']} s"
    if "CANCEL" in modes:
        fix = "`scalerl sweep ... --retry` brings their runs back"
        return warn("requeue", f"{text}: preempted jobs are cancelled", fix)
    if "SUSPEND" in modes:
        return warn("requeue", f"{text}: preempted jobs stand still while their budget of GPU-hours runs on")
    if config["JobRequeue"] == "0":
        fix = "runs of sweeps ask; give your own sbatch --requeue"
        return warn("requeue", f"{text}: only jobs that ask are requeued", fix)
    if "REQUEUE" in modes and partition["GraceTime"] == "0":
        text += ": preemption comes without warning, a run goes on from its last checkpoint"
    return ok("requeue", text)


def check_arrays(config: Fields) -> Finding:
    """Say how many runs one array holds."""
    return ok("arrays", f"MaxArraySize={config['MaxArraySize']}: larger sweeps become several arrays")


def check_submission(site: SiteConfig) -> Finding:
    """Check that Slurm would take a job of one whole node, asked for as a sweep asks."""
    flags = as_flags(site.job_options(site.slurm.whole_node))
    try:
        slurm.call("sbatch", "--test-only", *flags, "--wrap=true")
    except slurm.SlurmError as error:
        return fail("submission", str(error), "correct [slurm] of the site file by what Slurm says")
    return ok("submission", "Slurm would take a job of one whole node")
