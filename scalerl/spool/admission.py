"""The staleness rule: which groups may be started with which policy, and who follows. The one place where
off_policy.k is decided.
 The bound: a group is started only with the policy of the manifest that admits it (`admit_until`). While it
runs the served policy only gets newer: when the trainer goes back to a checkpoint, what runs is dropped
(`goes_back`). So every token of the group is of that policy version or a newer one. The trainer checks each
token all the same, and has a group that breaks the bound generated again.
"""

import time
from collections.abc import Container
from dataclasses import asdict, dataclass

from scalerl.config import OffPolicyConfig
from scalerl.files import read_json, write_json
from scalerl.paths import RunPaths


@dataclass(frozen=True, kw_only=True)
class PolicyManifest:
    """weights/latest.json: the newest policy and the groups that may be generated with it or a newer one.

    policy_version: optimizer steps done. name, sha256: folder in weights/ and the hash of its weights.
    next_group: the first group no optimizer step has trained. batch_prompts: groups an optimizer step.
    admitted: (group, prompt_id) for every group in [next_group, admit_until). attempt: of the trainer that
    wrote it. published_s: unix time.
    """

    policy_version: int
    name: str
    sha256: str
    next_group: int
    batch_prompts: int
    admitted: list[tuple[int, str]]
    attempt: int
    published_s: float


def admit_until(off_policy: OffPolicyConfig, policy_version: int, next_group: int, batch_prompts: int) -> int:
    """The end of the window of groups that may be started once policy `policy_version` is loaded.

    Why the bound holds: batches never shrink, so a group below the returned index is trained at most
    ceil((returned - next_group) / batch_prompts) - 1 steps after `policy_version`: at most k for pipeline_rl,
    k - 1 for ppo_off_policy (which admits the rest of the rollout phase). Its tokens are of that version or
    newer.
    """
    k = off_policy.k
    batches = k + 1 if off_policy.mode == "pipeline_rl" else k - policy_version % k
    return next_group + batches * batch_prompts


def is_generation_policy(off_policy: OffPolicyConfig, policy_version: int) -> bool:
    """Whether generators load this version: every one in pipeline_rl, the first of each phase of k in
    ppo_off_policy.

    A run that resumes inside a phase publishes the policy of its checkpoint for what is left of the phase:
    less off-policy, never more.
    """
    return off_policy.mode == "pipeline_rl" or policy_version % off_policy.k == 0


def goes_back(manifest: PolicyManifest, served_version: int) -> bool:
    """Whether the trainer has resumed from its checkpoint, before the served policy.

    The groups running then were admitted by a newer policy. With older weights their tokens would break the
    bound; and without loading the older weights, a group that the replay needs again would get tokens newer
    than the policy it trains.
    """
    return manifest.policy_version < served_version


def startable_groups(
    manifest: PolicyManifest, served_version: int, *, index: int, num_generators: int, taken: Container[int]
) -> list[tuple[int, str]]:
    """(group, prompt_id) that generator `index` of `num_generators` should start now, the one the trainer
    needs first in front.

    taken: groups that are in the spool or running here.
    """
    if served_version != manifest.policy_version:
        return []
    mine = [(group, prompt_id) for group, prompt_id in manifest.admitted if group % num_generators == index]
    return sorted((group, prompt_id) for group, prompt_id in mine if group not in taken)


def publish_manifest(paths: RunPaths, manifest: PolicyManifest) -> None:
    """Make `manifest` the one that generators follow."""
    write_json(paths.latest_policy, asdict(manifest))


def read_manifest(paths: RunPaths) -> PolicyManifest | None:
    """The newest manifest, or None before the first."""
    if not paths.latest_policy.exists():
        return None
    values = read_json(paths.latest_policy)
    values["admitted"] = [(group, prompt_id) for group, prompt_id in values["admitted"]]
    return PolicyManifest(**values)


def wait_for_manifest(paths: RunPaths, deadline_s: float, poll_s: float = 0.1) -> PolicyManifest:
    """Wait for the trainer's first policy.

    Raises:
        TimeoutError: none was published within `deadline_s` seconds.
    """
    end_s = time.monotonic() + deadline_s
    while (manifest := read_manifest(paths)) is None:
        if time.monotonic() > end_s:
            raise TimeoutError(
                f"waited {deadline_s:.0f} s for {paths.latest_policy}: the trainer has published no policy; see its log"
            )
        time.sleep(poll_s)
    return manifest
