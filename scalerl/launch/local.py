"""The processes of a run on one machine without Slurm: which GPUs there are, and which process gets which."""

import os
import shutil
import subprocess

from scalerl.config import RunConfig
from scalerl.launch.processes import Layout, RoleProcess


def visible_gpus() -> list[str]:
    """Return the GPU indices this process may use; none: CPU.

    They are CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return [str(index) for index, line in enumerate(listing.stdout.splitlines()) if line.startswith("GPU ")]


def local_layout(config: RunConfig, gpus: list[str]) -> Layout:
    """Lay out one process a trainer rank, a generator and an evaluator, with GPUs in that order.

    gpus: from `visible_gpus`; none: CPU processes.

    Raises:
        ValueError: the machine has some GPUs, but not enough for the configured processes.
    """
    if gpus and config.num_devices > len(gpus):
        raise ValueError(
            f"{config.device_demand} need {config.num_devices} GPUs, this machine offers {len(gpus)}; "
            "lower them"
        )
    free = iter(gpus)

    def process(name: str, arguments: list[str], span: int) -> RoleProcess:
        mine = [next(free) for _ in range(span)] if gpus else []
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(mine)} if gpus else {}
        return RoleProcess(
            name=name,
            arguments=arguments,
            num_devices=max(1, len(mine)),
            gpus=len(mine),
            environment=environment,
        )

    def engines(role: str, count: int) -> list[RoleProcess]:
        span = config.generator.tensor_parallel_size
        return [process(f"{role}-{index}", [role, "--index", str(index)], span) for index in range(count)]

    ranks = range(config.trainer.num_ranks)
    layout = Layout(
        trainers=[process(f"trainer-{rank}", ["trainer", "--index", str(rank)], 1) for rank in ranks],
        generators=engines("generator", config.generator.num),
        evaluators=engines("evaluator", config.evaluation.num),
        trainer_address="127.0.0.1",
    )
    for rank, trainer in enumerate(layout.trainers):
        # each rank sees just its own GPU, so its local rank is always 0
        trainer.environment |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(len(ranks))}
    return layout
