"""What a step row says of the verdicts in its batch: how many of each there are, and how many right answers
may have been had for nothing."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from scalerl.spool.schema import Group, Rollout
from scalerl.tasks.answers import final_text, find_answer

FORMULAS = re.compile(
    r"\$\$?(?P<inline>[^$]{3,400})\$|\\\((?P<round>.{3,400}?)\\\)|\\\[(?P<square>.{3,400}?)\\\]"
    r"|(?P<plain>[0-9(][-0-9+*/^%().= ]{1,400}[0-9)])",
    re.DOTALL,
)
"""What stands between the signs of LaTeX mathematics, or a run of digits and operators."""
WORK = re.compile(
    r"[0-9)}]\s*[-+*^!]|[0-9)}]/[0-9({]|\\(?:cdot|times|div|d?binom|sum|prod|int|lim|log|ln|sin|cos|tan|det|gcd"
    r"|max|min|[bp]?mod)(?![A-Za-z])"
)
"""Something that is still to be worked out."""
IGNORED = re.compile(r"\s|\\[!,;: ]|\\(?:left|right|displaystyle)(?![A-Za-z])|[$?.=]+$")


def verdict_statistics(
    groups: Iterable[Group], questions: Mapping[str, str], think_end: str
) -> dict[str, Any]:
    """Return the fields of a step row about verdicts: `verdicts` and `restated_share`.

    questions: the problem texts by prompt id. think_end: the text that ends the thinking part.
    """
    rollouts = [rollout for group in groups for rollout in group]
    counts = Counter(f"{rollout.task}/{rollout.verdict}" for rollout in rollouts)
    right = [rollout for rollout in rollouts if rollout.correct and rollout.task == "math"]
    restated = [
        restates(answer_text(rollout, think_end), questions.get(rollout.prompt_id, "")) for rollout in right
    ]
    return {
        "verdicts": dict(sorted(counts.items())),
        "restated_share": sum(restated) / len(restated) if restated else None,
    }


def answer_text(rollout: Rollout, think_end: str) -> str:
    """Return the final answer of a completion as it stands in its text; empty where there is none."""
    answer = find_answer(final_text(rollout.response, think_end) or "")
    return answer.text if answer else ""


def restates(answer: str, question: str) -> bool:
    """Say whether an answer contains a formula of the question that is still to be worked out.

    Blanks, \\left, \\right and a sign of equality at the end do not count.
    """
    answer = IGNORED.sub("", answer)
    formulas = (match[match.lastgroup or 0] for match in FORMULAS.finditer(question))
    return any(IGNORED.sub("", formula) in answer for formula in formulas if WORK.search(formula))
