"""The one final answer that a text gives."""

import re

from scalerl.tasks.answers import Answer
from scalerl.tasks.grading.numbers import read_number
from scalerl.tasks.grading.wording import clean

_ANSWER_IS = re.compile(r"\banswer\b[^\n.:=]{0,40}?(?:\bis\b\s*:?|:|=|\W*\n)[\s*_]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!](?=\s+[A-Z]|\s*$)|\n")
_PROSE = re.compile(r"(?<![\\A-Za-z{])(?!pi\b|sqrt\b)[A-Za-z]{2,}(?![A-Za-z}]*\()")
HEDGE = re.compile(
    r"\b(?:or|not|maybe|perhaps|either|neither|nor|unless|wrong|incorrect|unknown|between|almost|about|roughly"
    r"|approximately|probably|guess|unsure|isn't|cannot|can't|could|might)\b|\?",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"(?<!\\)\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_CHAIN = re.compile(r"(?:\\?\$)?(?:[-+.(]\s?)?\d[\d\s.,+\-*/×÷^()%=$\\]*")


def final_statement(answer: Answer) -> str | None:
    """Return the final answer of a text, without the words around it; None if it gives several, or wavers.

    A text without a box is read like this: what follows the last "answer is" or "answer:"; else its last
    line; there the only formula between dollar signs, or else the only number, with what stands behind it.
    """
    if answer.boxed:
        return answer.text
    stated = list(_ANSWER_IS.finditer(answer.text))
    lines = [line.strip() for line in answer.text.split("\n") if line.strip()]
    if stated and answer.text[stated[-1].end() :].strip():
        sentence = _SENTENCE_END.split(answer.text[stated[-1].end() :].strip())[0]
    else:
        sentence = lines[-1]
        if any(read_number(clean(line)) for line in lines[:-1]):
            return None
    return _from_sentence(sentence.strip(" *_#"))


def _from_sentence(sentence: str) -> str | None:
    formulas = [next(filter(None, match.groups())) for match in _FORMULA.finditer(sentence)]
    outside = _FORMULA.sub(" ", sentence)
    if not _PROSE.search(outside) and len(formulas) < 2:
        return sentence
    if HEDGE.search(sentence):
        return None
    if formulas and not re.search(r"\d", outside):
        return formulas[0] if len(formulas) == 1 else None
    numbers = list(_CHAIN.finditer(sentence))
    if not numbers:
        return sentence
    first = numbers[0]
    if len(numbers) > 1 or (first[0].strip()[-1:] in "+-*/×=^"):
        return None
    tail = sentence[first.end() :].strip()
    return f"{first[0].strip(' ,.')} {tail}".strip() if tail else first[0].strip(" ,")
