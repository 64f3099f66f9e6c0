"""Advantages of completions from the rewards of their groups (paper, section 3)."""

from typing import Literal

import numpy as np

SAME_REWARD = 1e-6
"""Difference below which rewards of a group count as equal: shards hold them as float32."""


def has_variance(rewards: np.ndarray) -> np.ndarray:
    """Return [prompts] bool: true where the rewards [prompts, completions] of a prompt are not all equal."""
    return np.ptp(rewards, axis=1) > SAME_REWARD


def advantages(
    rewards: np.ndarray, *, norm: Literal["batch", "prompt", "none"], zero_variance: Literal["drop", "keep"]
) -> tuple[np.ndarray, np.ndarray]:
    """Centre the rewards of each prompt and normalise them.

    rewards: [prompts, completions], of the whole step.
    norm: "prompt" divides by the standard deviation of the group, "batch" by that of all kept advantages of
    the batch, "none" by nothing (Dr. GRPO). Standard deviations are those of the population.
    zero_variance: "drop" takes the prompts whose rewards are all equal out of the batch, and so out of its
    standard deviation; "keep" leaves them in, with advantages of zero.

    Returns:
        (advantages [prompts, completions], kept [prompts] bool); a prompt that is not kept has zeros.
    """
    rewards = rewards.astype(np.float64)
    # Equal rewards are set to exactly zero, not to what rounding leaves of reward - mean: "prompt" would
    # divide that by a standard deviation as small, and make advantages of order one from noise.
    varied = has_variance(rewards)
    centred = np.where(varied[:, None], rewards - rewards.mean(axis=1, keepdims=True), 0.0)
    kept = varied if zero_variance == "drop" else np.ones(len(rewards), dtype=bool)
    if norm == "none" or not varied.any():
        return centred, kept
    scale = rewards.std(axis=1, keepdims=True) if norm == "prompt" else centred[kept].std()
    return np.divide(centred, scale, out=np.zeros_like(centred), where=varied[:, None]), kept
