"""The generator's exam: sample as the run would, reload in flight, and say what came of it.

The engine starts with random weights and gets the policy by the in-flight reload of a run: what a reload
leaves as it was shows in the log-probabilities at once, not only after the first optimizer step.
"""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalerl.config import RunConfig
from scalerl.data.problem import Problem, load_problems
from scalerl.evaluator.mean_at_k import PromptResult, sample_and_grade
from scalerl.exams.handover import wait_for_policy
from scalerl.exams.samples import sample_figures, scored_completions
from scalerl.exams.template import template_faults
from scalerl.inference.completion import Completion, CompletionSampler
from scalerl.inference.engine import EngineOptions, SamplingEngine, import_vllm
from scalerl.inference.prompts import PromptEncoder, load_tokenizer
from scalerl.paths import RunPaths
from scalerl.preflight.exam import ExamPath, ScoredSequence, write_exam, write_figures
from scalerl.preflight.extent import EXTENTS, MAX_PROMPTS
from scalerl.role import start_verifier
from scalerl.run_folder import read_config
from scalerl.verify.pool import VerifierPool

TEXT_END_TOKENS = 32
"""Tokens sampled after a random text: at its end an error that grows with the position is largest."""


def run_generator_exam(run_dir: Path, *, attempt: int) -> None:
    """Sample, and write the exam's log-probabilities and figures.

    Raises:
        ValueError: a prompt is too long, or the lengths leave no room for an answer.
        TimeoutError: the trainer's exam has published no policy in time.
    """
    paths = RunPaths(run_dir)
    config = read_config(paths)
    problems = load_problems(Path(config.data.train))
    prompts = PromptEncoder(load_tokenizer(config.model.path), config.data, config.length)
    prompts.encode_all(problems)
    chosen = random.Random(config.seed).sample(problems, min(MAX_PROMPTS, len(problems)))
    import_vllm()
    folder = wait_for_policy(config, paths)
    with start_verifier(config, chosen) as pool:
        engine = SamplingEngine(folder, 0, EngineOptions.of(config, config.seed, random_start=True))
        try:
            engine.reload(folder, 0)
            figures = GeneratorExam(config, paths, engine, folder, prompts, pool).run(chosen)
        finally:
            engine.shutdown()
    write_figures(paths, "generator", figures)


class GeneratorExam:
    """One exam of an engine that serves the policy in `folder`."""

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        engine: SamplingEngine,
        folder: Path,
        prompts: PromptEncoder,
        pool: VerifierPool,
    ) -> None:
        """Prepare to sample `prompts` and to have the responses graded by `pool`."""
        self._config, self._paths, self._engine, self._folder = config, paths, engine, folder
        self._prompts, self._pool = prompts, pool
        self._extent = EXTENTS[config.launch.preflight]
        self._tokenizer = load_tokenizer(folder)
        self._random = random.Random(config.seed)
        self._sampling_s = 0.0

    def run(self, problems: Sequence[Problem]) -> dict[str, Any]:
        """Sample before, across and after a reload; write both paths; return the figures.

        While nothing is rewarded more prompts follow, to the last: few completions prove little.
        """
        first = problems[: self._extent.num_prompts]
        half = (len(first) + 1) // 2
        before = self._sample(first[:half])
        self._write("generator", before)
        num_tokens = [len(completion.token_ids) for result in before for completion in result.completions]
        after = self._sample(first[half:], reload_at=sum(num_tokens) // len(num_tokens) // 2)
        self._write("generator_reloaded", after)
        results = [*before, *after]
        while len(results) < len(problems) and not any(result.tally.num_correct for result in results):
            results += self._sample(problems[len(results) :][: self._extent.num_prompts])
        return sample_figures(results, self._config, self._sampling_s) | self._prompt_figures(results[0])

    def _prompt_figures(self, result: PromptResult) -> dict[str, Any]:
        token_ids = result.completions[0].prompt_token_ids
        return {
            "prompt": self._tokenizer.decode(token_ids),
            "template_faults": template_faults(self._tokenizer, result.problem.prompt, token_ids),
        }

    def _sample(self, problems: Sequence[Problem], reload_at: int | None = None) -> list[PromptResult]:
        """Sample and grade; `reload_at`: after so many engine steps, or at the end if it took fewer."""
        sampler = _ReloadingSampler(self._engine, self._tokenizer, self._config.length, self._config.seed)
        if reload_at is not None:
            sampler.reload_at, sampler.folder = reload_at, self._folder
        begin_s = time.monotonic()
        results = sample_and_grade(
            problems,
            min(self._extent.max_samples, self._config.batch.generations_per_prompt),
            sampler=sampler,
            prompts=self._prompts,
            pool=self._pool,
            max_num_seqs=self._config.generator.max_num_seqs,
        )
        self._sampling_s += time.monotonic() - begin_s
        sampler.reload()
        assert results is not None
        return results

    def _write(self, path: ExamPath, results: Sequence[PromptResult]) -> None:
        sequences = scored_completions(results, self._extent.num_scored, self._extent.scored_tokens())
        write_exam(self._paths, path, [*sequences, self._random_text(f"text-{path}")])

    def _random_text(self, name: str) -> ScoredSequence:
        """Return random tokens and what the engine samples after them, as far as context and extent allow."""
        num_sampled = min(TEXT_END_TOKENS, self._config.length.max_tokens // 2)
        num_random = min(self._config.length.max_tokens, self._extent.scored_tokens()) - num_sampled
        special = {*self._tokenizer.all_special_ids}
        ordinary = [token for token in range(len(self._tokenizer)) if token not in special]
        token_ids = self._random.choices(ordinary, k=num_random)
        logprobs: list[float] = []
        while len(logprobs) < num_sampled:  # again where the model ends the text
            self._engine.submit(name, token_ids, max_tokens=num_sampled - len(logprobs), cache_salt=name)
            while not (segments := self._engine.step()):
                pass
            token_ids += segments[0].token_ids
            logprobs += segments[0].logprobs
        return ScoredSequence(sequence=name, token_ids=token_ids, scored_from=num_random, logprobs=logprobs)


class _ReloadingSampler(CompletionSampler[int]):
    """A sampler that has its engine load `folder` once, after `reload_at` more steps."""

    folder: Path | None = None
    reload_at = 0

    def step(self) -> list[Completion[int]]:
        """Do one step of the engine, a reload before it if that is due."""
        if self.reload_at == 0:
            self.reload()
        self.reload_at -= 1
        return super().step()

    def reload(self) -> None:
        """Load the policy again, unless that was done, or is not to be done."""
        if self.folder is not None:
            self._engine.reload(self.folder, 1)
            self.folder = None
