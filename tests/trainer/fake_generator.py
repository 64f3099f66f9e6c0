"""A generator without a model: it follows the manifest and publishes rollouts that depend on nothing but seed
and group."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from factories import make_rollout

from scalerl.paths import RunPaths
from scalerl.spool.admission import read_manifest
from scalerl.spool.schema import Rollout, write_group
from scalerl.spool.shards import Spool

VOCABULARY = 31


def make_group(group: int, prompt_id: str, policy_version: int, num_completions: int) -> list[Rollout]:
    """Return random completions; groups 0, 4, 8, ... have equal rewards, the others mixed ones."""
    random = np.random.default_rng(group)
    prompt = random.integers(3, VOCABULARY, size=6)
    rollouts = []
    for completion in range(num_completions):
        num_tokens = int(random.integers(4, 20))
        rollout = make_rollout(
            group,
            completion,
            num_tokens,
            prompt_id=prompt_id,
            prompt_token_ids=prompt.tolist(),
            completion_token_ids=random.integers(3, VOCABULARY, size=num_tokens).tolist(),
            logprobs=(-np.log(VOCABULARY) + 0.1 * random.normal(size=num_tokens)).tolist(),
            policy_versions=[policy_version] * num_tokens,
            correct=group % 4 != 0 and completion <= group % num_completions,
            truncated=completion == 0,
            interrupted=completion == 1,
            writer="fake",
        )
        rollouts.append(rollout)
    return rollouts


def change(rollouts: list[Rollout], index: int, **values) -> list[Rollout]:
    return [
        replace(rollout, **values) if position == index else rollout
        for position, rollout in enumerate(rollouts)
    ]


SPOILERS: dict[str, Callable[[list[Rollout]], list[Rollout]]] = {
    "was admitted": lambda group: [replace(rollout, prompt_id="another") for rollout in group],
    "generations_per_prompt": lambda group: group[:-1],
    "off-policyness 3 to 3": lambda group: change(
        group, 1, policy_versions=[-3] * len(group[1].policy_versions)
    ),
    "off-policyness -9 to -9": lambda group: change(
        group, 0, policy_versions=[9] * len(group[0].policy_versions)
    ),
    "is not finite": lambda group: change(group, 2, logprobs=[float("nan")] * len(group[2].logprobs)),
    "vocabulary of 31": lambda group: change(group, 0, prompt_token_ids=[31]),
}
"""What the reason of the refusal must say -> how to spoil a group of step 0 so."""


class FakeGenerator(threading.Thread):
    """Publishes every group the manifest admits. `spoil`: {group: key of SPOILERS, or "torn"} for the first
    try of a group."""

    def __init__(self, paths: RunPaths, num_completions: int, spoil: dict[int, str] | None = None) -> None:
        super().__init__(daemon=True)
        self._paths = paths
        self._num_completions = num_completions
        self._spoil = dict(spoil or {})
        self._spool = Spool(paths.spool)
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.02):
            manifest = read_manifest(self._paths)
            for group, prompt_id in manifest.admitted if manifest else []:
                if not self._spool.path(group).exists():
                    self._publish(
                        make_group(group, prompt_id, manifest.policy_version, self._num_completions)
                    )

    def _publish(self, rollouts: list[Rollout]) -> None:
        how = self._spoil.pop(rollouts[0].group, None)
        if how == "torn":
            self._publish_torn(rollouts)
        elif how is None:
            self._spool.publish(rollouts)
        else:
            self._spool.publish(SPOILERS[how](rollouts))

    def _publish_torn(self, rollouts: list[Rollout]) -> None:
        path = self._spool.path(rollouts[0].group)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = Path(f"{path.parent}/.torn")
        write_group(whole, rollouts)
        whole.write_bytes(whole.read_bytes()[:500])
        whole.rename(path)

    def stop(self) -> None:
        self._end.set()
        self.join()
