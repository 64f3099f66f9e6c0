"""A second look at what math-verify takes for equal: it rounds, so that all tiny numbers are equal to it."""

from itertools import count
from typing import Any

RELATIVE_TOLERANCE = 1e-12
DIGITS = 30
"""Digits to which expressions are computed."""


def same_value(given: Any, wanted: Any) -> bool:
    """Say whether no computed value speaks against two trees of SymPy being equal.

    Expressions are compared relatively, with numbers in the place of their variables; sets, tuples and
    matrices by their elements. What cannot be computed speaks against nothing.
    """
    from sympy import Expr, Interval, MatrixBase, Tuple
    from sympy.sets.sets import FiniteSet

    if isinstance(given, Expr) and isinstance(wanted, Expr):
        return _same_number(given, wanted)
    if isinstance(given, MatrixBase) and isinstance(wanted, MatrixBase):
        return all(map(same_value, given.flat(), wanted.flat()))
    if isinstance(given, Interval) and isinstance(wanted, Interval):
        return same_value(given.start, wanted.start) and same_value(given.end, wanted.end)
    if isinstance(given, FiniteSet | Tuple) and isinstance(wanted, FiniteSet | Tuple):
        return all(any(same_value(one, other) for other in wanted.args) for one in given.args)
    return True


def _same_number(given: Any, wanted: Any) -> bool:
    from sympy import Rational

    names = sorted({symbol.name for symbol in given.free_symbols | wanted.free_symbols})
    values = {name: Rational(7 * index + 11, 9) for index, name in zip(count(), names, strict=False)}
    numbers = []
    for tree in (given, wanted):
        number = tree.subs({symbol: values[symbol.name] for symbol in tree.free_symbols}).evalf(DIGITS)
        if not number.is_number or not number.is_finite:
            return True
        numbers.append(number)
    first, second = numbers
    return bool(abs(first - second).evalf() <= RELATIVE_TOLERANCE * abs(second).evalf())
