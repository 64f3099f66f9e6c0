"""One way of writing for what is written in many: LaTeX that math-verify reads, from LaTeX, Unicode and plain
text."""

import re
from functools import lru_cache

SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f\u2007", " "),
        **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "±": r"\pm ", "√": "√"},
        **{"π": r"\pi ", "α": r"\alpha ", "β": r"\beta ", "θ": r"\theta ", "ω": r"\omega ", "λ": r"\lambda "},
        **{"∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup "},
        **{"∈": r"\in ", "ℝ": r"\mathbb{R}", "°": r"^\circ ", "²": "^2", "³": "^3", "¢": r"\text{ cents}"},
        **{"½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "’": "'", "″": "''", "′": "'"},
    }
)
TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mbox|mathrm|operatorname)\*?\s*\{([^{}]*)\}")
"""LaTeX that says that its content is words."""
_BOLD = re.compile(r"\\(?:mathbf|boldsymbol|bm|boxed|fbox|mathit|displaystyle|underline)\s*\{([^{}]*)\}")
_PLAIN_TEXT = re.compile(TEXT.pattern.replace("[^{}]*", r"\s*[-+0-9., /%$]+\s*"))
_LETTER = re.compile(r"\\(?:mathrm|text|operatorname)\s*\{\s*([ied])\s*\}")
_NUMBER_AND_WORDS = re.compile(
    r"\\(?:text|mbox|textbf|mathrm)\s*\{\s*([-+]?[0-9][0-9.,/]*)\s+([A-Za-z][^{}0-9]*)\}"
)
_SPACE = re.compile(r"\\[,;: ]|~|\\(?:quad|qquad|thinspace)(?![A-Za-z])|\s+")
_NOTHING = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|bigl?|bigr?|Bigl?|Bigr?)(?![A-Za-z])\.?|\\!|\\phantom\s*(?:\{[^{}]*\})?"
)
_MATHEMATICS = re.compile(r"(?<!\\)\$|\\[()\[\]]|`")
_FRACTION = re.compile(
    r"\\frac\s*(?:\{\s*([^{}]*?)\s*\}|(\d|\\pi))\s*(?:\{\s*([^{}]*?)\s*\}|([0-9A-Za-z]|\\pi))"
)
_ROOT = re.compile(r"(?:√|(?<![\\A-Za-z])sqrt)\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+|[A-Za-z]))")
_COLUMN = re.compile(r"\\begin\{[pbB]?matrix\}([^&]{1,500}?)\\end\{[pbB]?matrix\}")
_REPLACED = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])"), r"\\pi "),
    (re.compile(r"\\(?:leqslant|leq)(?![A-Za-z])|<="), r"\\le "),
    (re.compile(r"\\(?:geqslant|geq)(?![A-Za-z])|>="), r"\\ge "),
    (re.compile(r"\\neq(?![A-Za-z])|!="), r"\\ne "),
    (re.compile(r"\\(?:langle)(?![A-Za-z])"), "("),
    (re.compile(r"\\(?:rangle)(?![A-Za-z])"), ")"),
    (re.compile(r"\s(?:or)\s|\\text\s*\{\s*or\s*\}|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])"), r" \\text{ or } "),
    (re.compile(r",?\s*\\text\s*\{\s*,?\s*and\s*\}|,?\sand\s"), ", "),
    (re.compile(r"(?<=[(,])\s*\+\s*\\infty"), r"\\infty"),
    (re.compile(r"\s*\\text\s*\{\s*percent\s*\}|(?<=\d)\s+percent(?![A-Za-z])"), r"\\%"),
    (re.compile(r"\{\s*,\s*\}"), ","),
    (re.compile(r"\{\s*:\s*\}|\\colon(?![A-Za-z])"), ":"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*"), r"\\cdot "),
)


@lru_cache(maxsize=1024)
def clean(text: str) -> str:
    """Return a text in the one way of writing: LaTeX without dollar signs, layout and needless blanks."""
    text = text.strip(" \n*_").translate(SIGNS)
    text = _MATHEMATICS.sub("", text)
    text = _SPACE.sub(" ", _NOTHING.sub("", text.replace("\\\\", "\\newline ")))
    text = text.replace("\\newline ", "\\\\")
    text = _NUMBER_AND_WORDS.sub(r"\1 \\text{ \2}", text)
    for _ in range(2):  # one within another
        text = _LETTER.sub(r" \1 ", _PLAIN_TEXT.sub(r"\1", _BOLD.sub(r"\1", text)))
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    text = _ROOT.sub(lambda match: f"\\sqrt{{{match[1] or match[2] or match[3]}}}", text)
    text = _FRACTION.sub(
        lambda match: f"\\frac{{{match[1] or match[2] or ''}}}{{{match[3] or match[4] or ''}}}", text
    )
    text = _COLUMN.sub(_as_tuple, text)
    return text.strip(" \n").rstrip(" .,;:").strip()


def _as_tuple(column: re.Match) -> str:
    entries = [entry.strip() for entry in column[1].split("\\\\")]
    return f"({','.join(entry for entry in entries if entry)})"


def without_text(text: str) -> str:
    """Return a text with the content of \\text{...} and the like in its place."""
    return TEXT.sub(lambda match: f" {match[1]} ", text)


def canonical(text: str) -> str:
    """Return what two ways of writing the same text have in common: no blanks, needless braces, full stop."""
    words = re.sub(r",?\s+and\s+", ",", without_text(text)).strip(" .,;:")
    words = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", words)  # 1 1/2 is not 11/2
    return re.sub(r"\{(\w)\}", r"\1", words)


WORDS = re.compile(r"[A-Za-z][A-Za-z'\-]*[A-Za-z]\.?(?:[\s,;&]+[A-Za-z][A-Za-z'\-]*\.?)*")
_WORDS_EQUAL = re.compile(r"[A-Z]{2,}\s*=\s*[A-Z]{2,}")
_LETTERS = re.compile(r"[A-Z](?:\s*,\s*(?:and\s+)?[A-Z])+")
_CLOCK = re.compile(r"\d{1,2}\s*:\s*\d\d(?::\d\d)?\s*(?:[ap]\.?\s?m\.?)?", re.IGNORECASE)


def is_words(text: str) -> bool:
    """Say whether a text is read as words, not as mathematics: letters to choose and the time of day, too."""
    words = without_text(text).strip()
    return any(pattern.fullmatch(words) for pattern in (WORDS, _WORDS_EQUAL, _LETTERS, _CLOCK))
