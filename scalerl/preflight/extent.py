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
    cpu_text_tokens: int
    """Length of the random text on a CPU."""
    gpu_text_tokens: int
    """Length of the random text on a GPU."""

    def text_tokens(self) -> int:
        """Return the length of the random text on this machine."""
        on_gpu = any(Path("/proc/driver/nvidia/gpus").glob("*"))
        return self.gpu_text_tokens if on_gpu else self.cpu_text_tokens


_SHORT = Extent(num_prompts=16, max_samples=4, num_scored=6, cpu_text_tokens=512, gpu_text_tokens=4096)
_FULL = Extent(num_prompts=64, max_samples=8, num_scored=24, cpu_text_tokens=4096, gpu_text_tokens=32_768)
EXTENTS = {"short": _SHORT, "full": _FULL}
