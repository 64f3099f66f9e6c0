"""Numbers as they are written, and when two are equal.

A reference without a decimal point is exact: 1/3 is not .333333, and pi is no decimal number at all. One with
a decimal point or an exponent is a measurement: an answer may differ from it by RELATIVE_TOLERANCE.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

RELATIVE_TOLERANCE = Fraction(1, 1_000_000)
"""Of the reference. An absolute one would make all tiny numbers equal."""
NEAR = Fraction(1, 50)
"""Relative difference up to which a number that is not equal counts as an approximation."""
MAX_DIGITS, MAX_EXPONENT = 1000, 400
"""No number is larger: what it would cost to compare."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)(?![\d])"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_POWER = r"10\s*\^\s*(?:\{{\s*(?P<{0}1>[+-]?\s*\d{{1,4}})\s*\}}|(?P<{0}2>[+-]?\d{{1,4}}))"
_SIGN = r"(?P<sign>[+-]?)\s*"
_FRACTION = (
    r"(?:\\frac\{\s*(?P<top>[+-]?\s*[\d,]+)\s*\}\s*\{\s*(?P<bottom>[+-]?\s*[\d,]+)\s*\}"
    r"|\{?(?P<over>[\d,]+)\}?\s*/\s*\{?(?P<under>-?[\d,]+)\}?)"
)
_FORMS = [
    re.compile(_SIGN + form)
    for form in (
        rf"(?P<mantissa>{_DECIMAL})",
        rf"(?P<mantissa>{_DECIMAL})\s*(?:\\times|\\cdot|x)\s*" + _POWER.format("exponent"),
        rf"(?P<mantissa>{_DECIMAL})\s*[eE]\s*(?P<exponent1>[+-]?\d{{1,4}})",
        _POWER.format("exponent"),
        rf"1\s*/\s*{_POWER.format('inverse')}|\\frac\{{1\}}\{{{_POWER.format('inversed')}\}}",
        _FRACTION,
        rf"(?P<whole>\d+)\s*(?=\\frac){_FRACTION}",
        rf"(?P<whole>\d+)\s+{_FRACTION}",
        r"(?P<before>\d*\.\d*)\\(?:overline|bar)\s*\{?(?P<period>\d+)\}?",
    )
]
_WRAPPED = re.compile(r"\((.*)\)|\{(.*)\}|\\\{(.*)\\\}|\\mathbf(.*)")
_PERCENT = re.compile(r"\s*\\?%$")


@dataclass(frozen=True, slots=True)
class Number:
    """A number as a text gives it."""

    value: Fraction
    exact: bool = True
    """Not a decimal fraction and not in scientific notation."""
    percent: bool = False
    """The text says so many percent; `value` is not divided by 100."""
    unfinished: bool = False
    """A fraction that is an integer, such as 36/2."""


def read_number(text: str) -> Number | None:
    """Return the number that a clean text is; None if it is anything else, such as 48 + 24 or 2^{10}."""
    if len(text) > MAX_DIGITS:
        return None
    bare = _PERCENT.sub("", text).strip()
    percent = bare != text.strip()
    while wrapped := _WRAPPED.fullmatch(bare):
        bare = next(group for group in wrapped.groups() if group is not None).strip()
    for form in _FORMS:
        if match := form.fullmatch(bare):
            return _make_number(match.groupdict(), percent)
    return None


def _make_number(parts: dict[str, str | None], percent: bool) -> Number | None:
    found = {re.sub(r"d?[12]$", "", name): text for name, text in parts.items() if text is not None}
    sign = -1 if found["sign"] == "-" else 1
    if "top" in found or "over" in found:
        top = _integer(found.get("top") or found["over"])
        bottom = _integer(found.get("bottom") or found["under"])
        if bottom == 0:
            return None
        value = Fraction(top, bottom) + int(found.get("whole", 0))
        return Number(sign * value, percent=percent, unfinished=value.denominator == 1)
    if "period" in found:
        return Number(sign * _repeating(found["before"], found["period"]), percent=percent)
    power = _integer(found.get("exponent", "0"))
    power = -_integer(found["inverse"]) if "inverse" in found else power
    if abs(power) > MAX_EXPONENT:
        return None
    mantissa = found.get("mantissa", "1")
    value = Fraction(mantissa.replace(",", "").replace(" ", "").rstrip(".")) * Fraction(10) ** power
    # 142.0 comes from a file that keeps its integers as floats.
    decimal = mantissa.partition(".")[2].strip("0")
    exact = not (decimal or "exponent" in found or "inverse" in found)
    return Number(sign * value, exact=exact, percent=percent)


def _integer(text: str) -> int:
    return int(text.replace(",", "").replace(" ", ""))


def _repeating(before: str, period: str) -> Fraction:
    decimals = before.partition(".")[2]
    tail = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(decimals))
    return Fraction(before.rstrip(".") or "0") + tail


def same_number(given: Number, wanted: Number) -> bool:
    """Say whether two numbers are equal; 50 % is one half, and where only one says percent also 50."""
    values = {given.value / 100 if given.percent else given.value}
    targets = {wanted.value / 100 if wanted.percent else wanted.value}
    if given.percent != wanted.percent:
        values.add(given.value)
        targets.add(wanted.value)
    tolerance = 0 if wanted.exact else RELATIVE_TOLERANCE
    return any(abs(value - target) <= tolerance * abs(target) for value in values for target in targets)


def near_number(given: Number, wanted: Number) -> bool:
    """Say whether a number looks like an approximation of an exact one."""
    return not given.exact and wanted.exact and abs(given.value - wanted.value) <= NEAR * abs(wanted.value)
