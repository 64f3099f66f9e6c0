"""The generator process: follow the policy, start admitted groups, sample, publish.

    scalerl role generator --index 0 --dir runs/x --attempt 1        (started by `scalerl run`)

It goes one engine step at a time, never a batch: a slow completion holds nothing up. It keeps no state: what
is admitted, its own, not in the spool and not running gets started. So it may die and come back, and loses
only the completions it had begun.
"""

import time
from collections import deque
from functools import partial
from pathlib import Path

from scalerl.algo.rewards import reward
from scalerl.config import RunConfig
from scalerl.data.problem import Problem, load_problems
from scalerl.fence import check_attempt
from scalerl.generator.follow import PolicyFollower, weights_are_there
from scalerl.generator.unfinished import UnfinishedGroup
from scalerl.inference.completion import CompletionSampler
from scalerl.inference.engine import EngineOptions, SamplingEngine
from scalerl.inference.prompts import PromptEncoder, load_tokenizer
from scalerl.inference.sampling_role import SamplingRole
from scalerl.paths import RunPaths
from scalerl.role import start_verifier
from scalerl.spool.admission import (
    PolicyManifest,
    goes_back,
    read_manifest,
    startable_groups,
)
from scalerl.spool.shards import Spool
from scalerl.spool.weights import pinned_weights

IDLE_S = 0.02
"""Seconds to sleep when there is nothing to sample."""
RECONCILE_S = 2.0
"""Seconds between two comparisons of the admitted groups with the spool."""


def run_generator(run_dir: Path, *, index: int, attempt: int) -> None:
    """Generate until SIGTERM.

    Raises:
        TimeoutError: the trainer published no policy within launch.wait_for_weights_s.
        StaleAttempt: a newer attempt owns the run folder.
        ValueError: a manifest names an unknown prompt, a prompt is too long, or weights differ from their
            published hash.
    """
    role = SamplingRole(run_dir, index=index, attempt=attempt)
    config, paths = role.config, role.paths
    problems = {problem.prompt_id: problem for problem in load_problems(Path(config.data.train))}
    options = role.engine_options(index)
    manifest, engine = _start_engine(paths, options, owner=f"generator-{index}.{attempt}")
    role.work(
        engine,
        lambda: Generator(config, paths, index, attempt, problems, engine, manifest, options.seed),
    )


def _start_engine(
    paths: RunPaths, options: EngineOptions, owner: str
) -> tuple[PolicyManifest, SamplingEngine]:
    """Start an engine that serves the newest published policy; return its manifest, too."""
    # The trainer does not wait: it may replace a policy while it is read here. That is no error as long as
    # there is a newer one to take.
    while True:
        manifest = read_manifest(paths)
        assert manifest is not None, "waited for"
        if not weights_are_there(paths, manifest):
            continue
        try:
            with pinned_weights(paths, manifest.name, owner) as folder:
                return manifest, SamplingEngine(folder, manifest.policy_version, options)
        except FileNotFoundError:
            if read_manifest(paths) == manifest:
                raise


