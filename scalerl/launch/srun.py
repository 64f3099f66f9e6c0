"""The processes of a run inside a Slurm job: each an `srun` step with its own GPUs, memory and log.

The trainer ranks are the tasks of one step, since they live and die together and peer-to-peer copies between
GPUs need ranks that see one another's devices. Every generator and evaluator is a step that can be restarted
alone. In a heterogeneous job the trainer takes the first component, generators and evaluators the second.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from scalerl.cluster.site import StepsSite
from scalerl.cluster.slurm import HET_PREFIX, Allocation, Node, SlurmError, component_ids_here, kill_step
from scalerl.config import RunConfig
from scalerl.launch.processes import Layout, RoleProcess

MEMORY_SHARE = 0.95
"""Share of a node's memory that steps get; the batch script runs beside them."""
KEPT = ("SLURM_CONF", "SLURM_JOB_ID", "SLURM_JOBID", "SLURM_HET_SIZE")


@dataclass(kw_only=True)
class StepProcess(RoleProcess):
    """A role as an srun step; the process watched here is the srun client."""

    attempt: int = 0

    @property
    def step_name(self) -> str:
        """Name the step, of this attempt and no other.

        A job that Slurm started again has the same number, and may be at work elsewhere.
        """
        return f"{self.name}.{self.attempt}"

    def words_before(self, attempt: int) -> list[str]:
        """Return the words of srun."""
        self.attempt = attempt
        return ["srun", f"--job-name={self.step_name}", *self.prefix]

    def base_environment(self) -> dict[str, str]:
        """Return the environment without SLURM_* of the batch step: srun would take them for its options."""
        inherited = super().base_environment()
        return {key: value for key, value in inherited.items() if not key.startswith("SLURM_") or _kept(key)}

    def kill(self) -> None:
        """Kill the step; srun alone would leave its tasks running."""
        with suppress(SlurmError):  # it ends with its attempt all the same
            kill_step(component_ids_here(), self.step_name)
        super().kill()


def _kept(key: str) -> bool:
    return key in KEPT or key.startswith(HET_PREFIX)


class _Room:
    """The devices of one node that no step has yet: GPUs, or CPUs where the job has no GPU."""

    def __init__(self, node: Node, on_gpus: bool) -> None:
        self.node = node
        self.on_gpus = on_gpus
        self.size = node.gpus if on_gpus else node.cpus
        self.free = self.size

    def flags(self, tasks: int, devices: int) -> list[str]:
        """Return srun's flags for `devices` devices of this node, shared by `tasks` tasks."""
        cpus = max(1, self.node.cpus * devices // self.size // tasks)
        # with two threads a core, --exact rounds up to whole cores, which may be more than there are
        cpus -= cpus % 2 if cpus > 1 else 0
        mem_mb = int(self.node.mem_mb * MEMORY_SHARE * devices / self.size)
        flags = [f"--ntasks-per-node={tasks}", f"--cpus-per-task={cpus}", f"--mem={mem_mb}M"]
        return [*flags, f"--gpus-per-node={devices}"] if self.on_gpus else flags


def step_layout(config: RunConfig, allocation: Allocation, site: StepsSite) -> Layout:
    """Place every role of the run on the nodes of the job.

    Raises:
        ValueError: the job has too few GPUs (or CPUs), or they lie so that a role does not fit on a node.
    """
    on_gpus = any(node.gpus for node in allocation.nodes)
    rooms = [_Room(node, on_gpus) for node in allocation.nodes]
    het_groups = sorted({node.het_group for node in allocation.nodes})
    for_trainer = [room for room in rooms if room.node.het_group == het_groups[0]]
    for_engines = [room for room in rooms if room.node.het_group == het_groups[-1]]
    too_small = _too_small(config, rooms, on_gpus)

    def step(
        name: str, arguments: list[str], where: Sequence[_Room], tasks: int, devices: int
    ) -> RoleProcess:
        options = _take(where, tasks, devices)
        if len(het_groups) > 1:
            options.append(f"--het-group={where[0].node.het_group}")
        return StepProcess(
            name=name,
            arguments=arguments,
            num_devices=devices * len(where),
            gpus=devices if on_gpus and site.cuda else 0,
            prefix=[*options, *site.srun, *site.container],
        )

    def engine(role: str, index: int) -> RoleProcess:
        span = config.generator.tensor_parallel_size
        room = next((room for room in for_engines if room.free >= span), None)
        if room is None:
            raise ValueError(too_small)
        return step(f"{role}-{index}", [role, "--index", str(index)], [room], 1, span)

    where = _even_split(config.trainer.num_ranks, for_trainer)
    if not where:
        raise ValueError(too_small)
    ranks_per_node = config.trainer.num_ranks // len(where)
    trainer = step("trainer", ["trainer"], where, ranks_per_node, ranks_per_node)
    evaluators = [engine("evaluator", index) for index in range(config.evaluation.num)]
    generators = [engine("generator", index) for index in range(config.generator.num)]
    return Layout(
        trainers=[trainer], generators=generators, evaluators=evaluators, trainer_address=where[0].node.name
    )


def _take(where: Sequence[_Room], tasks: int, devices: int) -> list[str]:
    """Take `devices` devices of each room, and return srun's options of a step with `tasks` tasks in each."""
    names = ",".join(room.node.name for room in where)
    # Ranks wait for a dead one in a collective. A step of one task has nobody to end, and its srun shall not
    # try.
    together = int(tasks * len(where) > 1)
    options = ["--exact", f"--kill-on-bad-exit={together}", "--input=none", f"--nodelist={names}"]
    options += [f"--nodes={len(where)}", f"--ntasks={tasks * len(where)}", *where[0].flags(tasks, devices)]
    options += ["--label"] if together else []
    for room in where:
        room.free -= devices
    return options


def _even_split(num_ranks: int, rooms: Sequence[_Room]) -> list[_Room]:
    """Return the fewest of the first nodes that take the same number of ranks each; none: they do not fit."""
    for count in range(1, len(rooms) + 1):
        if num_ranks % count == 0 and all(room.free >= num_ranks // count for room in rooms[:count]):
            return list(rooms[:count])
    return []


def _too_small(config: RunConfig, rooms: Sequence[_Room], on_gpus: bool) -> str:
    kind = "GPUs" if on_gpus else "CPUs (the job has no GPU, so each process takes one)"
    offer = ", ".join(f"{room.node.name} {room.size}" for room in rooms)
    return (
        f"{config.device_demand} need {config.num_devices} {kind}, the ranks evenly on their nodes and an "
        f"engine on one node; this job has {offer}. Ask for more nodes, or lower these"
    )
