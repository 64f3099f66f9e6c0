"""Compares answers with the math-verify library (SymPy).

Nothing limits its time: hostile answers belong into a VerifierPool.
"""

import re

from math_verify import parse, verify

from scalerl.tasks.answers import Answer

SCIENTIFIC = re.compile(r"([+-]?[0-9.]+)[eE]([+-]?[0-9]+)")
PROSE = re.compile(r"[$\n]|(?<![\\A-Za-z])[A-Za-z]{2,}")
"""A dollar, a second line or a bare word: not one LaTeX expression. Reading words as products of letters
would also take long."""


def equal_by_algebra(answer: Answer, reference: str) -> bool:
    """Say whether some reading of the answer is mathematically equal to some form of the reference."""
    targets = [_parse(reading) for reading in _readings(answer)]
    golds = [_parse(_boxed(form)) for form in reference.split("\n")]
    # The library's own time limits use SIGALRM, which does not interrupt a long computation inside one
    # big-integer operation; the caller's limit kills the process instead.
    return any(verify(gold, target, timeout_seconds=None) for gold in golds for target in targets)


def _readings(answer: Answer) -> list[str]:
    if answer.boxed:
        return [_boxed(answer.text)]
    if PROSE.search(answer.text):
        return [answer.text]
    return [_boxed(answer.text), answer.text]


def _boxed(text: str) -> str:
    """Return a text as the library reads LaTeX best: boxed, without a full stop at the end, and 4.5e33 (which
    it takes for a product with Euler's e) written out."""
    text = text.rstrip(" .")
    if number := SCIENTIFIC.fullmatch(text):
        text = f"{number[1]} \\times 10^{{{number[2]}}}"
    return f"\\boxed{{{text}}}"


def _parse(text: str) -> list:
    return parse(text, parsing_timeout=None)
