"""What a site must say once, and what its jobs ask Slurm for.

The TOML file of a site names partition, GPUs, module lines, container and run folder. `SlurmSite.options` and
`SiteConfig.job_options` are the one place that turns it into options of sbatch and srun: the arrays of a
sweep, doctor's test-only submission and its step on two nodes all take theirs from here.
"""

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from scalerl.config import Section
from scalerl.settings import describe_errors, path_hint

DEFAULT_SITE = Path("slurm") / "site.toml"

Options = dict[str, str | int | bool]
"""Options of sbatch or srun by their long names; True stands for one without a value."""


@dataclass(frozen=True, kw_only=True)
class JobShape:
    """The nodes of one job: whole ones, or a share of a single one."""

    nodes: int
    gpus_per_node: int
    cpus_per_node: int
    mem_gb_per_node: float
    """Memory of each node in GiB; 0: all of it."""


class SlurmSite(Section):
    """Headers of the jobs that `scalerl sweep` and `scalerl extend` submit."""

    partition: str = ""
    """Where jobs go; empty: the cluster's default. The same holds for account, qos and gpu_type."""
    account: str = ""
    qos: str = ""
    gpus_per_node: int = Field(8, ge=0)
    """GPUs of a node; 0: nodes without GPUs, where a process takes one CPU."""
    gpu_type: str = ""
    """TYPE of --gpus-per-node=TYPE:N."""
    cpus_per_node: int = Field(64, ge=1)
    mem_gb_per_node: float = Field(0, ge=0)
    """Memory of a node in GiB; 0: all of it."""
    time_limit_min: int = Field(1440, ge=1)
    setup: list[str] = Field(default_factory=list)
    """Shell lines before the job starts, such as "module load cuda"."""
    sbatch: dict[str, str] = Field(default_factory=dict)
    """Further sbatch options by their long names, such as {constraint = "a100"}."""

    @property
    def devices_per_node(self) -> int:
        """Return the number of processes of one device each that a node holds."""
        return self.gpus_per_node or self.cpus_per_node

    @property
    def whole_node(self) -> JobShape:
        """Return the shape of a job that takes one whole node."""
        return self.shape(self.devices_per_node)

    def shape(self, num_devices: int) -> JobShape:
        """Return the nodes that a run of `num_devices` processes takes."""
        share = min(1.0, num_devices / self.devices_per_node)
        return JobShape(
            nodes=math.ceil(num_devices / self.devices_per_node),
            gpus_per_node=min(num_devices, self.gpus_per_node),
            cpus_per_node=math.ceil(self.cpus_per_node * share),
            mem_gb_per_node=round(self.mem_gb_per_node * share, 3),
        )

    def options(self, shape: JobShape) -> Options:
        """Return the options that say where, on whose account, on which nodes and for how long.

        The site's own `sbatch` table comes last, and wins.
        """
        gpu_type = f"{self.gpu_type}:" if self.gpu_type else ""
        options: Options = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "time": self.time_limit_min,
            "nodes": shape.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": shape.cpus_per_node,
            "gpus-per-node": f"{gpu_type}{shape.gpus_per_node}" if shape.gpus_per_node else "",
            "mem": f"{math.ceil(shape.mem_gb_per_node * 1024)}M" if shape.mem_gb_per_node else "0",
        }
        own = {name.replace("_", "-"): value for name, value in self.sbatch.items()}
        return {name: value for name, value in options.items() if value != ""} | own


class StepsSite(Section):
    """The srun steps of a run."""

    container: list[str] = Field(default_factory=list)
    """Words before every role's command, such as ["apptainer", "exec", "--nv", "/images/scalerl.sif"]."""
    srun: list[str] = Field(default_factory=list)
    """Further srun flags, such as ["--mpi=none"]."""
    cuda: bool = True
    """The job's GPUs are to be used by torch, and a role that cannot ends at once. False: they only stand for
    GPUs, as on a test cluster, and roles compute on the CPU."""
    warning_s: float = Field(1800, ge=0)
    """Seconds before its time limit at which a run stops to checkpoint and requeues itself."""


class SiteConfig(Section):
    """One site."""

    runs_dir: str = "runs"
    """The folder of runs and sweeps; every node sees it."""
    slurm: SlurmSite = SlurmSite()
    steps: StepsSite = StepsSite()

    def job_options(self, shape: JobShape) -> Options:
        """Return the options of a run's job: those of its nodes, its requeue, and the warning before its end.

        The warning goes to the batch shell alone (B:), whose place the run's own Python takes.
        """
        ending: Options = {"requeue": True, "signal": f"B:USR1@{self.steps.warning_s:.0f}"}
        return ending | self.slurm.options(shape)


def as_flags(options: Mapping[str, str | int | bool]) -> list[str]:
    """Return options as words of a command line, such as ["--nodes=2", "--requeue"]."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]


def load_site(path: Path | None = None) -> SiteConfig:
    """Read the site file `path`, else the one $SCALERL_SITE names, else slurm/site.toml, else the defaults.

    Raises:
        ValueError: a named file is missing, is not TOML, or sets what SiteConfig does not know.
    """
    named = path or (Path(os.environ["SCALERL_SITE"]) if os.environ.get("SCALERL_SITE") else None)
    path = named or DEFAULT_SITE
    if not path.exists():
        if named is None:
            return SiteConfig()
        found = path_hint(path, path.parent.glob("[!.]*.toml"))
        raise ValueError(
            f"there is no site file {path}; {found}; {DEFAULT_SITE} of the repository is a commented one"
        )
    try:
        return SiteConfig.model_validate(tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    except ValidationError as error:
        raise ValueError(f"{path}: {describe_errors(error)}") from None
