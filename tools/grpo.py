#!/usr/bin/env python3
"""GRPO's loss of one group of completions, step by step, on real rollouts of a run.

    python tools/grpo.py runs/demo-seed0 [--group 3100] [--tokens 10]        (make grpo)

It takes a group from the run's spool and the run's newest policy: what the trainer would compute if it
trained this group now. Nothing in the run folder is changed.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from scalerl.algo.advantages import advantages, has_variance
from scalerl.algo.aggregation import token_weights
from scalerl.algo.losses import LOSSES
from scalerl.common.table import format_table
from scalerl.config import AlgoConfig
from scalerl.paths import RunPaths
from scalerl.run_folder import read_config
from scalerl.spool.admission import read_manifest
from scalerl.spool.schema import Group, Rollout
from scalerl.spool.shards import Spool

WIDTH = 60
"""Characters of a text that are shown."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the lesson of one group."""
    parser = argparse.ArgumentParser(description="GRPO's loss of one group of a run, step by step")
    parser.add_argument("run", type=Path, help="run folder, such as runs/demo-seed0")
    parser.add_argument("--group", type=int, help="default: the newest one trained whose rewards differ")
    parser.add_argument("--tokens", type=int, default=10, help="of a completion: those of the largest ratios")
    parsed = parser.parse_args(arguments)
    try:
        print(run_lesson(RunPaths(parsed.run), parsed.group, parsed.tokens))
    except ValueError as error:
        print(f"grpo: error: {error}", file=sys.stderr)
        return 2
    return 0


