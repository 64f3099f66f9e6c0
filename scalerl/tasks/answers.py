"""Where the final answer stands in a response."""

import re
from dataclasses import dataclass

MAX_ANSWER_CHARACTERS = 10_000
"""A \\boxed{...} longer than this is no answer; of a text without one, only so many characters at its end are
searched."""
BOXED = "\\boxed{"
MAX_JOINED = 10
"""Boxes with nothing but "and" or "or" between them are one answer, up to so many."""
_JOINT = re.compile(r"[\s$]*(?:,?\s*(?:and|or)|,)[\s$]*")


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
    that is empty.

    \\boxed{2} or \\boxed{3} is the one answer "2, 3".
    """
    content = _last_boxed(text)
    if content is not None:
        return Answer(content, boxed=True) if content else None
    plain = text.rpartition("####")[2].lstrip().partition("\n")[0] if "####" in text else text
    plain = plain[-MAX_ANSWER_CHARACTERS:].strip()
    return Answer(plain, boxed=False) if plain else None


def _last_boxed(text: str) -> str | None:
    """Return the content of the last \\boxed{...} and of those it is joined to; None if there is none, or its
    brace is not closed within MAX_ANSWER_CHARACTERS."""
    begin = text.rfind(BOXED)
    contents: list[str] = []
    next_begin = begin
    # Only the last boxes, and only so far: a response may hold millions of braces.
    while begin >= 0 and len(contents) < MAX_JOINED:
        content = _content(text, begin + len(BOXED))
        if content is None:
            break
        end = begin + len(BOXED) + len(content) + 1
        if contents and not _JOINT.fullmatch(text, end, next_begin):
            break
        contents.append(content.strip())
        next_begin, begin = begin, text.rfind(BOXED, 0, begin)
    return ", ".join(reversed(contents)) if contents else None


def _content(text: str, begin: int) -> str | None:
    """Return what stands between a brace that ends at `begin` and the one that closes it."""
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[begin : begin + MAX_ANSWER_CHARACTERS], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[begin : begin + brace.start()]
    return None
