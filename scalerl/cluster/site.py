"""What a site must say once: the TOML file that names partition, gres, module lines, container and run
folder."""

import os
import tomllib
from pathlib import Path

from pydantic import Field, ValidationError

from scalerl.config import Section
from scalerl.settings import describe_errors

DEFAULT_SITE = Path("slurm") / "site.toml"


class SlurmSite(Section):
    """Headers of the jobs that `scalerl sweep` and `scalerl extend` submit."""

    partition: str = ""
    """Empty: the cluster's default; so for account, qos and gpu_type."""
    account: str = ""
    qos: str = ""
    gpus_per_node: int = Field(8, ge=0)
    """0: nodes without GPUs, where a process takes one CPU."""
    gpu_type: str = ""
    """TYPE of --gpus-per-node=TYPE:N."""
    cpus_per_node: int = Field(64, ge=1)
    mem_gb_per_node: float = Field(0, ge=0)
    """0: all memory of the node."""
    time_limit_min: int = Field(1440, ge=1)
    setup: list[str] = Field(default_factory=list)
    """Shell lines before the job starts, such as "module load cuda"."""
    sbatch: dict[str, str] = Field(default_factory=dict)
    """Further sbatch options by their long names, such as {constraint = "a100"}."""

    @property
    def devices_per_node(self) -> int:
        """Processes of one device each that a node holds."""
        return self.gpus_per_node or self.cpus_per_node


class StepsSite(Section):
    """The srun steps of a run."""

    container: list[str] = Field(default_factory=list)
    """Words before every role's command, such as ["apptainer", "exec", "--nv", "/images/scalerl.sif"]."""
    srun: list[str] = Field(default_factory=list)
    """Further srun flags, such as ["--mpi=none"]."""
    warning_s: float = Field(1800, ge=0)
    """A run stops to checkpoint and requeues itself so long before its time limit."""


class SiteConfig(Section):
    """One site."""

    runs_dir: str = "runs"
    """Where runs and sweeps lie: a folder every node sees."""
    slurm: SlurmSite = SlurmSite()
    steps: StepsSite = StepsSite()


def load_site(path: Path | None = None) -> SiteConfig:
    """The site file `path`, else the one $SCALERL_SITE names, else slurm/site.toml, else the defaults.

    Raises:
        ValueError: a named file is missing, is not TOML, or sets what SiteConfig does not know.
    """
    named = path or (Path(os.environ["SCALERL_SITE"]) if os.environ.get("SCALERL_SITE") else None)
    path = named or DEFAULT_SITE
    if not path.exists():
        if named is None:
            return SiteConfig()
        raise ValueError(
            f"site file {path} does not exist; {DEFAULT_SITE} of the repository is a commented example"
        )
    try:
        return SiteConfig.model_validate(tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    except ValidationError as error:
        raise ValueError(f"{path}: {describe_errors(error)}") from None
