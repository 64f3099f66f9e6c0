"""An evaluator process: sample its share of each evaluation, oldest first, one fixed policy at a time.

    scalerl role evaluator --index 0 --dir runs/x --attempt 1        (started by `scalerl run`)

The trainer never waits for it: weights stay on disk until their evaluation is answered.
"""

import time
from itertools import chain
from pathlib import Path

from scalerl.config import RunConfig
from scalerl.data.problem import Problem, load_problems
from scalerl.evaluator.finish import finish_oldest
from scalerl.evaluator.mean_at_k import policy_versions, sample_and_grade
from scalerl.evaluator.parts import Parts
from scalerl.inference.completion import CompletionSampler
from scalerl.inference.engine import SamplingEngine
from scalerl.inference.prompts import PromptEncoder, load_tokenizer
from scalerl.inference.sampling_role import SamplingRole
from scalerl.role import StopSignal, start_verifier
from scalerl.spool.evaluations import EvaluationRequest
from scalerl.spool.weights import check_weights

POLL_S = 0.2
"""Seconds between two looks for a request."""


def run_evaluator(run_dir: Path, *, index: int, attempt: int) -> None:
    """Evaluate as number `index` of evaluation.num until SIGTERM.

    Raises:
        TimeoutError: the trainer published no policy within launch.wait_for_weights_s.
        StaleAttempt: a newer attempt owns the run folder.
        ValueError: weights differ from their published hash, or a prompt is too long.
    """
    role = SamplingRole(run_dir, index=index, attempt=attempt)
    config, paths = role.config, role.paths
    parts = Parts(paths, index=index, num=config.evaluation.num, attempt=attempt)
    # The engine starts with the weights of the first request, so that it need not reload at once. Until there
    # is one, evaluator 0 answers what an earlier attempt has sampled and not finished.
    while (request := parts.next_request()) is None:
        finish_oldest(parts)
        time.sleep(POLL_S)
    # The generators have the numbers before; equal seeds would have two engines sample alike.
    options = role.engine_options(config.generator.num + index)
    folder = paths.weights / request.name
    check_weights(folder, request.sha256)
    engine = SamplingEngine(folder, request.policy_version, options)
    role.work(engine, lambda: Evaluator(config, parts, engine, options.seed, role.stop))


class Evaluator:
    """One evaluator of a run; `advance` does its part of one evaluation, or sleeps briefly."""

    def __init__(
        self, config: RunConfig, parts: Parts, engine: SamplingEngine, seed: int, stop: StopSignal
    ) -> None:
        """Prepare to evaluate this evaluator's share of the held-out prompts, and of the test set's.

        Raises:
            ValueError: a prompt is too long.
        """
        self._config, self._parts, self._engine, self._stop = config, parts, engine, stop
        tokenizer = load_tokenizer(config.model.path)
        self._prompts = PromptEncoder(tokenizer, config.data, config.length)
        self._sampler: CompletionSampler[int] = CompletionSampler(engine, tokenizer, config.length, seed)
        files = {"": config.data.heldout, config.data.test: config.data.test or config.data.heldout}
        self._problems = {test_set: self._share(Path(file)) for test_set, file in files.items()}
        """This evaluator's problems of the held-out file, "", and of the test set, by its name."""
        problems = list(chain.from_iterable(self._problems.values()))
        self._prompts.encode_all(problems)
        self._pool = start_verifier(config, problems)

    def _share(self, file: Path) -> list[Problem]:
        problems = load_problems(file)[: self._config.evaluation.num_prompts]
        return problems[self._parts.index :: self._parts.num]

    def advance(self) -> None:
        """Do this evaluator's part of the oldest request that lacks it, or sleep; answer what is whole."""
        request = self._parts.next_request()
        if request is None:
            time.sleep(POLL_S)
        else:
            self._evaluate(request)
        finish_oldest(self._parts)

    def close(self) -> None:
        """End the verifier."""
        self._pool.close()

    def _evaluate(self, request: EvaluationRequest) -> None:
        """Leave this evaluator's part of an evaluation; leave nothing when asked to stop before its end."""
        begin_s = time.monotonic()
        folder = self._parts.paths.weights / request.name
        # No pin is needed as in the generator: the weights of an open request stay.
        check_weights(folder, request.sha256)
        if self._engine.policy_name != request.name:
            self._engine.reload(folder, request.policy_version)
        results = sample_and_grade(
            self._problems[request.test_set],
            self._config.evaluation.samples_per_prompt,
            sampler=self._sampler,
            prompts=self._prompts,
            pool=self._pool,
            max_num_seqs=self._config.generator.max_num_seqs,
            stop_requested=lambda: self._stop.requested,
        )
        # Half a part would bias the mean towards short completions, which finish first.
        if results is None:
            return
        assert policy_versions(results) == {request.policy_version}, "one fixed policy samples everything"
        self._parts.write(request, [result.tally for result in results], time.monotonic() - begin_s)
