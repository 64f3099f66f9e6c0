"""What a generator may do under a manifest. Pure functions: with `spool.policy.admit_until` they bound the off-policyness.

The bound: a group is started only when the served policy is at least as new as the manifest that admits it, and the served policy
never goes back; so every token of the group is of that policy version or a newer one.
"""

from collections.abc import Container

from scalerl.spool.policy import PolicyManifest


def must_load(manifest: PolicyManifest, served_name: str, served_version: int) -> bool:
    """Whether to load the manifest's policy.

    Not an older one: a trainer that resumes from its checkpoint publishes old versions again, while groups that a newer version
    admitted are still running.
    """
    return manifest.name != served_name and manifest.policy_version >= served_version


def startable_groups(
    manifest: PolicyManifest, served_version: int, *, index: int, num_generators: int, taken: Container[int]
) -> list[tuple[int, str]]:
    """(group, prompt_id) that generator `index` of `num_generators` should start now, the one the trainer needs first in front.

    taken: groups that are in the spool or running here.
    """
    if served_version < manifest.policy_version:
        return []
    mine = [(group, prompt_id) for group, prompt_id in manifest.admitted if group % num_generators == index]
    return sorted((group, prompt_id) for group, prompt_id in mine if group not in taken)
