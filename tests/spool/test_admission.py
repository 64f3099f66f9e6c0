"""Manifests and the admission rule; the rule in a simulated run is in test_admission_simulated.py."""

from dataclasses import replace

import pytest
from factories import make_manifest
from hypothesis import given
from hypothesis import strategies as st

from scalerl.config import OffPolicyConfig
from scalerl.spool.admission import (
    admit_until,
    goes_back,
    is_generation_policy,
    publish_manifest,
    read_manifest,
    startable_groups,
    wait_for_manifest,
)

MANIFEST = make_manifest(4, next_group=10, admitted=[(13, "d"), (10, "a"), (11, "b"), (12, "c")])


@pytest.mark.usefixtures("run_folder")
def test_manifest_round_trip_and_wait(paths):
    with pytest.raises(TimeoutError, match=r"latest\.json: the trainer has published no policy"):
        wait_for_manifest(paths, deadline_s=0.05, poll_s=0.01)
    manifest = make_manifest(3, next_group=48, batch_prompts=16, admitted=[(48, "p"), (49, "q")])
    publish_manifest(paths, manifest)
    assert wait_for_manifest(paths, deadline_s=1) == read_manifest(paths) == manifest
    publish_manifest(paths, replace(manifest, policy_version=4))
    assert read_manifest(paths).policy_version == 4


@pytest.mark.parametrize(
    ("mode", "k", "version", "batches"),
    [
        ("pipeline_rl", 1, 5, 2),
        ("pipeline_rl", 8, 5, 9),
        ("ppo_off_policy", 1, 5, 1),
        ("ppo_off_policy", 8, 16, 8),
        ("ppo_off_policy", 8, 19, 5),
    ],
)
def test_admitted_batches(mode, k, version, batches):
    off_policy = OffPolicyConfig(mode=mode, k=k)
    assert admit_until(off_policy, version, 100, 10) == 100 + 10 * batches
    assert is_generation_policy(off_policy, version) is (mode == "pipeline_rl" or version % k == 0)


@given(
    mode=st.sampled_from(["pipeline_rl", "ppo_off_policy"]),
    k=st.sampled_from([1, 2, 8]),
    growths=st.lists(st.integers(0, 3), min_size=1, max_size=30),
)
def test_off_policyness_never_exceeds_the_bound(mode, k, growths):
    """Train every group as late as the rule allows: started with the oldest policy that admits it."""
    off_policy = OffPolicyConfig(mode=mode, k=k)
    oldest_policy: dict[int, int] = {}
    next_group, batch = 0, 4
    for version, growth in enumerate(growths):
        if is_generation_policy(off_policy, version):
            for group in range(next_group, admit_until(off_policy, version, next_group, batch)):
                oldest_policy.setdefault(group, version)
        trained = range(next_group, next_group + batch)
        assert set(trained) <= oldest_policy.keys(), "the trainer would wait for groups that nobody may start"
        assert max(version - oldest_policy[group] for group in trained) <= off_policy.max_off_policyness
        next_group += batch
        if is_generation_policy(off_policy, version + 1):  # a batch grows at the start of a rollout phase
            batch += growth


def test_startable_groups():
    def groups(served_version, index, num_generators, taken=()):
        return startable_groups(
            MANIFEST, served_version, index=index, num_generators=num_generators, taken=taken
        )

    assert groups(4, 0, 1) == [(10, "a"), (11, "b"), (12, "c"), (13, "d")]
    assert groups(4, 1, 2, taken={13}) == [(11, "b")]
    assert groups(3, 0, 1) == [], "the manifest's policy is not loaded yet"
    assert groups(9, 0, 2) == [], "a resumed trainer published an old version again, which is not loaded yet"


def test_only_an_older_policy_goes_back():
    assert goes_back(MANIFEST, served_version=5)
    assert not goes_back(MANIFEST, served_version=4)
    assert not goes_back(MANIFEST, served_version=3)
