"""Compares clean texts with the math-verify library (SymPy), exactly.

Nothing limits its time: hostile answers belong into a VerifierPool.
"""

import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from scalerl.tasks.grading.forms import left_undone, operations
from scalerl.tasks.grading.same_value import same_value
from scalerl.tasks.task import DIFFERENT, EQUAL, Verdict

UNEVALUATED = Verdict(False, "unevaluated")
SCIENTIFIC = re.compile(r"(?<![A-Za-z\d.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d+)(?![\d.])")
DECIMAL = re.compile(r"(?<![\d_.])(\d*)\.(\d+)(?![\d.]|\s*\\(?:overline|bar))(\s*\^)?")
MAX_DECIMALS = 50
PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}(?:\s+[A-Za-z]+)+")
"""Words: not mathematics. Reading them as products of letters would also take long."""
# Units are split off before, by rules of our own: those of the library take the b of "a + b" for one.
LATEX = [
    LatexExtractionConfig(
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
        )
    )
]


def compare(given: str, wanted: str) -> Verdict:
    """Return equal, unevaluated (equal, but it leaves to be worked out what the reference does not), or
    different."""
    if PROSE.search(given) or (given.startswith("\\{") and wanted.startswith(("(", "["))):
        return DIFFERENT  # the library takes {1, 2} for (1, 2)
    answers, targets = _parse(given), _parse(wanted)
    if not answers or not targets or not any(_equal(*pair) for pair in _readings(answers[0], targets[0])):
        return DIFFERENT
    asked, done = operations(given), operations(wanted)
    if asked - done or ("counting" not in done and left_undone(answers[0], targets[0])):
        return UNEVALUATED
    return EQUAL


def _readings(given: Any, wanted: Any) -> list[tuple[Any, Any]]:
    """Return the pairs of trees that say the same as the two given ones, the most likely first."""
    pairs = [(given, wanted)]
    if (as_sets := (_as_set(given), _as_set(wanted))) != pairs[0]:
        pairs.append(as_sets)
    if (as_complex := (_as_complex(given), _as_complex(wanted))) != pairs[0]:
        pairs.append(as_complex)
    return pairs


def _equal(given: Any, wanted: Any) -> bool:
    # The library's own time limits use SIGALRM, which does not interrupt a long computation inside one
    # big-integer operation; the caller's limit kills the process instead.
    if verify(wanted, given, timeout_seconds=None, allow_set_relation_comp=True):
        return same_value(given, wanted)
    return _equal_exponentials(given, wanted)


def _equal_exponentials(given: Any, wanted: Any) -> bool:
    """Compare with hyperbolic functions written as exponential ones, which the library does not do."""
    from sympy import Expr, exp, simplify
    from sympy.functions.elementary.hyperbolic import HyperbolicFunction

    if not (isinstance(given, Expr) and isinstance(wanted, Expr)):
        return False
    if not (given.has(HyperbolicFunction) or wanted.has(HyperbolicFunction)):
        return False
    return bool(simplify(given.rewrite(exp) - wanted.rewrite(exp)) == 0)


def _as_set(tree: Any) -> Any:
    """Return the set of an inequality, of several at once, or of alternatives; else the tree itself."""
    from latex2sympy2_extended.logic import And
    from latex2sympy2_extended.sets import FiniteSet
    from sympy import Eq, Intersection, Set, Union
    from sympy.core.relational import Relational

    if isinstance(tree, Relational) and not isinstance(tree, Eq) and len(tree.free_symbols) == 1:
        return tree.as_set()
    parts = tree._unsorted_args if isinstance(tree, And) else tree.args if isinstance(tree, FiniteSet) else ()
    sets = [_as_set(part) for part in parts]
    if not sets or not all(isinstance(part, Set) for part in sets):
        return tree
    return Intersection(*sets) if isinstance(tree, And) else Union(*sets)


def _as_complex(tree: Any) -> Any:
    """Return the tree with the imaginary unit for the variable i, where that is not a running index."""
    from sympy import Basic, I, Symbol
    from sympy.concrete.expr_with_limits import ExprWithLimits

    if not hasattr(tree, "free_symbols") or (isinstance(tree, Basic) and tree.has(ExprWithLimits)):
        return tree
    units = [symbol for symbol in tree.free_symbols if symbol.name == "i"]
    return tree.subs(dict.fromkeys(units, I)) if units and all(isinstance(u, Symbol) for u in units) else tree


@lru_cache(maxsize=256)
def _parse(text: str) -> list[Any]:
    """Return the tree of a clean text; nothing where the library cannot read it."""
    found = parse(f"\\boxed{{{_exact(text)}}}", extraction_config=LATEX, parsing_timeout=None)
    return [tree for tree in found if not isinstance(tree, str)]


def _exact(text: str) -> str:
    """Return a text with decimal fractions written as fractions, which SymPy keeps exact."""
    return DECIMAL.sub(_as_fraction, SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text))


def _as_fraction(match: re.Match) -> str:
    whole, decimals, power = match.groups()
    if len(decimals) > MAX_DECIMALS:
        return match[0]
    fraction = f"\\frac{{{int(whole + decimals)}}}{{1{'0' * len(decimals)}}}"
    return f"({fraction})^" if power else fraction
