"""What tests make again and again: rollouts, rows, policies, evaluation requests and run folders.

Every builder fills in what the test does not name, so that a test says only what it is about.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from scalerl.curve.sigmoid import Sigmoid
from scalerl.metrics.rows import EvalRow, StepRow, format_rows
from scalerl.paths import RunPaths
from scalerl.run_folder import RunStatus, save_config, write_status
from scalerl.settings import load_config
from scalerl.spool.admission import PolicyManifest
from scalerl.spool.evaluations import EvaluationRequest
from scalerl.spool.schema import Rollout


def make_rollout(group: int = 0, completion: int = 0, num_tokens: int = 3, **changes) -> Rollout:
    """Return a correct completion of `num_tokens` tokens, all sampled by the policy of version 0.

    A changed `correct` brings its reward and verdict along unless they are named too.
    """
    correct = changes.get("correct", True)
    values = {
        "group": group,
        "completion": completion,
        "prompt_id": f"prompt-{group}",
        "task": "math",
        "prompt_token_ids": [5, 6],
        "completion_token_ids": list(range(num_tokens)),
        "logprobs": [-0.5] * num_tokens,
        "loss_mask": [True] * num_tokens,
        "policy_versions": [0] * num_tokens,
        "response": "x",
        "reward": 1.0 if correct else -1.0,
        "correct": correct,
        "verdict": "equal" if correct else "different",
        "finish_reason": "stop",
        "truncated": False,
        "interrupted": False,
        "started_s": 1.5,
        "finished_s": 2.5,
        "writer": "generator-0",
        "attempt": 1,
    }
    return Rollout(**(values | changes))


def make_group(group: int = 0, size: int = 2, **changes) -> list[Rollout]:
    """Return `size` completions of one prompt."""
    return [make_rollout(group, completion, **changes) for completion in range(size)]


def make_manifest(policy_version: int = 0, **changes) -> PolicyManifest:
    """Return the manifest of a policy that admits nothing, of batches of two prompts."""
    values = {
        "policy_version": policy_version,
        "name": f"{policy_version:08d}-a",
        "sha256": "",
        "next_group": 0,
        "batch_prompts": 2,
        "admitted": [],
        "attempt": 1,
        "published_s": 0.0,
    }
    return PolicyManifest(**(values | changes))


def make_request(step: int = 0, **changes) -> EvaluationRequest:
    """Return the request to evaluate the policy after `step` steps."""
    values = {
        "step": step,
        "policy_version": step,
        "name": f"{step:08d}-a",
        "sha256": "",
        "epoch": 0.5,
        "generated_tokens": 9,
        "trained_tokens": 7,
        "flops": 8.0,
        "published_s": 100.0,
    }
    return EvaluationRequest(**(values | changes))


def sigmoid_rows(
    gpu_hours: Sequence[float], *, a: float = 0.6, b: float = 2.0, c_mid: float = 10.0, seed: int = 0
) -> list[EvalRow]:
    """Return evaluations on a sigmoid from .3 with noise of .004: one of step 0, then one every 100 steps, at
    `gpu_hours`."""
    noise = np.random.default_rng(seed).normal(0, 0.004, len(gpu_hours))
    rates = [0.3, *(Sigmoid(r0=0.3, a=a, b=b, c_mid=c_mid)(np.asarray(gpu_hours)) + noise)]
    return [
        EvalRow(
            step=100 * index,
            policy_version=100 * index,
            pass_rate=float(rate),
            gpu_hours=float(hours),
            generated_tokens=index * 10**6,
            trained_tokens=index * 10**5,
            flops=index * 1e15,
            num_prompts=1000,
            samples_per_prompt=16,
        )
        for index, (hours, rate) in enumerate(zip([0.5, *gpu_hours], rates, strict=True))
    ]


def make_status(state: str = "finished", **changes) -> RunStatus:
    """Return the status of a run that has just written it, after 120 steps and one GPU-hour; `changes` as
    they stand in the file."""
    values = {
        "state": state,
        "reason": f"it is {state}",
        "attempt": 1,
        "step": 120,
        "updated_s": time.time(),
        "gpu_hours": {"total": 1.0},
    }
    return RunStatus.from_json(values | changes, "a test")


def write_run(
    folder: Path,
    *overrides: str,
    rows: Iterable[StepRow | EvalRow] = (),
    status: RunStatus | None = None,
) -> RunPaths:
    """Make a run folder as a supervisor leaves it: its config, its rows if there are any, and its status if
    it was ever started. Its budget is 200 steps unless the overrides name one."""
    paths = RunPaths(folder)
    paths.create()
    if not any(override.startswith("budget.") for override in overrides):
        overrides = ("budget.max_steps=200", *overrides)
    save_config(paths, load_config([], overrides))
    if rows := list(rows):
        paths.metrics.write_text(format_rows(rows))
    if status is not None:
        write_status(paths, status)
    return paths
