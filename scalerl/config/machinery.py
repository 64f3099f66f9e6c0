"""What a run runs on, and when it evaluates, saves and ends: processes, budget, deadlines, loggers."""

from typing import Literal

from pydantic import Field, model_validator

from scalerl.config.section import Section

AlarmKind = Literal[
    "no_reward",
    "no_answer",
    "zero_variance",
    "truncation",
    "entropy_low",
    "entropy_high",
    "log_ratio",
    "grad_norm",
    "pass_rate",
    "not_finite",
]
"""Signs of trouble that scalerl/alarms.py watches for."""


class GeneratorConfig(Section):
    """Section generator: the sampling engines and the graders; the evaluators sample and grade alike."""

    num: int = Field(56, ge=1)
    """Generator processes, each its own vLLM engine on disjoint prompt groups; with eight evaluators they
    fill 64 GPUs."""
    tensor_parallel_size: int = Field(1, ge=1)
    """Devices an engine spans."""
    max_num_seqs: int = Field(256, ge=1)
    """Completions an engine runs at once."""
    kv_cache_gb: float = Field(0.0, ge=0)
    """KV cache an engine; 0: vLLM decides from the free device memory (GPU only, a CPU needs a number)."""
    verifier_workers: int = Field(2, ge=1)
    verify_timeout_s: float = Field(0.5, gt=0)
    """CPU time a math answer may take to grade."""
    code_timeout_s: int = Field(6, ge=1)
    """CPU time a program may take on one unit test; wall time: four times that and 10 s to start."""
    code_memory_mb: int = Field(1024, ge=64)
    """Address space of a program, MiB."""
    allow_weak_sandbox: bool = False
    """Grade programs where bubblewrap does not work: they can then read and write every file that this user
    can."""


class TrainerConfig(Section):
    """Section trainer: its ranks and their memory."""

    num_ranks: int = Field(16, ge=1)
    micro_batch_tokens: int = Field(32_768, ge=1)
    """Token budget of one micro-batch, padding included; the longest possible sequence must fit."""
    logprob_chunk_tokens: int = Field(2_048, ge=1)
    """Tokens whose logits exist at once, in forward and backward."""
    activation_checkpointing: bool = True


class EvaluationConfig(Section):
    """Section evaluation: how often held-out prompts are sampled, and by how many."""

    num: int = Field(8, ge=1)
    """Evaluator processes, each its own vLLM engine; they share the prompts of every evaluation."""
    every_steps: int = Field(100, ge=1)
    num_prompts: int = Field(1000, ge=1)
    """Held-out prompts, the first of the held-out file (all, if it has fewer); as many of the test file."""
    samples_per_prompt: int = Field(16, ge=1)
    early_stop_evaluations: int = Field(0, ge=0)
    """End the run after this many evaluations without a new best pass rate. 0: never."""


class BudgetConfig(Section):
    """Section budget: when the run ends. It may be raised later."""

    max_steps: int | None = Field(None, ge=0)
    max_gpu_hours: float | None = Field(None, gt=0)
    """Generators, trainer and evaluators together, over all restarts; of a Slurm job, all its GPUs from its
    start to its end."""
    sweep_max_gpu_hours: float | None = Field(None, gt=0)
    """GPU-hours of all runs in the folder that holds the run's folder, together."""

    @model_validator(mode="after")
    def _bounded(self) -> "BudgetConfig":
        if self.max_steps is None and self.max_gpu_hours is None:
            raise ValueError("a run needs an end: set budget.max_steps or budget.max_gpu_hours")
        return self


class CheckpointConfig(Section):
    """Section checkpoint: when the trainer saves, and what stays."""

    every_steps: int = Field(50, ge=1)
    keep: int = Field(2, ge=1)
    """Newest checkpoints that stay; rollouts are kept as long as the oldest of them needs."""


class LaunchConfig(Section):
    """Section launch: what comes before the first step, restarts and deadlines."""

    preflight: Literal["full", "short", "off"] = "short"
    """The check of model and config before anything is trained, where the folder has no certificate of one:
    both engines are compared, and some or (full) more prompts are sampled; off: none."""
    preflight_deadline_s: float = Field(3600, gt=0)
    """Time that check has."""
    max_restarts: int = Field(3, ge=0)
    """How often each role may die and be started again within one attempt before the run ends."""
    stop_deadline_s: float = Field(1800, gt=0)
    """Time the trainer has to end its step and checkpoint when the run stops; a step of long completions
    takes many minutes."""
    evaluation_deadline_s: float = Field(14_400, gt=0)
    """Time the evaluators have, after the last step, for the evaluations still due."""
    wait_for_weights_s: float = Field(1800, gt=0)
    """How long a generator or evaluator waits for the first policy before it gives up."""
    wait_for_rollouts_s: float = Field(7200, gt=0)
    """How long the trainer waits for the groups of one batch before it gives up."""
    distributed_timeout_s: float = Field(1800, gt=0)
    """Deadline of every collective between trainer ranks."""
    stop_on_alarm: list[AlarmKind] = Field(default_factory=list)
    """End the run when one of these alarms is raised; levels and advice: scalerl/alarms.py."""


class LoggingConfig(Section):
    """Section logging: where metric rows go beside metrics.jsonl."""

    tensorboard: bool = True
    wandb_project: str = ""
    """Weights & Biases project; empty: off (it needs the network and `pip install wandb`)."""
