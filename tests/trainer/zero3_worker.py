"""One rank of the processes of test_zero3.py: `python zero3_worker.py FOLDER RANK WORLD_SIZE`; writes its
results to FOLDER."""

import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist
from zero3_cases import CASES, LEARNING_RATES, ROTARY_MODELS, make_config, make_groups, model_name

from scalerl.config import RunConfig
from scalerl.fence import claim_attempt
from scalerl.paths import RunPaths
from scalerl.trainer.checkpoint import SavedState, save_checkpoint
from scalerl.trainer.engine import StepStatistics, TrainingEngine, init_distributed
from scalerl.trainer.objective import training_sequences
from scalerl.trainer.packing import pack


class Worker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.control = init_distributed(60.0)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.results: dict = {}

    def engine(self, config, model) -> TrainingEngine:
        return TrainingEngine(config, model, self.control)

    def train(self, engine, config, step, poison=False) -> StepStatistics:
        sequences, _ = training_sequences(make_groups(step), config.algo)
        if poison:  # one token of one rank
            sequences[0].generator_logprobs[0] = np.nan
        budget = config.trainer.micro_batch_tokens
        batches = pack(
            sequences, budget_tokens=budget, layout=engine.layout, rank=self.rank, world_size=self.world_size
        )
        return engine.train(batches, LEARNING_RATES[min(step, 2)])

    def export(self, engine, name: str) -> None:
        target = self.folder / f"{name}-{self.world_size}"
        if self.rank == 0:
            target.mkdir()
        engine.export(target if self.rank == 0 else None)

    def case(self, name: str) -> None:
        """Three steps."""
        config = make_config(name, self.world_size)
        engine = self.engine(config, self.folder / model_name(name))
        self.results[name] = [asdict(self.train(engine, config, step)) for step in range(3)]
        self.results[f"{name}-active"] = engine.num_active_parameters
        self.export(engine, name)

    def note_buffers(self, name: str, engine: TrainingEngine) -> None:
        """The floating buffers of a bf16 model, as the engine trains with them."""
        buffers = engine.model.named_buffers()
        self.results[f"buffers-{name}"] = {
            key: buffer.cpu() for key, buffer in buffers if buffer.is_floating_point()
        }

    def many_micro_batches(self, dtype: str) -> RunConfig:
        return make_config("many_micro_batches", self.world_size, **{"model.dtype": dtype})

    def straight(self, dtype: str) -> None:
        """A step with a NaN on one rank, then four clean ones with a checkpoint after two; the last two again
        from the checkpoint. The first three in float32 are the case of many micro-batches."""
        config = self.many_micro_batches(dtype)
        paths = RunPaths(self.folder / f"run-{dtype}-{self.world_size}")
        if self.rank == 0:
            paths.create()
            claim_attempt(paths)
        engine = self.engine(config, self.folder / "tied")
        if dtype == "bfloat16":
            self.note_buffers("tied", engine)
        self.poison(engine, config, dtype)
        steps = [asdict(self.train(engine, config, step)) for step in range(2)]
        self.save(paths, config, engine)
        steps.append(asdict(self.train(engine, config, 2)))
        name = "many_micro_batches" if dtype == "float32" else "three-steps"
        self.results[name] = steps
        self.export(engine, name)
        self.train(engine, config, 3)
        self.export(engine, f"straight-{dtype}")
        self.resumed(paths, config, f"resumed-{dtype}")

    def poison(self, engine, config, dtype) -> None:
        statistics = self.train(engine, config, 0, poison=True)
        self.results[f"poisoned-{dtype}"] = {
            "applied": statistics.applied,
            "finite": bool(np.isfinite(statistics.loss)),
            "adam_step": engine.adam_step,
        }
        self.export(engine, f"poisoned-{dtype}")

    def save(self, paths, config, engine) -> None:
        def write_model(folder) -> None:
            if folder is not None:
                engine.model.config.save_pretrained(folder)
            engine.export(folder)

        state = {"step": 2, "next_group": 8}
        save_checkpoint(
            paths, engine, config=config, training_state=state, write_model=write_model, attempt=1
        )

    def resumed(self, paths, config, name: str) -> None:
        saved = SavedState(paths, 2, rank=self.rank, world_size=self.world_size)
        saved.check(config)
        engine = self.engine(config, saved.model)
        saved.restore(engine)
        self.results[name] = {"adam_step": engine.adam_step}
        for step in (2, 3):
            self.train(engine, config, step)
        self.export(engine, name)

    def run(self) -> None:
        for name in CASES:
            if name != "many_micro_batches":
                self.case(name)
        self.straight("float32")
        self.straight("bfloat16")
        for name in ROTARY_MODELS[1:]:
            self.note_buffers(name, self.engine(self.many_micro_batches("bfloat16"), self.folder / name))
        if self.world_size == 1:
            config = self.many_micro_batches("float32")
            self.resumed(RunPaths(self.folder / "run-float32-2"), config, "fewer-ranks")
        if self.rank == 0:
            torch.save(self.results, self.folder / f"results-{self.world_size}.pt")
        dist.barrier(group=self.control)


if __name__ == "__main__":
    code = 1
    try:
        Worker(Path(sys.argv[1])).run()
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