def run_lesson(paths: RunPaths, number: int | None, num_tokens: int) -> str:
    """Return the lesson of a group of a run.

    Raises:
        ValueError: the folder holds no run, no policy, or no such group.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    if not paths.config.exists():
        raise ValueError(f"{paths.root} is no run folder; `make demo` makes runs/demo-seed0 in minutes")
    config, manifest = read_config(paths), read_manifest(paths)
    if manifest is None:
        raise ValueError(f"{paths.root} has published no policy yet")
    group = find_group(paths, number, manifest.next_group)
    disable_progress_bar()
    folder = paths.weights / manifest.name
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logprobs = [policy_logprobs(model, rollout, config.algo.temperature) for rollout in group]
    oldest = min(min(rollout.policy_versions) for rollout in group)
    newest = manifest.policy_version
    head = f"Group {group[0].group}, its first tokens sampled by policy {oldest}; the policy is now {newest}."
    return f"{head}\n\n{lesson(group, logprobs, lambda ids: tokenizer.decode(ids), num_tokens)}"


def find_group(paths: RunPaths, number: int | None, end: int) -> Group:
    """Return a group of the spool: the one asked for, or the newest before `end` whose rewards differ.

    Raises:
        ValueError: there is none.
    """
    there = sorted(int(path.stem) for path in paths.spool.glob("[0-9]*/[0-9]*.parquet"))
    if number is not None and number not in there:
        kept = f"groups {there[0]} to {there[-1]}" if there else "none"
        raise ValueError(f"the spool of {paths.root} has no group {number}; it keeps {kept}")
    spool = Spool(paths.spool)
    for candidate in [number] if number is not None else reversed([name for name in there if name < end]):
        group = spool.read(candidate)
        if number is not None or has_variance(np.array([[rollout.reward for rollout in group]]))[0]:
            return group
    raise ValueError(f"the spool of {paths.root} keeps no trained group whose rewards differ")


@torch.no_grad()
def policy_logprobs(model: torch.nn.Module, rollout: Rollout, temperature: float) -> list[float]:
    """Return log pi [T] of the tokens of a completion under the policy of now."""
    ids = torch.tensor([[*rollout.prompt_token_ids, *rollout.completion_token_ids]])
    logits = model(ids).logits[0, len(rollout.prompt_token_ids) - 1 : -1] / temperature
    chosen = logits.log_softmax(-1).gather(-1, ids[0, len(rollout.prompt_token_ids) :, None])
    return [float(value) for value in chosen[:, 0]]


def lesson(
    group: Group,
    logprobs: Sequence[Sequence[float]],
    decode: Callable[[list[int]], str],
    num_tokens: int,
    algo: AlgoConfig = AlgoConfig(),  # noqa: B008 (frozen)
) -> str:
    """Return the computation in words and numbers; logprobs: log pi of every token of every completion."""
    rewards = np.array([[rollout.reward for rollout in group]])
    values, _ = advantages(rewards, norm="prompt", zero_variance="keep")
    lengths = np.array([[sum(rollout.loss_mask) for rollout in group]])
    weights = token_weights(lengths, "sample")
    parts = [
        f"Prompt: {shorten(decode(list(group[0].prompt_token_ids)))}",
        _rewards(group, rewards[0], values[0]),
    ]
    for index in _examples(group, logprobs, values[0]):
        parts.append(
            _ratios(index, group[index], logprobs[index], values[0, index], decode, num_tokens, algo)
        )
    parts.append(_losses(group, logprobs, values[0], weights[0], algo))
    return "\n\n".join(parts)


def _rewards(group: Group, rewards: np.ndarray, values: np.ndarray) -> str:
    rows = [
        [str(index), f"{rollout.reward:+.2f}", f"{value:+.3f}", rollout.verdict, shorten(rollout.response)]
        for index, (rollout, value) in enumerate(zip(group, values, strict=True))
    ]
    table = format_table(rows, ["completion", "r", "A", "verdict", "text"], ">>>")
    mean, deviation = rewards.mean(), rewards.std()
    return (
        f"1. Advantages: A = (r - mean) / std, with mean {mean:+.3f} and std {deviation:.3f} of the group's "
        f"rewards.\n   Better than the group's average: more likely; worse: less likely.\n\n{table}"
    )


def _examples(group: Group, logprobs: Sequence[Sequence[float]], values: np.ndarray) -> list[int]:
    """Return one completion of positive and one of negative advantage: those whose ratios moved furthest."""
    moved = [
        max(abs(new - old) for new, old, mask in _tokens(rollout, logprobs[index]) if mask)
        for index, rollout in enumerate(group)
    ]
    signs = [[index for index in range(len(group)) if sign * values[index] > 0] for sign in (1, -1)]
    return [max(indices, key=lambda index: moved[index]) for indices in signs if indices]


def _tokens(rollout: Rollout, logprobs: Sequence[float]) -> list[tuple[float, float, bool]]:
    return list(zip(logprobs, rollout.logprobs, rollout.loss_mask, strict=True))


def _ratios(
    index: int,
    rollout: Rollout,
    logprobs: Sequence[float],
    advantage: float,
    decode: Callable[[list[int]], str],
    num_tokens: int,
    algo: AlgoConfig,
) -> str:
    """Return the ratios of a completion, and what clipping makes of those that moved furthest."""
    rows = []
    for position, (new, old, mask) in enumerate(_tokens(rollout, logprobs)):
        if not mask:  # forced: it was not sampled, and has no loss
            continue
        ratio = float(np.exp(new - old))
        clipped = float(np.clip(ratio, 1 - algo.grpo_eps, 1 + algo.grpo_eps))
        objective = min(ratio * advantage, clipped * advantage)
        cut = "clipped: no gradient" if objective < ratio * advantage else ""
        token = repr(decode([rollout.completion_token_ids[position]]))
        numbers = [old, new, ratio, clipped, ratio * advantage, objective]
        rows.append((abs(new - old), [str(position), token, *(f"{number:.3f}" for number in numbers), cut]))
    shown = sorted(rows, key=lambda row: -row[0])[:num_tokens]
    ordered = sorted((row for _, row in shown), key=lambda row: int(row[0]))
    header = ["token", "", "log pi_gen", "log pi", "rho", "clip", "rho A", "min", ""]
    low, high = 1 - algo.grpo_eps, 1 + algo.grpo_eps
    return (
        f"2. Ratios of completion {index}, A = {advantage:+.3f}: rho = exp(log pi - log pi_gen), and each "
        f"token has\n   min(rho A, clip(rho, {low:g}, {high:g}) A). Of its {len(rows)} tokens, those that "
        f"moved furthest:\n\n{format_table(ordered, header, '><>>>>>>')}"
    )


def _losses(
    group: Group,
    logprobs: Sequence[Sequence[float]],
    values: np.ndarray,
    weights: np.ndarray,
    algo: AlgoConfig,
) -> str:
    """Return the loss of the whole group under every loss there is, with the trainer's own functions."""
    flat = [
        (new, old, values[index], weights[index], index)
        for index, rollout in enumerate(group)
        for new, old, mask in _tokens(rollout, logprobs[index])
        if mask
    ]
    *columns, ids = zip(*flat, strict=True)
    tensors = [torch.tensor(column, dtype=torch.float64) for column in columns]
    rows = []
    for name, loss in LOSSES.items():
        value, counts = loss(*tensors, torch.tensor(ids), algo)
        rows.append([name, f"{value.item():+.4f}", f"{int(counts['clipped'])} of {len(flat)}"])
    table = format_table(rows, ["loss", "value", "tokens clipped"], "<>>")
    return (
        "3. The loss: minus the mean over each completion's tokens, then over the completions (GRPO's\n"
        f"   sample average). The same group under every loss:\n\n{table}"
    )


def shorten(text: str) -> str:
    """Return a text on one line, cut to WIDTH characters."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."


if __name__ == "__main__":
    sys.exit(main())
