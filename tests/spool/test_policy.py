"""Published policies: immutable names, manifests, the admission rule, evaluation requests."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerl.config import OffPolicyConfig
from scalerl.paths import RunPaths
from scalerl.spool.admission import (
    PolicyManifest,
    admit_until,
    is_generation_policy,
    publish_manifest,
    read_manifest,
    wait_for_manifest,
)
from scalerl.spool.evaluations import (
    EvaluationRequest,
    answer_evaluation,
    pending_evaluations,
    request_evaluation,
)
from scalerl.spool.weights import check_weights, collect_old_weights, publish_weights


@pytest.fixture
def paths(tmp_path):
    paths = RunPaths(tmp_path / "run")
    paths.create()
    return paths


def publish(paths, version, content):
    return publish_weights(paths, version, lambda folder: (folder / "model.safetensors").write_bytes(content))


def make_request(step=0, name="00000000-abc"):
    return EvaluationRequest(
        step=step, policy_version=step, name=name, sha256="", epoch=0.5, tokens=1, flops=2.0, published_s=3.0
    )


def test_a_name_never_means_two_contents(paths):
    name, sha256 = publish(paths, 7, b"weights")
    assert name.startswith("00000007-")
    assert sha256.startswith(name.removeprefix("00000007-"))
    assert publish(paths, 7, b"weights") == (name, sha256)
    other, _ = publish(paths, 7, b"other weights")
    assert other != name
    assert (paths.weights / name / "model.safetensors").read_bytes() == b"weights"


def test_a_wrong_file_is_noticed(paths):
    name, sha256 = publish(paths, 1, b"weights")
    check_weights(paths.weights / name, sha256)
    (paths.weights / name / "model.safetensors").write_bytes(b"weights of another policy")
    with pytest.raises(ValueError, match="served a wrong file"):
        check_weights(paths.weights / name, sha256)


def test_a_failed_publication_leaves_nothing(paths):
    def fail(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_weights(paths, 1, fail)
    assert list(paths.weights.iterdir()) == []


def test_manifest_round_trip_and_wait(paths):
    with pytest.raises(TimeoutError, match=r"latest\.json: the trainer has published no policy"):
        wait_for_manifest(paths, deadline_s=0.05, poll_s=0.01)
    manifest = PolicyManifest(
        policy_version=3,
        name="00000003-ab",
        sha256="ab",
        next_group=48,
        batch_prompts=16,
        admitted=[(48, "p"), (49, "q")],
        attempt=1,
        published_s=2.0,
    )
    publish_manifest(paths, manifest)
    assert wait_for_manifest(paths, deadline_s=1) == read_manifest(paths) == manifest
    publish_manifest(paths, replace(manifest, policy_version=4))
    assert read_manifest(paths).policy_version == 4


@pytest.mark.parametrize(("mode", "k", "version", "batches"), [
    ("pipeline_rl", 1, 5, 2), ("pipeline_rl", 8, 5, 9), ("ppo_off_policy", 1, 5, 1), ("ppo_off_policy", 8, 16, 8),
    ("ppo_off_policy", 8, 19, 5),
])  # fmt: skip
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
    """Train every group as late as the rule allows: each was started with the oldest policy that admits
    it."""
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


def test_evaluation_requests_are_answered_once(paths):
    request_evaluation(paths, make_request(20, "00000020-b"))
    request_evaluation(paths, make_request(0, "00000000-a"))
    assert [request.step for request in pending_evaluations(paths)] == [0, 20]
    answer_evaluation(paths, make_request(0, "00000000-a"), {"name": "00000000-a", "pass_rate": 0.5})
    assert [request.step for request in pending_evaluations(paths)] == [20]
    request_evaluation(paths, make_request(0, "00000000-a"))
    assert [request.step for request in pending_evaluations(paths)] == [20]
    request_evaluation(paths, make_request(0, "00000000-other"))
    assert [request.step for request in pending_evaluations(paths)] == [0, 20]


def test_weights_are_kept_while_an_evaluation_needs_them(paths):
    names = [publish(paths, version, bytes([version]))[0] for version in range(4)]
    request_evaluation(paths, make_request(1, names[1]))
    assert collect_old_weights(paths, keep=[names[3]]) == 2
    assert sorted(folder.name for folder in paths.weights.iterdir()) == [names[1], names[3]]
