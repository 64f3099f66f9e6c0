"""The typed configuration of a run, with one signature. settings.py reads it from files.

recipe.py holds the sections that say what is trained and how, machinery.py those that say on what and for how
long.
"""

import hashlib
import json

from pydantic import Field, model_validator

from scalerl.config.machinery import (
    AlarmKind,
    BudgetConfig,
    CheckpointConfig,
    EvaluationConfig,
    GeneratorConfig,
    LaunchConfig,
    LoggingConfig,
    TrainerConfig,
)
from scalerl.config.recipe import (
    AlgoConfig,
    BatchConfig,
    DataConfig,
    LengthConfig,
    ModelConfig,
    OffPolicyConfig,
    OptimizerConfig,
)
from scalerl.config.section import Section

__all__ = [
    "NOT_IDENTITY",
    "AlarmKind",
    "AlgoConfig",
    "BatchConfig",
    "BudgetConfig",
    "CheckpointConfig",
    "DataConfig",
    "EvaluationConfig",
    "GeneratorConfig",
    "LaunchConfig",
    "LengthConfig",
    "LoggingConfig",
    "ModelConfig",
    "OffPolicyConfig",
    "OptimizerConfig",
    "RunConfig",
    "Section",
    "TrainerConfig",
]

NOT_IDENTITY = ("budget", "checkpoint", "data.test", "evaluation.num", "launch", "logging")
"""Sections and settings that may change while a run goes on."""


class RunConfig(Section):
    """All settings of a run. All but NOT_IDENTITY identify it: see `signature`."""

    seed: int = Field(0, ge=0)
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    length: LengthConfig = LengthConfig()
    algo: AlgoConfig = AlgoConfig()
    off_policy: OffPolicyConfig = OffPolicyConfig()
    batch: BatchConfig = BatchConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    generator: GeneratorConfig = GeneratorConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    budget: BudgetConfig = BudgetConfig(max_gpu_hours=4000)
    checkpoint: CheckpointConfig = CheckpointConfig()
    launch: LaunchConfig = LaunchConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _sequences_fit(self) -> "RunConfig":
        if self.length.max_tokens > self.trainer.micro_batch_tokens:
            raise ValueError(
                f"trainer.micro_batch_tokens ({self.trainer.micro_batch_tokens}) is below the longest "
                f"sequence (length: {self.length.max_tokens} tokens); raise it or shorten length.*"
            )
        return self

    @property
    def num_devices(self) -> int:
        """Return the devices (GPUs, or CPU processes) of a run: trainer ranks, generators and evaluators."""
        num_engines = self.generator.num + self.evaluation.num
        return self.trainer.num_ranks + num_engines * self.generator.tensor_parallel_size

    @property
    def device_demand(self) -> str:
        """Name the settings that `num_devices` follows from, with their values, for an error."""
        return (
            f"trainer.num_ranks={self.trainer.num_ranks}, generator.num={self.generator.num} and "
            f"evaluation.num={self.evaluation.num} "
            f"(generator.tensor_parallel_size={self.generator.tensor_parallel_size})"
        )

    def signature(self) -> str:
        """Return 12 hex digits that identify the run.

        They are equal for configs that train the same policy on the same devices.

        A raised budget, more evaluators, other deadlines or loggers leave it unchanged, so that an extension
        continues the same run.
        """
        identity = self.model_dump(mode="json")
        for section, _, key in (name.partition(".") for name in NOT_IDENTITY):
            del (identity[section] if key else identity)[key or section]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
