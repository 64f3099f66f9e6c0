"""What an expression leaves to be worked out: an answer may leave no more than its reference does.

Without this rule a restated question is the answer to itself: \\sum_{n=1}^{100} n equals 5050.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

OPERATIONS = {
    "calculus": r"\\(?:sum|prod|i+nt|oint|lim|partial|nabla|mathcal)|\\frac\s*\{\s*d\b|(?<=[A-Za-z)])'"
    r"|\\prime|\\[cl]?dots",
    "counting": r"!|\\binom|\\choose|(?<![A-Za-z])[CP]\(\d|_\{?\d+\}?\s*[CP](?![A-Za-z])",
    "logarithms": r"\\(?:log|ln|lg)(?![A-Za-z])|(?<![A-Za-z\\])(?:log|ln)(?![A-Za-z])",
    "trigonometry": r"(?<![A-Za-z])\\?(?:arc)?(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])",
    "exponentials of i": r"(?<![A-Za-z])e\s*\^\s*\{?[^{}]*(?<![A-Za-z])i(?![A-Za-z])|\\exp|cis(?![A-Za-z])",
    "divisibility": r"(?:gcd|lcm|bmod|pmod|\\mod|GCD|LCM|\\phi\()",
    "extremes": r"\\(?:max|min|sup|inf)(?![A-Za-z])",
    "matrices": r"\\(?:det|tr)(?![A-Za-z])|vmatrix|matrix\}\s*\^"
    r"|\\end\{[a-z]*matrix\}\s*(?:\\cdot\s*|\\times\s*)?\\begin",
    "rounding": r"\\[lr](?:floor|ceil)",
    "absolute values": r"\||\\[lr]vert",
    "parts": r"\\(?:Re|Im|arg|overline|bar)(?![A-Za-z])",
}
_FRACTION = re.compile(r"\\frac\{(\d{1,18})\}\{(\d{1,18})\}|(?<![\d.])(\d{1,18})\s*/\s*(\d{1,18})(?![\d.])")
_OPERATIONS = {name: re.compile(pattern, re.DOTALL) for name, pattern in OPERATIONS.items()}


def operations(text: str) -> set[str]:
    """Return the kinds of functions that a clean text asks for; read from the text, for the library evaluates
    some of them at once."""
    found = {name for name, pattern in _OPERATIONS.items() if pattern.search(text)}
    fractions = [[int(part) for part in match.groups() if part] for match in _FRACTION.finditer(text)]
    if any(bottom and top % bottom == 0 for top, bottom in fractions):
        found.add("fractions that are integers")
    return found


def left_undone(given: Any, wanted: Any) -> set[str]:
    """Return the arithmetic that an answer leaves undone and its reference does not.

    Both are trees of SymPy as the library parses them, without evaluation. Fractions, products such as 2 pi
    and roots that no integer equals are done: they are how such numbers are written.
    """
    undone = arithmetic(given) - arithmetic(wanted)
    return undone | _other_shape(given, wanted)


def arithmetic(tree: Any) -> set[str]:
    """Return the kinds of arithmetic that a tree leaves undone: sum, product, power."""
    from sympy import Add, Mul, Pow

    found = set()
    for node in _nodes(tree):
        if isinstance(node, Add) and _collapses(node):
            found.add("sum")
        elif isinstance(node, Mul) and _multiplies(node):
            found.add("product")
        elif isinstance(node, Pow) and _raises(node):
            found.add("power")
        elif type(node).__name__ in ("MatMul", "MatAdd", "MatPow", "Inverse", "Transpose"):
            found.add("matrices")
    return found


def _nodes(tree: Any) -> Iterator[Any]:
    """Yield the nodes of a tree, those of matrices included; what belongs to one sum or product only once."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        if hasattr(node, "flat"):
            stack += node.flat()
            continue
        for argument in getattr(node, "args", ()):
            # 2 * (3 * x) is one product
            same = type(argument) is type(node) and type(node).__name__ in ("Add", "Mul")
            stack += argument.args if same else [argument]


def _flat(node: Any) -> list[Any]:
    """Return the terms or factors of a sum or product within sums or products."""
    parts = []
    for argument in node.args:
        parts += _flat(argument) if type(argument) is type(node) else [argument]
    return parts


