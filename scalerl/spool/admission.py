"""The staleness rule: which groups may be started with which policy. off_policy.k is decided only here.

A group is started only with the policy of the manifest that admits it (`admit_until`). While it runs the
served policy only gets newer: when the trainer goes back to a checkpoint, what runs is dropped (`goes_back`).
So every token of the group is of that policy version or a newer one, whatever dies or stalls. The trainer
checks each token all the same, and has a group that breaks the bound generated again.
"""

import time
from collections.abc import Container
from dataclasses import asdict, dataclass

from scalerl.common.files import read_json, write_json
from scalerl.config import OffPolicyConfig
from scalerl.paths import RunPaths


@dataclass(frozen=True, kw_only=True)
class PolicyManifest:
    """weights/latest.json: the newest policy, and the groups that may be generated with it or a newer one."""

    policy_version: int
    """Optimizer steps the policy has seen."""
    name: str
    """Name of its folder in weights/."""
    sha256: str
    """Hash of its weights (`weights.hash_weights`)."""
    next_group: int
    """First group that no optimizer step has trained."""
    batch_prompts: int
    """Groups an optimizer step trains."""
    admitted: list[tuple[int, str]]
    """(group, prompt_id) of every group from next_group up to, not including, the end of the window."""
    attempt: int
    """Attempt of the run whose trainer wrote the manifest."""
    published_s: float
    """Unix time of publication, in seconds."""


def admit_until(off_policy: OffPolicyConfig, policy_version: int, next_group: int, batch_prompts: int) -> int:
    """Return the end of the window of groups that may be started once policy `policy_version` is loaded."""
    k = off_policy.k
    # Why the window bounds staleness: batches never shrink, so the last of `batches` batches from next_group
    # on is trained at most `batches` - 1 steps after policy_version. Every token is of that version or newer,
    # hence at most k steps old in pipeline_rl. In ppo_off_policy the window is the rest of the rollout phase,
    # so the first batch of a phase is on-policy and its last one k - 1 steps old.
    batches = k + 1 if off_policy.mode == "pipeline_rl" else k - policy_version % k
    return next_group + batches * batch_prompts


def is_generation_policy(off_policy: OffPolicyConfig, policy_version: int) -> bool:
    """Say whether generators load this version.

    In pipeline_rl they load every one, in ppo_off_policy the first of each phase of k steps. A run that
    resumes inside a phase publishes the policy of its checkpoint for what is left of it: less off-policy,
    never more.
    """
    return off_policy.mode == "pipeline_rl" or policy_version % off_policy.k == 0


def goes_back(manifest: PolicyManifest, served_version: int) -> bool:
    """Say whether the trainer has resumed from a checkpoint that lies before the served policy."""
    # The groups running then were admitted by a newer policy. Finished with the older weights, their tokens
    # would break the bound; finished without loading them, a group that the replay needs again would hold
    # tokens newer than the policy it trains. So the generator drops them all and starts what the older
    # manifest admits.
    return manifest.policy_version < served_version


def startable_groups(
    manifest: PolicyManifest, served_version: int, *, index: int, num_generators: int, taken: Container[int]
) -> list[tuple[int, str]]:
    """Return the (group, prompt_id) that generator `index` of `num_generators` should start now.

    They come in the order in which the trainer needs them. taken: the groups in the spool or running here.
    """
    # Only the policy that admits a group may start it: with an older one, its first tokens could be staler
    # than the window allows.
    if served_version != manifest.policy_version:
        return []
    mine = [(group, prompt_id) for group, prompt_id in manifest.admitted if group % num_generators == index]
    return sorted((group, prompt_id) for group, prompt_id in mine if group not in taken)


def publish_manifest(paths: RunPaths, manifest: PolicyManifest) -> None:
    """Make `manifest` the one that generators follow."""
    write_json(paths.latest_policy, asdict(manifest))


def read_manifest(paths: RunPaths) -> PolicyManifest | None:
    """Return the newest manifest, or None before the first."""
    if not paths.latest_policy.exists():
        return None
    values = read_json(paths.latest_policy)
    values["admitted"] = [(group, prompt_id) for group, prompt_id in values["admitted"]]
    return PolicyManifest(**values)


def wait_for_manifest(paths: RunPaths, deadline_s: float, poll_s: float = 0.1) -> PolicyManifest:
    """Wait for the trainer's first policy and return its manifest.

    Raises:
        TimeoutError: none was published within `deadline_s` seconds.
    """
    end_s = time.monotonic() + deadline_s
    while (manifest := read_manifest(paths)) is None:
        if time.monotonic() > end_s:
            raise TimeoutError(
                f"waited {deadline_s:.0f} s for {paths.latest_policy}: the trainer has published no policy; "
                f"see its log"
            )
        time.sleep(poll_s)
    return manifest
