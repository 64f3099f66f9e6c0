"""What the samples of the generator's exam say of a run: is there anything to learn from?"""

from typing import Any

from scalerl.config import RunConfig
from scalerl.preflight.report import Finding
from scalerl.preflight.variance import zero_variance_share

ALL = 0.98
"""Share of completions that counts as all of them."""
LOW_PASS_RATE, MANY = 0.02, 0.5
MAX_ZERO_VARIANCE = 0.8
UNANSWERED = ("no_answer", "no_code")


def describe_samples(figures: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """Return the numbers of the generator's exam that a user wants to see; shares are of completions."""
    num_completions = figures["num_completions"]
    unanswered = sum(figures["verdicts"].get(reason, 0) for reason in UNANSWERED)
    group_size = config.batch.generations_per_prompt
    copied = ("truncated", "interrupted", "think_end_seen", "completion_tokens_mean", "completion_tokens_p90")
    return {
        "completions": num_completions,
        "prompts": len(figures["num_correct"]),
        "pass_rate": sum(figures["num_correct"]) / num_completions,
        "no_answer": unanswered / num_completions,
        **{name: figures[name] for name in copied},
        "eos_seen": 1 - figures["truncated"],
        "zero_variance": zero_variance_share(
            figures["num_correct"], figures["samples_per_prompt"], group_size
        ),
    }


def judge_samples(figures: dict[str, Any], config: RunConfig) -> list[Finding]:
    """Return what the completions have against the run."""
    numbers = describe_samples(figures, config)
    hopeless = _hopeless(figures, numbers, config)
    findings = [Finding(refuses=True, text=hopeless)] if hopeless else _poor(numbers, config)
    return [*_template(figures, numbers, bool(hopeless)), *findings]


def _template(figures: dict[str, Any], numbers: dict[str, Any], hopeless: bool) -> list[Finding]:
    """Return what the chat template is held against."""
    faults = figures["template_faults"]
    if not faults["unknown_tokens"] and not faults["broken_marks"]:
        return []
    signs = f"turns are marked by {', '.join(faults['broken_marks'])}, no token of this tokenizer"
    if faults["unknown_tokens"]:
        signs = f"a prompt has {faults['unknown_tokens']} tokens for what this tokenizer does not know"
    text = (
        f"the chat template seems to be another model's ({signs}): put that of the model's own tokenizer "
        f"into model.path. The prompt: {_short(figures['prompt'])!r}"
    )
    # some models were taught with marks that are no tokens, and then end what they write all the same
    refuses = bool(faults["unknown_tokens"]) or hopeless or numbers["eos_seen"] < MANY
    return [Finding(refuses=refuses, text=text)]


def _hopeless(figures: dict[str, Any], numbers: dict[str, Any], config: RunConfig) -> str | None:
    """Return why nothing can be learnt; of several reasons the one that explains the others."""
    length, completions = config.length, f"{numbers['completions']} completions"
    if all(distinct == 1 for distinct in figures["num_distinct"]):
        return (
            f"all {figures['samples_per_prompt']} completions of each prompt are the same, so no group has "
            f"an advantage: raise algo.temperature ({config.algo.temperature}; 1.0 is usual)"
        )
    if numbers["truncated"] >= ALL:  # right or not: nothing would teach the model to end
        return (
            f"{numbers['truncated']:.0%} of {completions} ran out of tokens: raise "
            f"length.max_thinking_tokens ({length.max_thinking_tokens}) or length.max_solution_tokens "
            f"({length.max_solution_tokens}), unless the model never ends a text: then check its chat "
            f"template and the eos_token_id of its generation_config.json. {_example(figures)}"
        )
    if numbers["no_answer"] >= ALL and length.think_end and numbers["think_end_seen"] < 1 - ALL:
        return (
            f"none of {completions} holds length.think_end = {length.think_end!r}, after which the answer is "
            f"looked for: set it to what this model writes, or, for a model that does not think apart, set "
            f'length.think_end="" and length.length_control="none". {_example(figures)}'
        )
    if numbers["no_answer"] >= ALL:
        return (
            f"no answer was found in {completions}: ask for its format in data.instruction or "
            f"data.code_instruction. {_example(figures)}"
        )
    if numbers["pass_rate"] == 0:
        verdicts = ", ".join(f"{reason} {count}" for reason, count in figures["verdicts"].items())
        return (
            f"none of {completions} was right ({verdicts}): check that the chat template is the model's own, "
            f"data.instruction, data.system_prompt and algo.temperature ({config.algo.temperature}), or "
            f"prepare easier problems. {_example(figures)}"
        )
    if numbers["pass_rate"] == 1:
        return f"all {completions} were right, so there is nothing to learn: prepare harder problems"
    return None


def _example(figures: dict[str, Any]) -> str:
    response = figures["examples"][0]["response"]
    return f"The prompt {_short(figures['prompt'])!r} got the response {_short(response)!r}"


def _short(text: str) -> str:
    return text if len(text) <= 160 else f"{text[:80]} ... {text[-80:]}"


def _poor(numbers: dict[str, Any], config: RunConfig) -> list[Finding]:
    texts = []
    if numbers["pass_rate"] < LOW_PASS_RATE:
        texts.append(f"the pass rate is {numbers['pass_rate']:.3f}: few groups will teach anything")
    elif numbers["zero_variance"] > MAX_ZERO_VARIANCE:
        texts.append(
            f"about {numbers['zero_variance']:.0%} of groups of {config.batch.generations_per_prompt} will "
            f"be all right or all wrong and teach nothing: prepare problems nearer to what the model can do"
        )
    if numbers["no_answer"] > MANY:
        text = f"{numbers['no_answer']:.0%} of completions have no answer"
        texts.append(f"{text}: see length.think_end and data.instruction")
    if numbers["truncated"] > MANY:
        text = f"{numbers['truncated']:.0%} of completions ran out of tokens"
        texts.append(f"{text}: raise length.max_thinking_tokens or length.max_solution_tokens")
    if numbers["interrupted"] > ALL:
        texts.append(f"the model ends its thinking ({config.length.think_end!r}) only where it is forced to")
    return [Finding(refuses=False, text=text) for text in texts]
