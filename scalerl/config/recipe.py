"""What is trained, on what, and how: the model, the data, and every choice of the ScaleRL paper (arXiv
2510.13786, sections 2-3), with ScaleRL itself as the default."""

from typing import Literal

from pydantic import Field, model_validator

from scalerl.config.section import Section

INTERRUPTION_TEXT = "Okay, time is up. Let me stop thinking and formulate a final answer now. </think>"

TEMPLATE_DEFAULT = "template"
"""data.system_prompt that leaves it to the chat template what to say first."""

CODE_INSTRUCTION = (
    "Write the whole solution in Python, in one block that begins with ```python and ends with ```. "
    "Where the problem gives no starter code, it is a program that reads from standard input "
    "and writes to standard output."
)


class ModelConfig(Section):
    """Section model: the base model and its precision."""

    path: str = ""
    """Base model: a Hugging Face directory, or a hub name if the user lets transformers go online."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the body, in the generator and in the trainer's forward and backward."""
    lm_head_precision: Literal["fp32", "bf16", "fp32_generator", "fp32_trainer"] = "fp32"
    """Where the LM-head logits are computed in fp32: both engines (ScaleRL), neither, or one of them."""

    @model_validator(mode="after")
    def _head_fits_body(self) -> "ModelConfig":
        if self.dtype == "float32" and self.lm_head_precision != "fp32":
            raise ValueError(
                "lm_head_precision other than 'fp32' needs model.dtype='bfloat16': an fp32 body has an fp32 "
                "head"
            )
        return self

    @property
    def generator_fp32_head(self) -> bool:
        """Say whether the generator's logits are computed in fp32."""
        return self.lm_head_precision in ("fp32", "fp32_generator")

    @property
    def trainer_fp32_head(self) -> bool:
        """Say whether the trainer's logits are computed in fp32."""
        return self.lm_head_precision in ("fp32", "fp32_trainer")


class DataConfig(Section):
    """Section data: the problems, and what is said around them."""

    train: str = ""
    """train.parquet as written by `scalerl prepare`."""
    heldout: str = ""
    """heldout.parquet as written by `scalerl prepare`: what evaluations are on, and best/ is chosen by."""
    test: str = ""
    """test.parquet as written by `scalerl prepare`: the best policy is tested on it once the run has ended.
    Empty: all there is of that policy is its held-out pass rate, the maximum of many and so too high."""
    instruction: str = ""
    """Text appended to every math problem, such as "Put your final answer within \\boxed{}."."""
    code_instruction: str = CODE_INSTRUCTION
    """Text appended to every code problem."""
    system_prompt: str = TEMPLATE_DEFAULT
    """System message. "template": none is given, and the chat template says what it says by itself, which for
    some models is a text of their own. Empty: an empty message in its place. Else: this text."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Arguments of the chat template, such as enable_thinking = false."""
    code_fraction: float | None = Field(None, gt=0, lt=1)
    """Share of code among the prompts trained on, evenly interleaved. None: all prompts are one pool,
    whatever their task."""

    @model_validator(mode="after")
    def _truth_is_no_text(self) -> "DataConfig":
        # Of `enable_thinking is false` and `if enable_thinking` the text "False" makes the opposite.
        for name, value in self.chat_template_kwargs.items():
            if str(value) in ("True", "False") and not isinstance(value, bool):
                raise ValueError(
                    f"chat_template_kwargs.{name} = {value!r} is a text; write {str(value).lower()}"
                )
        return self


class LengthConfig(Section):
    """Section length: limits on tokens, and what keeps completions short."""

    max_prompt_tokens: int = Field(2048, ge=1)
    max_thinking_tokens: int = Field(12288, ge=1)
    max_solution_tokens: int = Field(2048, ge=1)
    """Tokens after think_end, however short the thinking was."""
    length_control: Literal["interruption", "length_penalty", "none"] = "interruption"
    """Forced interruptions (ScaleRL), a penalty on long correct completions, or neither."""
    think_end: str = "</think>"
    """Text that ends the thinking part; only what follows it is graded. Empty: the model does not think
    apart."""
    interruption_min_tokens: int = Field(10_000, ge=1)
    interruption_max_tokens: int = Field(12_000, ge=1)
    """The thinking budget of each completion is uniform in [interruption_min_tokens,
    interruption_max_tokens]."""
    interruption_text: str = INTERRUPTION_TEXT
    """Forced when the budget is used up; its tokens are masked out of the loss."""
    penalty_max_tokens: int = Field(14_000, ge=1)
    """L_max of the length penalty."""
    penalty_cache_tokens: int = Field(2_000, ge=1)
    """L_cache of the length penalty: reward += clip((L_max - |y|) / L_cache - 1, -1, 0) on correct
    completions."""

    @property
    def max_completion_tokens(self) -> int:
        """Return the most tokens of a completion: thinking + solution."""
        return self.max_thinking_tokens + self.max_solution_tokens

    @property
    def max_tokens(self) -> int:
        """Return the context length: prompt + thinking + solution."""
        return self.max_prompt_tokens + self.max_completion_tokens

    @property
    def penalty(self) -> tuple[int, int] | None:
        """Return (L_max, L_cache) of the length penalty, tokens; None where length_control is another."""
        if self.length_control != "length_penalty":
            return None
        return self.penalty_max_tokens, self.penalty_cache_tokens

    @model_validator(mode="after")
    def _control_bites(self) -> "LengthConfig":
        free_tokens = self.penalty_max_tokens - self.penalty_cache_tokens
        if self.length_control == "length_penalty" and free_tokens >= self.max_completion_tokens:
            raise ValueError(
                f"the length penalty begins at penalty_max_tokens - penalty_cache_tokens = {free_tokens}, "
                f"which no completion of {self.max_completion_tokens} tokens exceeds; lower "
                f"penalty_max_tokens"
            )
        if self.length_control != "interruption":
            return self
        if not self.interruption_min_tokens <= self.interruption_max_tokens <= self.max_thinking_tokens:
            raise ValueError(
                f"need interruption_min_tokens ({self.interruption_min_tokens}) <= interruption_max_tokens "
                f"({self.interruption_max_tokens}) <= max_thinking_tokens ({self.max_thinking_tokens})"
            )
        if not self.think_end:
            raise ValueError(
                'think_end is "", so there is no thinking to interrupt: set length.think_end to the text '
                'that ends it, such as "</think>", or length.length_control = "none" or "length_penalty"'
            )
        if not self.interruption_text.rstrip().endswith(self.think_end):
            raise ValueError(
                f"interruption_text must end with think_end ({self.think_end!r}), or the answer is never "
                f"graded"
            )
        return self


