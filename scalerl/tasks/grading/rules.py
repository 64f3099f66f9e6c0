"""The rules by which a final answer is compared with one form of a reference, in their order.

Each looks at both sides and gives its verdict, with its own reason, or leaves the pair to the next one. What
no rule decides is left to math-verify (algebra.py).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from scalerl.tasks.answers import Answer
from scalerl.tasks.grading.numbers import Number, near_number, read_number, same_number
from scalerl.tasks.grading.statement import HEDGE, final_statement
from scalerl.tasks.grading.units import agree, split_scale, split_unit
from scalerl.tasks.grading.wording import canonical, clean, is_words, without_text
from scalerl.tasks.task import DIFFERENT, EQUAL, Verdict

SEVERAL = Verdict(False, "several_answers")
OTHER_TEXT, OTHER_UNIT = Verdict(False, "other_text"), Verdict(False, "other_unit")
INEXACT, UNEVALUATED = Verdict(False, "inexact"), Verdict(False, "unevaluated")

_CHOICE = re.compile(r"\(?\s*([A-J])\s*\)?")
_CHOICE_AND_VALUE = re.compile(r"(?:\(\s*([A-J])\s*\)|([A-J])\s*[).:])\s*(.*)", re.DOTALL)
_BASED = re.compile(r"(-?[0-9A-Z]+)\s*_\s*\{?\s*(\d+)\s*\}?")
_APPROXIMATE = re.compile(r"\\(?:approx|sim|simeq|doteq)(?![A-Za-z])")
_SECOND = re.compile(r"^and\b|(?<![\^{\-A-Za-z])\d")
"""A second answer in what should be a unit."""
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)")


@dataclass(frozen=True)
class Side:
    """One side of a comparison, a clean text, and what it can be read as."""

    text: str

    @cached_property
    def canonical(self) -> str:
        """Return what is left of the text when two are compared as texts."""
        return canonical(self.text)

    @cached_property
    def choice(self) -> str | None:
        """Return the letter of a multiple choice, where nothing else stands there."""
        match = _CHOICE.fullmatch(without_text(self.text).strip())
        return match[1] if match else None

    @cached_property
    def choice_and_value(self) -> tuple[str, str] | None:
        """Return the letter of a multiple choice and the value behind it."""
        match = _CHOICE_AND_VALUE.fullmatch(without_text(self.text).strip())
        return (match[1] or match[2], match[3]) if match and match[3] else None

    @cached_property
    def letter(self) -> str:
        """Return the letter of a multiple choice, a value behind it or not; empty where there is none."""
        return self.choice or (self.choice_and_value or ("",))[0]

    @cached_property
    def value_and_unit(self) -> tuple[str, str]:
        """Return the text without its unit, and the unit."""
        return split_unit(_APPROXIMATE.sub("", self.text).strip())

    @cached_property
    def number(self) -> Number | None:
        """Return the number that the value is, such as 5000000 of "5 million"."""
        value, unit = self.value_and_unit
        number, (factor, _) = read_number(value), split_scale(unit)
        if number is None or factor == 1:
            return number
        return Number(number.value * factor, exact=number.exact, percent=number.percent)

    @cached_property
    def is_words(self) -> bool:
        """Say whether the text is read as words."""
        return is_words(self.text)

    @cached_property
    def equal_sides(self) -> list[str]:
        """Return the sides of a chain of equations; one where it is none, or a list of several equations."""
        if re.search(r"[,;<>]|\\(?:le|ge|in|lt|gt)(?![A-Za-z])|\\text\{ or \}", self.text):
            return [self.text]
        # Not the sign in \sum_{n=1}.
        flat = re.sub(r"\{[^{}]*\}", lambda group: "{" + "_" * (len(group[0]) - 2) + "}", self.text)
        ends = [match.start() for match in _EQUALS.finditer(flat)]
        begins = [0, *(end + 1 for end in ends)]
        return [self.text[begin:end].strip() for begin, end in zip(begins, [*ends, None], strict=True)]


@lru_cache(maxsize=1024)
def read_side(text: str) -> Side:
    """Return a text as a side of a comparison."""
    return Side(clean(text))


def same_text(given: Side, wanted: Side) -> Verdict | None:
    """Take the same text, but for blanks, braces, capitals and a full stop."""
    if given.canonical == wanted.canonical and given.canonical:
        return EQUAL
    return None


def same_choice(given: Side, wanted: Side) -> Verdict | None:
    """Compare letters of a multiple choice; a value behind the letter is no part of the answer."""
    if wanted.choice and given.letter == wanted.choice:
        return EQUAL
    if wanted.choice:
        return OTHER_TEXT if given.is_words or given.letter else None
    if wanted.choice_and_value and given.letter and given.letter != wanted.letter:
        return OTHER_TEXT
    return EQUAL if wanted.choice_and_value and given.choice else None


def same_words(given: Side, wanted: Side) -> Verdict | None:
    """Compare words as texts: letters do not commute, and a word is no product of variables."""
    if wanted.is_words or (given.is_words and (wanted.number or len(wanted.text) == 1)):
        return EQUAL if given.canonical.casefold() == wanted.canonical.casefold() else OTHER_TEXT
    return None


def same_base(given: Side, wanted: Side) -> Verdict | None:
    """Compare numerals such as 12_5: digit by digit, and in the same base where both name one."""
    numeral = _BASED.fullmatch(wanted.text)
    if numeral is None:
        return None
    other = _BASED.fullmatch(given.text)
    digits, base = (other[1], other[2]) if other else (given.text, numeral[2])
    return EQUAL if (digits, base) == (numeral[1], numeral[2]) else DIFFERENT


def same_amount(given: Side, wanted: Side) -> Verdict | None:
    """Compare two numbers, and their units where both have one."""
    if given.number is None or wanted.number is None:
        return None
    if HEDGE.search(given.value_and_unit[1]) or _SECOND.search(given.value_and_unit[1]):
        return SEVERAL
    approximate = (
        _APPROXIMATE.search(given.text) and wanted.number.exact and not _APPROXIMATE.search(wanted.text)
    )
    if not same_number(given.number, wanted.number):
        return INEXACT if near_number(given.number, wanted.number) else DIFFERENT
    if approximate:
        return INEXACT
    if given.number.unfinished and not wanted.number.unfinished and wanted.number.value.denominator == 1:
        return UNEVALUATED
    return EQUAL if _units_agree(given, wanted) else OTHER_UNIT


def _units_agree(given: Side, wanted: Side) -> bool:
    first, second = (
        "percent" if side.number and side.number.percent else split_scale(side.value_and_unit[1])[1]
        for side in (given, wanted)
    )
    return not first or not second or agree(first, second)


RULES: tuple[Callable[[Side, Side], Verdict | None], ...] = (
    same_text,
    same_choice,
    same_words,
    same_base,
    same_amount,
)


def judge(
    answer: Answer, reference: str, algebra: Callable[[str, str], Verdict] | None = None
) -> Verdict | None:
    """Return the verdict on an answer against all forms of a reference.

    algebra: compares texts that no rule decides (algebra.compare); without it the verdict on these is None.
    """
    said = final_statement(answer)
    if said is None:
        return SEVERAL
    verdicts = []
    for form in reference.split("\n"):
        verdict = _judge_form(read_side(said), read_side(form), algebra)
        if verdict == EQUAL:
            return EQUAL
        verdicts.append(verdict)
    if None in verdicts:
        return None
    return next((verdict for verdict in verdicts if verdict != DIFFERENT), DIFFERENT)


def _judge_form(given: Side, wanted: Side, algebra: Callable[[str, str], Verdict] | None) -> Verdict | None:
    for rule in RULES:
        if verdict := rule(given, wanted):
            return verdict
    if given.choice_and_value and not wanted.choice:
        return _judge_form(read_side(given.choice_and_value[1]), wanted, algebra)
    if wanted.choice_and_value:
        return _judge_form(given, read_side(wanted.choice_and_value[1]), algebra)
    sides = given.equal_sides
    if len(sides) > 1 and len(wanted.equal_sides) == 1:
        return _judge_chain(sides, wanted, algebra)
    if algebra is None:
        return None
    if _APPROXIMATE.search(given.text) and not _APPROXIMATE.search(wanted.text):
        return INEXACT
    return _judge_values(given, wanted, algebra)


def _judge_values(given: Side, wanted: Side, algebra: Callable[[str, str], Verdict]) -> Verdict:
    verdict = algebra(given.value_and_unit[0], wanted.value_and_unit[0])
    if verdict == EQUAL and wanted.number is not None:
        return UNEVALUATED  # a number is answered with a number
    return verdict if verdict != EQUAL or _units_agree(given, wanted) else OTHER_UNIT


def _judge_chain(
    sides: list[str], wanted: Side, algebra: Callable[[str, str], Verdict] | None
) -> Verdict | None:
    """Judge the last side of "9 * 2 = 18": those before it are names, or have to be equal to it."""
    if len(sides) == 2 and re.fullmatch(r"[A-Za-z]", sides[1]) and not wanted.choice:
        sides = sides[::-1]
    value = read_side(sides[-1])
    for side in sides[:-1]:
        if re.search(r"(?<![\\A-Za-z])[A-Za-z]|\\text|\\angle|\\triangle", side) or not side:
            continue
        if algebra is None:
            return None
        if algebra(side, value.value_and_unit[0]).reason not in ("equal", "unevaluated"):
            return SEVERAL
    return _judge_form(value, wanted, algebra)
