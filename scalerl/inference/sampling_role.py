"""Start and end what samples with an engine: the part that a generator and an evaluator have in common."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from scalerl.inference.engine import EngineOptions, SamplingEngine, import_vllm
from scalerl.inference.prompts import PromptEncoder, load_tokenizer
from scalerl.paths import RunPaths
from scalerl.role import StopSignal
from scalerl.run_folder import read_config
from scalerl.spool.admission import wait_for_manifest


class Worker(Protocol):
    """What a role does with its engine."""

    def advance(self) -> None:
        """Do one round of the loop."""

    def close(self) -> None:
        """End the helpers."""


class SamplingRole:
    """A process of a run that samples with an engine until SIGTERM."""

    def __init__(self, run_dir: Path, *, index: int, attempt: int) -> None:
        """Read the run's config and wait for its first policy, with vLLM imported meanwhile.

        Raises:
            TimeoutError: the trainer published no policy within launch.wait_for_weights_s.
            ValueError: the folder's config cannot be read, or the chat template does not take its prompts.
        """
        # First, so that SIGTERM ends the process at once while the engine is not there yet.
        self.stop = StopSignal()
        self.paths, self.index, self.attempt = RunPaths(run_dir), index, attempt
        self.config = read_config(self.paths)
        # For its errors: a prompt that the chat template does not make is refused before any engine starts.
        PromptEncoder(load_tokenizer(self.config.model.path), self.config.data, self.config.length)
        import_vllm()
        wait_for_manifest(self.paths, self.config.launch.wait_for_weights_s)

    def engine_options(self, number: int) -> EngineOptions:
        """Return the options of its engine, with a seed of its own.

        number: of the engine among those of the run, so that no two draw the same samples.
        """
        # The attempt is part of it: a run that is continued must not draw the samples of its start again.
        seeds = np.random.SeedSequence([self.config.seed, number, self.attempt])
        return EngineOptions.of(self.config, int(seeds.generate_state(1)[0]))

    def work(self, engine: SamplingEngine, make_worker: Callable[[], Worker]) -> None:
        """Advance a worker until SIGTERM; then end it and the engine, also after an error."""
        try:
            worker = make_worker()
            try:
                self.stop.loop_started = True
                while not self.stop.requested:
                    worker.advance()
            finally:
                worker.close()
        finally:
            engine.shutdown()
