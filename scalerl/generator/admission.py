"""What a generator may do under a manifest. Pure functions: with `spool.policy.admit_until` they bound the off-policyness.

The bound: a group is started only with the policy of the manifest that admits it. While it runs the served policy only gets newer:
when the trainer goes back to a checkpoint, what runs is dropped (`goes_back`). So every token of the group is of that policy
version or a newer one. The trainer checks each token all the same, and has a group that breaks the bound generated again.
"""

from collections.abc import Container

from scalerl.spool.policy import PolicyManifest


def goes_back(manifest: PolicyManifest, served_version: int) -> bool:
    """Whether the trainer has resumed from its checkpoint, before the served policy.

    The groups running then were admitted by a newer policy. With older weights their tokens would break the bound; and without loading
    the older weights, a group that the replay needs again would get tokens newer than the policy it trains.
    """
    return manifest.policy_version < served_version


def startable_groups(
    manifest: PolicyManifest, served_version: int, *, index: int, num_generators: int, taken: Container[int]
) -> list[tuple[int, str]]:
    """(group, prompt_id) that generator `index` of `num_generators` should start now, the one the trainer needs first in front.

    taken: groups that are in the spool or running here.
    """
    if served_version != manifest.policy_version:
        return []
    mine = [(group, prompt_id) for group, prompt_id in manifest.admitted if group % num_generators == index]
    return sorted((group, prompt_id) for group, prompt_id in mine if group not in taken)
