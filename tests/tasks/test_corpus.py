"""A few hundred answers and references, labelled by hand: what the grader has to take, and what it must not.

The references are those of GSM8K, MATH, AIME, AMC and Minerva (tests/data/problems/SOURCES.md) and some made
up; the answers are other ways to write them, near misses, and attempts to be paid for nothing.
"""

import json
from collections import Counter
from pathlib import Path

from scalerl.verify.pool import VerifierPool

CORPUS = Path(__file__).with_name("corpus.jsonl")
MOST_REFUSED = 0.01
"""Share of the right answers that may be refused."""


def test_no_wrong_answer_is_taken_and_hardly_a_right_one_refused():
    rows = [json.loads(line) for line in CORPUS.read_text().splitlines()]
    assert len(rows) >= 400
    with VerifierPool(num_workers=2, timeout_s=1) as pool:
        futures = [pool.submit(row["completion"], row["reference"]) for row in rows]
        verdicts = [future.result(60) for future in futures]
    pairs = [(row, verdict) for row, verdict in zip(rows, verdicts, strict=True)]
    taken = [show(*pair) for pair in pairs if pair[1].correct and not pair[0]["correct"]]
    refused = [show(*pair) for pair in pairs if pair[0]["correct"] and not pair[1].correct]
    print("refused though right:", *refused, sep="\n")
    assert taken == []
    assert len(refused) <= MOST_REFUSED * sum(row["correct"] for row in rows), refused
    assert Counter(verdict.reason for verdict in verdicts)["crashed"] == 0


def show(row, verdict) -> str:
    return f"{row['category']}: {row['completion']!r} for {row['reference']!r} ({verdict.reason})"
