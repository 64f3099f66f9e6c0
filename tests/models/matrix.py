"""Trains and samples tiny models of many families, and measures how far their log-probabilities lie apart.

    python matrix.py trainer|generator|reference FOLDER NAME...      (one after the other)

trainer: saves a model of every family under FOLDER, scores random sequences with the ZeRO-3 engine, alone and
packed, trains one step and exports the policy. generator: samples from both policies with vLLM, from the
second after an in-flight reload. reference: scores what the generator sampled; a process of its own, for vLLM
changes classes of Transformers. Everything is fp32 and compared with plain Transformers. Each writes
FOLDER/<role>.json, {name: figures}; figures are greatest differences in nats, or a reason for refusal.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from families import FAMILIES, VOCABULARY, save_family

from scalerl.common.files import write_json
from scalerl.config import RunConfig
from scalerl.exams.reference import score_plainly
from scalerl.paths import RunPaths
from scalerl.preflight.exam import GENERATOR_PATHS, ScoredSequence, read_exam, write_exam
from scalerl.preflight.parity import MAX_DIFFERENCE
from scalerl.settings import build_config

PATHS = ("trainer_alone", "trainer_packed", "exported", "generator", "generator_reloaded")
"""What is compared with plain Transformers; "exported" is the trainer after a step with what it published."""
LENGTHS = (70, 33, 150, 9, 51, 100)
RELOAD_STEP = 20
NUM_PROMPTS = 12
SAMPLED_TOKENS = 60


def folders(folder: Path, name: str) -> tuple[Path, Path]:
    """Return where the base model of a family lies, and the policy after a step."""
    place = folder / name.replace(" ", "-").lower()
    return place / "00000000-base", place / "00000001-step"


def make_config(model: Path) -> RunConfig:
    return build_config(
        {
            "model.path": str(model),
            "model.dtype": "float32",
            "length.length_control": "none",
            "length.max_prompt_tokens": 100,
            "length.max_thinking_tokens": 80,
            "length.max_solution_tokens": 20,
            "trainer.num_ranks": 1,
            "trainer.micro_batch_tokens": 400,
            "trainer.logprob_chunk_tokens": 64,
            "budget.max_steps": 1,
            "generator.kv_cache_gb": 0.1,
            "generator.max_num_seqs": 32,
        }
    )


def random_sequences() -> list[ScoredSequence]:
    random = np.random.default_rng(0)
    return [
        ScoredSequence(
            sequence=f"s{index}",
            token_ids=random.integers(2, VOCABULARY, size=length).tolist(),
            scored_from=1,
            logprobs=[-4.0] * (length - 1),
        )
        for index, length in enumerate(LENGTHS)
    ]


def worst(found: Sequence[ScoredSequence], expected: Sequence[ScoredSequence]) -> float:
    """Return the greatest difference in nats over the tokens that both have scored."""
    by_name = {sequence.sequence: sequence for sequence in expected}
    largest = 0.0
    for sequence in found:
        other = by_name[sequence.sequence]
        assert list(sequence.token_ids) == list(other.token_ids)
        count = min(len(sequence.logprobs), len(other.logprobs))
        difference = np.abs(np.array(sequence.logprobs[-count:]) - np.array(other.logprobs[-count:]))
        assert np.isfinite(difference).all()
        largest = max(largest, float(difference.max()))
    return largest


class TrainerSide:
    """Scores and trains with the real engine."""

    def __init__(self) -> None:
        from scalerl.trainer.engine import init_distributed

        self._control = init_distributed(60.0)

    def __call__(self, folder: Path, name: str) -> dict[str, Any]:
        from scalerl.exams.trainer import TrainerExam
        from scalerl.trainer.engine import TrainingEngine

        base, policy = folders(folder, name)
        save_family(name, base)
        config, sequences = make_config(base), random_sequences()
        engine = TrainingEngine(config, base, self._control)
        exam = TrainerExam(config, engine, self._control, sequences)
        before, expected = exam.packed(), score_plainly(config, sequences, dtype="float32")
        figures = {
            "layout": engine.layout,
            "attention": engine.model.config._attn_implementation,
            "tied": bool(engine.model.config.tie_word_embeddings),
            "trainer_alone": worst(exam.alone(), expected),
            "trainer_packed": worst(before, expected),
        }
        self._train(engine, config, sequences)
        self._export(engine, base, policy)
        after = exam.packed()
        expected = score_plainly(make_config(policy), sequences, dtype="float32")
        return figures | {"step": worst(after, before), "exported": worst(after, expected)}

    def _train(self, engine: Any, config: RunConfig, sequences: Sequence[ScoredSequence]) -> None:
        from scalerl.trainer.packing import TrainingSequence, pack

        training = [
            TrainingSequence(
                tokens=np.array(sequence.token_ids),
                loss_positions=np.arange(1, len(sequence.token_ids)),
                generator_logprobs=np.array(sequence.logprobs, dtype=np.float32),
                advantage=1.0 if index % 2 else -1.0,
                weight=1e-3,
            )
            for index, sequence in enumerate(sequences)
        ]
        budget = config.trainer.micro_batch_tokens
        batches = pack(training, budget_tokens=budget, layout=engine.layout, rank=0, world_size=1)
        assert engine.train(batches, learning_rate=3e-3).applied

    def _export(self, engine: Any, base: Path, policy: Path) -> None:
        from scalerl.trainer.publisher import _side_files

        policy.mkdir()
        for file, content in _side_files(engine, base).items():
            (policy / file).write_bytes(content)
        engine.export(policy)


class GeneratorSide:
    """Samples with the real engine, from both policies."""

    def __call__(self, folder: Path, name: str) -> dict[str, Any]:
        from scalerl.inference.engine import EngineOptions, SamplingEngine

        base, policy = folders(folder, name)
        config = make_config(base)
        # As preflight does: what a load leaves as it was shows.
        engine = SamplingEngine(base, 0, EngineOptions.of(config, seed=0, random_start=True))
        try:
            engine.reload(base, 0)
            before = self._sample(engine, "before", stop_after=RELOAD_STEP)
            engine.reload(policy, 1)
            after = self._sample(engine, "after")
        finally:
            engine.shutdown()
        for path, sequences in zip(GENERATOR_PATHS, (before, after), strict=True):
            write_exam(RunPaths(base.parent), path, sequences)
        return {"sequences": len(before) + len(after)}

    def _sample(self, engine: Any, name: str, stop_after: int | None = None) -> list[ScoredSequence]:
        """Sample after random prompts; `stop_after`: leave the longer half running after so many steps."""
        random = np.random.default_rng(len(name))
        prompts = {
            f"{name}-{index}": random.integers(2, VOCABULARY, size=5 + 7 * index).tolist()
            for index in range(NUM_PROMPTS)
        }
        for index, (request, prompt) in enumerate(prompts.items()):
            limit = SAMPLED_TOKENS if index % 2 or stop_after is None else stop_after - 3
            engine.submit(request, prompt, max_tokens=limit, cache_salt=name)
        segments, step = [], 0
        while engine.num_running and step != stop_after:
            segments += engine.step()
            step += 1
        return [
            ScoredSequence(
                sequence=segment.request_id,
                token_ids=prompts[segment.request_id] + segment.token_ids,
                scored_from=len(prompts[segment.request_id]),
                logprobs=segment.logprobs,
            )
            for segment in segments
            if segment.request_id in prompts
        ]


class ReferenceSide:
    """Scores what the generator has sampled."""

    def __call__(self, folder: Path, name: str) -> dict[str, Any]:
        found: dict[str, float] = {}
        if not RunPaths(folders(folder, name)[0].parent).exam(GENERATOR_PATHS[-1]).exists():
            return found  # the generator has refused
        for path, model in zip(GENERATOR_PATHS, folders(folder, name), strict=True):
            sampled = list(read_exam(RunPaths(model.parent), path).values())
            found[path] = worst(sampled, score_plainly(make_config(model), sampled, dtype="float32"))
        return found


SIDES = {"trainer": TrainerSide, "generator": GeneratorSide, "reference": ReferenceSide}


def verdict(figures: dict[str, Any]) -> str:
    """Return why preflight refuses a family, or "" if trainer and generator compute the same model."""
    for path in PATHS:
        if f"{path}_refused" in figures:
            return f"{path}: {figures[f'{path}_refused']}"
    too_far = [path for path in PATHS if figures[path] > MAX_DIFFERENCE]
    return f"{too_far[0]} differs by {figures[too_far[0]]:.2g}" if too_far else ""


def reason(error: BaseException) -> str:
    """Return the first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def run(role: str, folder: Path, names: Sequence[str]) -> None:
    side: Callable[[Path, str], dict[str, Any]] = SIDES[role]()
    file = folder / f"{role}.json"
    found: dict[str, Any] = {}
    for name in names:
        begin_s = time.monotonic()
        refused_by = "trainer_alone" if role == "trainer" else "generator"
        try:
            found[name] = side(folder, name)
        except Exception as error:
            traceback.print_exc()
            found[name] = {f"{refused_by}_refused": reason(error)}
        found[name]["seconds"] = time.monotonic() - begin_s
        print(name, found[name], flush=True)
        write_json(file, found)


def main() -> None:
    role, folder, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3:] or list(FAMILIES)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "HF_HUB_OFFLINE": "1"}
    if role == "trainer":
        from scalerl.launch.processes import free_port

        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    run(role, folder, names)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
