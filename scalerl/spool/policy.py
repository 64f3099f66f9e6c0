"""Published policies: immutable weight folders, the manifest that generators follow, and evaluation requests.

A folder is named <policy_version>-<first 12 hex digits of its content's SHA-256>, so that a name never means two contents and
a replay after a crash finds what it published before.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from scalerl.config import OffPolicyConfig
from scalerl.files import publish_folder, read_json, temporary_name, write_json
from scalerl.paths import RunPaths


@dataclass(frozen=True, kw_only=True)
class PolicyManifest:
    """weights/latest.json: the newest policy and the groups that may be generated with it or a newer one.

    policy_version: optimizer steps done. name, sha256: folder in weights/ and the hash of its weights. next_group: the first
    group no optimizer step has trained. batch_prompts: groups an optimizer step. admitted: (group, prompt_id) for every group in
    [next_group, admit_until). attempt: of the trainer that wrote it. published_s: unix time.
    """

    policy_version: int
    name: str
    sha256: str
    next_group: int
    batch_prompts: int
    admitted: list[tuple[int, str]]
    attempt: int
    published_s: float


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """evaluations/<step>.request.json: one policy to evaluate, with the compute spent up to its publication.

    epoch: groups trained per training prompt. tokens: completion tokens trained on, cumulative. flops: of generation and training,
    cumulative. published_s: unix time.
    """

    step: int
    policy_version: int
    name: str
    sha256: str
    epoch: float
    tokens: int
    flops: float
    published_s: float


def admit_until(off_policy: OffPolicyConfig, policy_version: int, next_group: int, batch_prompts: int) -> int:
    """The end of the window of groups that may be started once policy `policy_version` is loaded.

    Why the bound holds: batches never shrink, so a group below the returned index is trained at most
    ceil((returned - next_group) / batch_prompts) - 1 steps after `policy_version`: at most k for pipeline_rl, k - 1 for
    ppo_off_policy (which admits the rest of the rollout phase). Its tokens are of that version or newer.
    """
    k = off_policy.k
    batches = k + 1 if off_policy.mode == "pipeline_rl" else k - policy_version % k
    return next_group + batches * batch_prompts


def is_generation_policy(off_policy: OffPolicyConfig, policy_version: int) -> bool:
    """Whether generators load this version: every one in pipeline_rl, the first of each phase of k in ppo_off_policy.

    A run that resumes inside a phase publishes the policy of its checkpoint for what is left of the phase: less off-policy, never more.
    """
    return off_policy.mode == "pipeline_rl" or policy_version % off_policy.k == 0


def hash_weights(folder: Path) -> str:
    """SHA-256 over the safetensors files of a Hugging Face folder, in name order."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def publish_weights(paths: RunPaths, policy_version: int, write: Callable[[Path], object]) -> tuple[str, str]:
    """Write a Hugging Face folder with `write(folder)` and publish it under its immutable name.

    Returns:
        (name, sha256). A folder of that name, left by a replayed step, is kept: its content is the same.
    """
    temporary = temporary_name(paths.weights / f"{policy_version:08d}")
    temporary.mkdir()
    try:
        write(temporary)
        sha256 = hash_weights(temporary)
        name = f"{policy_version:08d}-{sha256[:12]}"
        if not (paths.weights / name).exists():
            publish_folder(temporary, paths.weights / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return name, sha256


def check_weights(folder: Path, sha256: str) -> None:
    """Compare a folder with the hash it was published under.

    Raises:
        ValueError: the content is not what the trainer published.
    """
    found = hash_weights(folder)
    if found != sha256:
        raise ValueError(
            f"{folder} has the hash {found[:12]}, its manifest says {sha256[:12]}: the file system served a wrong file"
        )


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


def request_evaluation(paths: RunPaths, request: EvaluationRequest) -> None:
    """Ask the evaluator for the pass rate of a policy, unless this very policy has been evaluated already."""
    result = paths.evaluations / f"{request.step:08d}.json"
    if result.exists() and read_json(result)["name"] == request.name:
        return
    write_json(paths.evaluations / f"{request.step:08d}.request.json", asdict(request))


def pending_evaluations(paths: RunPaths) -> list[EvaluationRequest]:
    """The requests not answered yet, oldest step first."""
    requests = []
    for path in sorted(paths.evaluations.glob("[0-9]*.request.json")):
        with suppress(FileNotFoundError):  # answered since it was listed
            requests.append(EvaluationRequest(**read_json(path)))
    return requests


def answer_evaluation(paths: RunPaths, request: EvaluationRequest, result: dict) -> None:
    """Store evaluations/<step>.json (`result` must hold the request's `name`) and close the request."""
    assert result["name"] == request.name
    write_json(paths.evaluations / f"{request.step:08d}.json", result)
    if request in pending_evaluations(paths):  # a replay may have asked for other weights of the same step meanwhile
        (paths.evaluations / f"{request.step:08d}.request.json").unlink()


def collect_old_weights(paths: RunPaths, keep: Collection[str]) -> int:
    """Delete the published folders that neither `keep` nor a pending evaluation names; returns how many."""
    needed = {*keep, *(request.name for request in pending_evaluations(paths))}
    old = [folder for folder in paths.weights.iterdir() if folder.name[0].isdigit() and folder.name not in needed]
    for folder in old:
        doomed = temporary_name(folder)
        os.rename(folder, doomed)  # gone at once: nobody must find half of it
        shutil.rmtree(doomed)
    return len(old)


def link_folder(source: Path, target: Path) -> None:
    """Make `target` a folder of hard links to the files of `source`; copies, on a file system without links.

    Raises:
        FileNotFoundError: `source` is gone, or went while its files were being linked.
    """
    target.mkdir()
    for path in source.iterdir():
        try:
            os.link(path, target / path.name)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copy2(path, target / path.name)


@contextmanager
def pinned_weights(paths: RunPaths, name: str, owner: str) -> Iterator[Path]:
    """A published folder, under its own name, that stays while `owner` reads it even if the trainer deletes the original.

    Raises:
        FileNotFoundError: it is gone already.
    """
    root = paths.weights / f".{owner}"
    shutil.rmtree(root, ignore_errors=True)  # of an owner that was killed
    root.mkdir()
    try:
        link_folder(paths.weights / name, root / name)
        yield root / name
    finally:
        shutil.rmtree(root)
