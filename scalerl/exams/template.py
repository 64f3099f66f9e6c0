"""Signs that a chat template is another model's: it writes what the tokenizer has no tokens for."""

import re
from collections.abc import Sequence
from typing import Any

MARK = re.compile(r"<\|[^<>|\s]+\|>|\[/?INST\]|<(?:start|end)_of_turn>")
"""How templates mark turns; in the model's own each mark is one token."""


def template_faults(tokenizer: Any, problem_text: str, prompt_token_ids: Sequence[int]) -> dict[str, Any]:
    """Return what the prompt that the template made of a problem has, and the model never saw.

    unknown_tokens: tokens for what the tokenizer does not know, beside those of the problem itself.
    broken_marks: marks of turns that are no token of the tokenizer.
    """
    if not tokenizer.chat_template:
        return {"unknown_tokens": 0, "broken_marks": []}
    unknown = tokenizer.unk_token_id
    own = list(tokenizer(problem_text)["input_ids"]).count(unknown)
    marks = {*MARK.findall(tokenizer.decode(prompt_token_ids, skip_special_tokens=False))}
    return {
        "unknown_tokens": max(0, list(prompt_token_ids).count(unknown) - own) if unknown is not None else 0,
        "broken_marks": sorted(marks - tokenizer.get_vocab().keys()),
    }
