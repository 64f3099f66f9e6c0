"""Which accelerators this machine offers, and which process gets which."""

import os
import shutil
import subprocess

from scalerl.config import RunConfig


def visible_gpus() -> list[str]:
    """The GPU indices this process may use: CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists. Empty: CPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device for device in visible.split(",") if device.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return [str(index) for index, line in enumerate(listing.stdout.splitlines()) if line.startswith("GPU ")]


def assign_devices(config: RunConfig, gpus: list[str]) -> dict[str, list[str]]:
    """GPUs of every process by its name: trainer ranks first, then generators, then the evaluator. No GPUs: empty lists.

    Raises:
        ValueError: the machine has some GPUs, but not enough for the configured processes.
    """
    span = config.generator.tensor_parallel_size
    needs = {f"trainer-{rank}": 1 for rank in range(config.trainer.num_ranks)}
    needs |= {f"generator-{index}": span for index in range(config.generator.num)} | {"evaluator": span}
    if not gpus:
        return {name: [] for name in needs}
    if sum(needs.values()) > len(gpus):
        raise ValueError(
            f"trainer.num_ranks={config.trainer.num_ranks}, generator.num={config.generator.num} and one evaluator "
            f"(generator.tensor_parallel_size={span}) need {sum(needs.values())} GPUs, this machine offers {len(gpus)}; lower them"
        )
    free = iter(gpus)
    return {name: [next(free) for _ in range(count)] for name, count in needs.items()}
