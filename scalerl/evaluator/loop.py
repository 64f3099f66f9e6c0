"""The evaluator process: answers the trainer's requests, oldest first, one fixed policy at a time, and never makes it wait.

    scalerl role evaluator --dir runs/x --attempt 1        (started by `scalerl run`)

A request stays open until everything that follows from it is on disk, so a crash at any point only repeats work.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from scalerl.config import RunConfig
from scalerl.data.problem import load_problems
from scalerl.evaluator.best import keep_if_best
from scalerl.evaluator.mean_at_k import sample_and_grade, summarise
from scalerl.fence import check_attempt
from scalerl.files import read_json, write_json
from scalerl.inference.completion import CompletionSampler
from scalerl.inference.engine import EngineOptions, SamplingEngine, import_vllm
from scalerl.inference.prompts import PromptEncoder, load_tokenizer
from scalerl.inference.stop import StopSignal
from scalerl.inference.verifier import start_verifier
from scalerl.metrics import post_row
from scalerl.paths import RunPaths
from scalerl.spool.policy import (
    EvaluationRequest,
    answer_evaluation,
    check_weights,
    pending_evaluations,
    wait_for_manifest,
)

POLL_S = 0.2
NOT_IN_ROW = ("name", "prompt_ids", "num_correct")


def run_evaluator(run_dir: Path, *, attempt: int) -> None:
    """Evaluate until SIGTERM.

    Raises:
        TimeoutError: the trainer published no policy within launch.wait_for_weights_s.
        StaleAttempt: a newer attempt owns the run folder.
        ValueError: weights differ from their published hash, or a prompt is too long.
    """
    stop = StopSignal()
    paths = RunPaths(run_dir)
    config = RunConfig.model_validate(read_json(paths.config)["config"])
    import_vllm()
    wait_for_manifest(paths, config.launch.wait_for_weights_s)
    while not (pending := pending_evaluations(paths)):
        time.sleep(POLL_S)
    seed = int(np.random.SeedSequence([config.seed, config.generator.num, attempt]).generate_state(1)[0])
    check_weights(paths.weights / pending[0].name, pending[0].sha256)
    engine = SamplingEngine(paths.weights / pending[0].name, pending[0].policy_version, EngineOptions.of(config, seed))
    try:
        evaluator = Evaluator(config, paths, attempt, engine, seed, stop)
        try:
            stop.loop_started = True
            while not stop.requested:
                evaluator.advance()
        finally:
            evaluator.close()
    finally:
        engine.shutdown()


class Evaluator:
    """The evaluator of a run; `advance` answers one request, or sleeps briefly."""

    def __init__(
        self, config: RunConfig, paths: RunPaths, attempt: int, engine: SamplingEngine, seed: int, stop: StopSignal
    ) -> None:
        self._config, self._paths, self._attempt, self._engine, self._stop = config, paths, attempt, engine, stop
        tokenizer = load_tokenizer(config.model.path)
        self._prompts = PromptEncoder(
            tokenizer,
            instruction=config.data.instruction,
            code_instruction=config.data.code_instruction,
            max_prompt_tokens=config.length.max_prompt_tokens,
        )
        self._sampler: CompletionSampler[int] = CompletionSampler(engine, tokenizer, config.length, seed)
        self._problems = load_problems(Path(config.data.heldout))[: config.evaluation.num_prompts]
        for problem in self._problems:  # a prompt that is too long ends the run now, not in the middle of an evaluation
            self._prompts.encode(problem.prompt_id, problem.prompt, problem.task)
        self._pool = start_verifier(config, self._problems)

    def advance(self) -> None:
        pending = pending_evaluations(self._paths)
        if not pending:
            time.sleep(POLL_S)
            return
        result = self._stored(pending[0]) or self._evaluate(pending[0])
        if result is not None:
            self._finish(pending[0], result)

    def close(self) -> None:
        self._pool.close()

    def _stored(self, request: EvaluationRequest) -> dict[str, Any] | None:
        """The result of this request, if an evaluator died between measuring and closing it."""
        path = self._paths.evaluations / f"{request.step:08d}.json"
        result = read_json(path) if path.exists() else None
        return result if result is not None and result["name"] == request.name else None

    def _evaluate(self, request: EvaluationRequest) -> dict[str, Any] | None:
        """The result, or None when asked to stop."""
        begin_s = time.monotonic()
        folder = self._paths.weights / request.name
        check_weights(folder, request.sha256)
        if self._engine.policy_name != request.name:
            self._engine.reload(folder, request.policy_version)
        results = sample_and_grade(
            self._problems,
            self._config.evaluation.samples_per_prompt,
            sampler=self._sampler,
            prompts=self._prompts,
            pool=self._pool,
            max_num_seqs=self._config.generator.max_num_seqs,
            stop_requested=lambda: self._stop.requested,
        )
        if results is None:
            return None
        versions = {version for result in results for completion in result.completions for version in completion.policy_versions}
        assert versions == {request.policy_version}
        return {
            "step": request.step,
            "policy_version": request.policy_version,
            **summarise(results),
            "epoch": request.epoch,
            "tokens": request.tokens,
            "flops": request.flops,
            "evaluation_s": time.monotonic() - begin_s,
            "name": request.name,
            "prompt_ids": [result.problem.prompt_id for result in results],
            "num_correct": [result.num_correct for result in results],
        }

    def _finish(self, request: EvaluationRequest, result: dict[str, Any]) -> None:
        """Store the result first: whatever is cut short after that is done again with the same numbers."""
        check_attempt(self._paths, self._attempt)
        write_json(self._paths.evaluations / f"{request.step:08d}.json", result)
        row = {name: value for name, value in result.items() if name not in NOT_IN_ROW}
        post_row(self._paths, {"kind": "eval", "time_s": request.published_s, "attempt": self._attempt, **row})
        best = keep_if_best(self._paths, self._paths.weights / request.name, result)
        answer_evaluation(self._paths, request, result)
        print(f"evaluator: step {request.step}, pass rate {result['pass_rate']:.4f}{' (best so far)' if best else ''}")