class AlgoConfig(Section):
    """Section algo: the loss, its weights, and which prompts it is of."""

    loss_type: Literal["cispo", "dapo", "grpo", "gspo"] = "cispo"
    cispo_eps_max: float = Field(5.0, gt=0)
    """Cap on the importance ratio itself (not on 1 + eps)."""
    dapo_eps_low: float = Field(0.2, ge=0, lt=1)
    dapo_eps_high: float = Field(0.26, ge=0)
    grpo_eps: float = Field(0.2, ge=0, lt=1)
    gspo_eps_low: float = Field(3e-3, ge=0, lt=1)
    gspo_eps_high: float = Field(4e-3, ge=0)
    loss_aggregation: Literal["prompt", "sample", "token"] = "prompt"
    advantage_norm: Literal["batch", "prompt", "none"] = "batch"
    zero_variance: Literal["drop", "keep"] = "drop"
    """What happens to prompts whose rewards are all equal: leave the loss and the effective batch, or
    stay."""
    curriculum: Literal["no_positive_resampling", "uniform"] = "no_positive_resampling"
    curriculum_drop_pass_rate: float = Field(0.9, gt=0, le=1)
    """A prompt whose historical pass rate reaches this is dropped for good from later epochs."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of sampling, and of the trainer's log-probabilities alike."""


class OffPolicyConfig(Section):
    """Section off_policy: how far the generators may run ahead of the trainer."""

    mode: Literal["pipeline_rl", "ppo_off_policy"] = "pipeline_rl"
    k: int = Field(8, ge=1)
    """pipeline_rl: at most k steps between the policy of a token and the policy it trains. ppo_off_policy: k
    updates a rollout phase with frozen weights, so at most k - 1."""

    @property
    def max_off_policyness(self) -> int:
        """Return the most optimizer steps between the policy of a token and the policy it trains."""
        return self.k if self.mode == "pipeline_rl" else self.k - 1


class BatchConfig(Section):
    """Section batch: what one optimizer step trains."""

    prompts: int = Field(48, ge=1)
    """Prompt groups an optimizer step."""
    generations_per_prompt: int = Field(16, ge=2)
    max_prompts: int | None = Field(None, ge=1)
    """Dynamic batch size: at a plateau (optimizer.plateau_*) the batch doubles, up to this; it never shrinks.
    None: fixed."""

    @model_validator(mode="after")
    def _growth_fits(self) -> "BatchConfig":
        if self.max_prompts is not None and self.max_prompts < self.prompts:
            raise ValueError(
                f"max_prompts ({self.max_prompts}) is below prompts ({self.prompts}): a batch can only grow"
            )
        return self


class OptimizerConfig(Section):
    """Section optimizer: AdamW and its schedule."""

    learning_rate: float = Field(5e-7, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    """The paper names no betas; .95, not PyTorch's .999, as usual for language models."""
    eps: float = Field(1e-15, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_steps: int = Field(100, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    plateau_window_evaluations: int = Field(12, ge=1)
    """Held-out evaluations of a window. Two windows since the last plateau are compared."""
    plateau_min_gain: float = Field(0.003, gt=0)
    """A plateau: the held-out pass rate of a window lies less than this above that of the window before, with
    two standard errors to spare. Where those exceed it, as with evaluations far smaller than 1,000 prompts of
    16 samples, no plateau is ever found: raise it then."""
    plateau_learning_rate_factor: float = Field(1.0, gt=0, le=1)
    """Adaptive learning rate: multiplied by this at every plateau. 1: constant."""
    plateau_min_learning_rate_factor: float = Field(0.1, gt=0, le=1)
    """Floor of the adaptive learning rate, as a multiple of learning_rate."""
