"""How much of an exam each form of preflight takes."""

from dataclasses import dataclass
from pathlib import Path

MAX_PROMPTS = 64
"""Prompts sampled at most."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The size of one form of preflight."""

    num_prompts: int
    """Prompts of a round; other rounds follow while nothing was rewarded, up to MAX_PROMPTS in all."""
    max_samples: int
    """Completions of a prompt, at most those of a group."""
    num_scored: int
    """Completions that the other paths score, of those before the reload and of those after it."""
    cpu_tokens: int
    """Length of the random text on a CPU, and of what is scored of a completion and its prompt."""
    gpu_tokens: int
    """The same on a GPU: attention in plain PyTorch takes the square of it."""

    def scored_tokens(self) -> int:
        """Return that length on this machine."""
        on_gpu = any(Path("/proc/driver/nvidia/gpus").glob("*"))
        return self.gpu_tokens if on_gpu else self.cpu_tokens


_SHORT = Extent(num_prompts=16, max_samples=4, num_scored=6, cpu_tokens=512, gpu_tokens=4096)
_FULL = Extent(num_prompts=64, max_samples=8, num_scored=24, cpu_tokens=4096, gpu_tokens=8192)
EXTENTS = {"short": _SHORT, "full": _FULL}