class Generator:
    """One generator of a run; `advance` does one round of its loop."""

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        index: int,
        attempt: int,
        problems: dict[str, Problem],
        engine: SamplingEngine,
        manifest: PolicyManifest,
        seed: int,
    ) -> None:
        """Prepare to generate with `engine`, which serves the policy of `manifest`.

        problems: by prompt_id.

        Raises:
            ValueError: a prompt is too long.
        """
        self._config, self._paths, self._index, self._attempt = config, paths, index, attempt
        self._problems, self._engine, self._manifest = problems, engine, manifest
        self._name = f"generator-{index}"
        tokenizer = load_tokenizer(config.model.path)
        self._prompts = PromptEncoder(tokenizer, config.data, config.length)
        self._prompts.encode_all(problems.values())
        self._sampler: CompletionSampler[tuple[int, int]] = CompletionSampler(
            engine, tokenizer, config.length, seed
        )
        self._reward = partial(reward, penalty=config.length.penalty)
        self._spool = Spool(paths.spool)
        self._waiting: deque[tuple[int, str]] = deque()
        self._groups: dict[int, UnfinishedGroup] = {}
        self._reconcile_at_s = 0.0
        self._follower = PolicyFollower(paths, manifest)
        self._pool = start_verifier(config, problems.values())

    def advance(self) -> None:
        """Load a new policy if there is one, start groups, do one engine step, publish what is whole.

        With nothing to sample it sleeps briefly.
        """
        self._follow()
        self._reconcile()
        self._start_groups()
        if self._sampler.num_running:
            self._sample()
        else:
            time.sleep(IDLE_S)
        self._publish()

    def close(self) -> None:
        """End the helpers; unfinished groups are dropped and will be generated again."""
        self._follower.stop()
        self._pool.close()

    def _follow(self) -> None:
        """Serve the policy of the newest manifest, between two engine steps, while completions run on."""
        manifest = self._follower.latest()
        if manifest == self._manifest:
            return
        # The trainer is at an earlier step than the policy served: what runs was admitted by a policy that
        # it has yet to make again. All of it goes; the manifest admits again what the replay needs.
        if goes_back(manifest, self._engine.policy_version):
            self._sampler.abort()
            self._groups.clear()
        if manifest.name != self._engine.policy_name and not self._reload(manifest):
            return
        # Only now may the groups it admits be started: with the policy that admits them, or a newer one.
        self._manifest = manifest
        self._reconcile_at_s = 0.0

    def _reload(self, manifest: PolicyManifest) -> bool:
        """Load the weights of a manifest; return False if a newer policy has replaced them meanwhile."""
        try:
            with pinned_weights(self._paths, manifest.name, f"{self._name}.{self._attempt}") as folder:
                load_s = self._engine.reload(folder, manifest.policy_version)
        except FileNotFoundError:
            if read_manifest(self._paths) == manifest:
                raise
            return False
        print(
            f"{self._name}: policy {manifest.name} loaded in {load_s:.3f} s "
            f"with {self._sampler.num_running} completions running"
        )
        return True

    def _reconcile(self) -> None:
        """Find the groups to start: those admitted that are neither in the spool nor running.

        That is how a group comes back whose shard the trainer has quarantined, or whose generator died.
        """
        # A listing costs a round trip on a shared file system, so it is not done in every round.
        if time.monotonic() < self._reconcile_at_s:
            return
        self._reconcile_at_s = time.monotonic() + RECONCILE_S
        manifest = self._manifest
        end = max((group for group, _ in manifest.admitted), default=-1) + 1
        taken = self._spool.present(manifest.next_group, end) | self._groups.keys()
        self._waiting = deque(
            startable_groups(
                manifest,
                self._engine.policy_version,
                index=self._index,
                num_generators=self._config.generator.num,
                taken=taken,
            )
        )

    def _start_groups(self) -> None:
        """Keep the engine full, and no fuller: what waits here is sampled with a newer policy later."""
        num_completions = self._config.batch.generations_per_prompt
        while self._waiting and self._sampler.num_running < self._config.generator.max_num_seqs:
            group, prompt_id = self._waiting.popleft()
            if prompt_id not in self._problems:
                raise ValueError(
                    f"group {group} has the prompt {prompt_id}, which {self._config.data.train} does not hold"
                )
            problem = self._problems[prompt_id]
            # All completions of a group start together, so that they share the prompt's KV cache.
            token_ids = self._prompts.encode(prompt_id, problem.prompt, problem.task)
            self._groups[group] = UnfinishedGroup(
                group=group, problem=problem, num_completions=num_completions
            )
            for completion in range(num_completions):
                self._sampler.submit((group, completion), token_ids)

    def _sample(self) -> None:
        """Do one engine step, and hand the completions that finished to the verifier."""
        for completion in self._sampler.step():
            group, index = completion.key
            problem = self._groups[group].problem
            verdict = self._pool.submit(completion.text, problem.answer, problem.task)
            self._groups[group].add(index, completion, verdict)

    def _publish(self) -> None:
        """Publish the groups that are whole, in whatever order they became so."""
        for group in [group for group in self._groups.values() if group.graded]:
            # Before each shard: a generator that a newer attempt has replaced must publish no more. A shard
            # that slips in between check and publish does no harm: the first of a group wins, and the trainer
            # checks prompt and policy versions of all it trains.
            check_attempt(self._paths, self._attempt)
            self._spool.publish(group.rollouts(self._reward, self._name, self._attempt))
            del self._groups[group.group]