def _collapses(node: Any) -> bool:
    terms = _flat(node)
    done = node.func(*[term.doit() for term in terms])
    return len(done.args if done.func is node.func else [done]) < len(terms)


def _multiplies(node: Any) -> bool:
    """Say whether a product has two numbers above the line, or two powers of one base."""
    from sympy import Add, Rational

    done = [factor if isinstance(factor, Add) else factor.doit() for factor in _flat(node)]
    done = [factor for factor in done if factor not in (1, -1)]
    numbers = [factor for factor in done if isinstance(factor, Rational)]
    if sum(abs(number.p) != 1 for number in numbers) > 1:
        return True
    bases = Counter(factor.as_base_exp()[0] for factor in done if not isinstance(factor, Rational))
    return any(count > 1 for count in bases.values())


def _raises(node: Any) -> bool:
    """Say whether a power is of a power, or a rational number that is not written as a fraction."""
    from sympy import Pow, Rational

    base, exponent = node.args
    if exponent == 1 or (
        isinstance(base, Pow) and base.exp.is_Integer and exponent.is_Integer and exponent != -1
    ):
        return True
    if node.free_symbols or (base.is_Integer and exponent == -1) or base == 10:
        return False
    return isinstance(node.doit(), Rational)


def _other_shape(given: Any, wanted: Any) -> set[str]:
    """Return how the shape of a formula differs where "expand", "factor" or "simplify" asked for one."""
    from sympy import Add, Expr

    if not (isinstance(given, Expr) and isinstance(wanted, Expr) and wanted.free_symbols):
        return set()
    if len(wanted.free_symbols) == 1 and _degree_below(given) > _degree_below(wanted):
        return {"quotient"}
    if isinstance(given, Add) and not _has_sum(wanted):
        return {"sum"}
    if not (given.is_polynomial() and wanted.is_polynomial()):
        return set()
    if isinstance(wanted, Add) and _factors(wanted) < 2 <= _factors(given):
        return {"product of sums"}
    if _has_product_of_sums(given) and not _has_product_of_sums(wanted):
        return {"product of sums"}
    if _factors(wanted) > 1 and (_factors(given) < _factors(wanted) or _content(given) > _content(wanted)):
        return {"factors"}
    return set()


def _has_product_of_sums(tree: Any) -> bool:
    """Say whether a term of a sum is a product with a sum, such as 2(x + 1) + 1."""
    from sympy import Add, Mul

    terms = _flat(tree) if isinstance(tree, Add) else []
    return any(isinstance(part, Add) for term in terms if isinstance(term, Mul) for part in _flat(term))


def _content(tree: Any) -> Any:
    """Return the product of the numbers that could be taken out of the sums of a product: 3 of x(3y + 6)."""
    from sympy import Add, Mul, prod

    factors = _flat(tree) if isinstance(tree, Mul) else [tree]
    return prod(abs(factor.doit().primitive()[0]) for factor in factors if isinstance(factor, Add))


def _degree_below(tree: Any) -> int:
    """Return the degree of all polynomials that a formula divides by, together."""
    from sympy import Poly, Pow

    below = [
        (node.base, -node.exp)
        for node in _nodes(tree)
        if isinstance(node, Pow) and node.free_symbols and node.exp.is_Integer and node.exp.is_negative
    ]
    return sum(int(times) * Poly(base).total_degree() for base, times in below if base.is_polynomial())


def _has_sum(tree: Any) -> bool:
    """Say whether there is a sum outside the arguments of functions and exponents."""
    from sympy import Add, Mul, Pow

    if isinstance(tree, Add):
        return True
    inside = tree.args[:1] if isinstance(tree, Pow) else tree.args if isinstance(tree, Mul) else ()
    return any(_has_sum(argument) for argument in inside)


def _factors(tree: Any) -> int:
    """Count the factors with variables of a product that has a sum among them: 0 for a monomial."""
    from sympy import Add, Mul, Pow

    factors = [factor for factor in (_flat(tree) if isinstance(tree, Mul) else [tree]) if factor.free_symbols]
    count, sums = 0, 0
    for factor in factors:
        base, exponent = factor.args if isinstance(factor, Pow) else (factor, 1)
        times = int(exponent) if getattr(exponent, "is_Integer", True) and exponent > 0 else 1
        count += times
        sums += times * isinstance(base, Add)
    return count if sums else 0
