"""Where the final answer stands in a response, and the verdicts that need no algebra."""

import re
from dataclasses import dataclass

from scalerl.tasks.task import DIFFERENT, EQUAL, Verdict

MAX_ANSWER_CHARACTERS = 10_000
"""A \\boxed{...} longer than this is no answer; of a text without one, only so many characters at its end are
searched."""
BOXED = "\\boxed{"
PLAIN_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer found in a final text."""

    text: str
    boxed: bool
    """It was the content of a \\boxed{...}, so it is LaTeX and nothing but the answer."""


def final_text(response: str, think_end: str) -> str | None:
    """Return what follows the last `think_end`; None if it does not occur.

    An empty `think_end` means that there is no thinking part: all of the response is returned.
    """
    if not think_end:
        return response
    _, found, text = response.rpartition(think_end)
    return text if found else None


def find_answer(text: str) -> Answer | None:
    """Return the last \\boxed{...}, else the line after the last "####", else the end of the text; None where
    that is empty."""
    content = _last_boxed(text)
    if content is not None:
        return Answer(content, boxed=True) if content else None
    plain = text.rpartition("####")[2].lstrip().partition("\n")[0] if "####" in text else text
    plain = plain[-MAX_ANSWER_CHARACTERS:].strip()
    return Answer(plain, boxed=False) if plain else None


def compare_texts(answer: Answer, reference: str) -> Verdict | None:
    """Return the verdict where the texts are the same or all plain integers (025 equals 25); None where
    algebra is needed."""
    forms = reference.split("\n")
    if answer.text in forms:
        return EQUAL
    # All of them: where one form needs algebra, a difference from the others decides nothing.
    if all(PLAIN_INTEGER.fullmatch(text) for text in [answer.text, *forms]):
        return EQUAL if int(answer.text) in map(int, forms) else DIFFERENT
    return None


def _last_boxed(text: str) -> str | None:
    """Return the content of the last \\boxed{...}; None if there is none, or its brace is not closed within
    MAX_ANSWER_CHARACTERS."""
    # Only the last box, and only so far: a response may hold millions of braces.
    begin = text.rfind(BOXED)
    if begin < 0:
        return None
    begin += len(BOXED)
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[begin : begin + MAX_ANSWER_CHARACTERS], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[begin : begin + brace.start()].strip()
    return None
