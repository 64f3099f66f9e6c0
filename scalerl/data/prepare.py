"""`scalerl prepare`: splits problem files into train, held-out and test, and reports what it dropped."""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Literal

from scalerl.common.files import write_json
from scalerl.common.table import format_table
from scalerl.data.bad_row import BadRow, short
from scalerl.data.generators import generate
from scalerl.data.problem import Problem, is_prepared, load_problems, write_problems
from scalerl.data.readers import read_problem_file

MAX_EXAMPLES = 5
LAYOUT = re.compile(r"[\s$\\{}_.,;:'\"`]+")
"""What only sets a question: blanks, punctuation, and the signs of LaTeX around its words and numbers."""

SplitName = Literal["train", "heldout", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "heldout", "test")


def question_key(prompt: str) -> str:
    """Return 16 hexadecimal digits that are equal for one question typed in two ways.

    Letter case, blanks, punctuation and LaTeX's dollars, backslashes and braces do not count. Two different
    questions may share a key ("1.5" and "15"): they then merely land in one split.
    """
    text = LAYOUT.sub("", unicodedata.normalize("NFKC", prompt).casefold())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Split:
    """The shares of questions that are kept from training."""

    heldout_fraction: float
    """Share that evaluations during the run are on."""
    test_fraction: float = 0.0
    """Share that only the best policy is tested on, once the run has ended."""

    def __post_init__(self) -> None:
        """Refuse fractions that are none.

        Raises:
            ValueError: one is outside 0..1, or their sum is above 1.
        """
        for name, fraction in (("held-out", self.heldout_fraction), ("test", self.test_fraction)):
            if not 0 <= fraction <= 1:
                raise ValueError(f"{name} fraction {fraction}: give a number from 0 (none) to 1 (all)")
        if self.heldout_fraction + self.test_fraction > 1:
            raise ValueError(
                f"held-out fraction {self.heldout_fraction} and test fraction {self.test_fraction} are more "
                f"than 1 together: lower one of them"
            )

    def of(self, prompt: str) -> SplitName:
        """Return the split of a prompt: by its question alone, so alike whatever other rows there are.

        A larger fraction takes the same questions and more, as long as both leave some to train on.
        """
        # 64 bits of a hash, so uniform in 0..1; held-out grows from one end and test from the other.
        position = int(question_key(prompt), 16) / 2**64
        if position < self.heldout_fraction:
            return "heldout"
        return "test" if position >= 1 - self.test_fraction else "train"


@dataclass(kw_only=True)
class Dropped:
    """The rows of one input that were dropped for one reason."""

    count: int = 0
    examples: list[str] = field(default_factory=list)
    """The first five of them, "FILE:LINE: what is wrong"."""


@dataclass(kw_only=True)
class InputReport:
    """What became of one input; rows = kept + dropped, kept = train + heldout + test."""

    input: str
    rows: int = 0
    kept: int = 0
    train: int = 0
    heldout: int = 0
    test: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)
    """The dropped rows by reason; README.md lists the reasons."""

    @property
    def dropped_by_reason(self) -> str:
        """Return the dropped rows in words, such as "duplicate 270, no_answer 4"."""
        return ", ".join(f"{reason} {found.count}" for reason, found in sorted(self.dropped.items()))

    def keep(self, split: SplitName) -> None:
        """Count a row that is kept in `split`."""
        self.kept += 1
        setattr(self, split, getattr(self, split) + 1)

    def drop(self, reason: str, example: str) -> None:
        """Count a row under `reason`."""
        dropped = self.dropped.setdefault(reason, Dropped())
        dropped.count += 1
        if len(dropped.examples) < MAX_EXAMPLES:
            dropped.examples.append(example)


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """The content of report.json."""

    heldout_fraction: float
    test_fraction: float
    max_prompt_tokens: int | None
    """The limit on prompts; None: their tokens were not counted."""
    train: int
    heldout: int
    test: int
    inputs: list[InputReport]

    def table(self) -> str:
        """Return one line per input, aligned, for the terminal."""
        header = ("input", "rows", "kept", "train", "held-out", "test", "dropped")
        rows = []
        for entry in self.inputs:
            counts = (entry.rows, entry.kept, entry.train, entry.heldout, entry.test)
            rows.append((Path(entry.input).name, *counts, entry.dropped_by_reason or None))
        return format_table(rows, header, align="<>>>>>")


def prepare(
    inputs: Sequence[Path],
    output: Path,
    *,
    heldout_fraction: float,
    test_fraction: float = 0.0,
    strict: bool = False,
    count_tokens: Callable[[str, str], int] | None = None,
    max_prompt_tokens: int | None = None,
) -> PrepareReport:
    """Write train.parquet, heldout.parquet, test.parquet and report.json to `output`, from problem files.

    Of several rows with one prompt the first is kept. Prompts of more than `max_prompt_tokens` by
    `count_tokens(prompt, task)` are dropped. `strict` refuses the first row that is not a problem (duplicates
    and long prompts are problems). The result depends on the rows alone: each file is sorted by prompt_id.

    Raises:
        ValueError: an unreadable input, an input that yields no problem, a bad row with `strict`,
            impossible fractions; nothing has been written.
    """
    assert (count_tokens is None) == (max_prompt_tokens is None), (
        "a token limit needs a tokenizer, and the reverse"
    )
    split = Split(heldout_fraction=heldout_fraction, test_fraction=test_fraction)
    kept: dict[str, Problem] = {}
    why_dropped = partial(_why_dropped, count_tokens=count_tokens, max_prompt_tokens=max_prompt_tokens)
    reports = [_read_input(path, kept, split, why_dropped, strict=strict) for path in inputs]
    return _write(output, list(kept.values()), reports, split, max_prompt_tokens)


def prepare_generated(
    output: Path,
    order: str,
    *,
    count: int,
    seed: int = 0,
    heldout_fraction: float,
    test_fraction: float = 0.0,
) -> PrepareReport:
    """Write the same files from `count` problems that a generator makes (see generators.py).

    Raises:
        ValueError: the generator refuses its order, or impossible fractions; nothing has been written.
    """
    split = Split(heldout_fraction=heldout_fraction, test_fraction=test_fraction)
    name, (problems, dropped) = generate(order, count=count, seed=seed)
    report = InputReport(input=name, rows=count + sum(dropped.values()))
    report.dropped = {reason: Dropped(count=number) for reason, number in dropped.items() if number}
    for problem in problems:
        report.keep(split.of(problem.prompt))
    return _write(output, problems, [report], split, None)


def read_problems(path: Path) -> tuple[list[Problem], InputReport | None]:
    """Return the problems of a prepared set, or of a problem file as `prepare` reads it, in their order.

    Returns:
        (problems; what became of the rows, None for a prepared set).

    Raises:
        ValueError: the file is missing or unreadable, or yields no problem.
    """
    if path.suffix == ".parquet" and is_prepared(path):
        return load_problems(path), None
    kept: dict[str, Problem] = {}
    report = _read_input(path, kept, Split(heldout_fraction=0.0), _why_dropped, strict=False)
    return list(kept.values()), report


def _read_input(
    path: Path,
    kept: dict[str, Problem],
    split: Split,
    why_dropped: Callable[[Problem | BadRow, dict[str, Problem]], tuple[str, str]],
    *,
    strict: bool,
) -> InputReport:
    """Add the problems of one file to those that are kept, by their ids, and report on its rows."""
    report = InputReport(input=str(path))
    for row in read_problem_file(path):
        report.rows += 1
        reason, message = why_dropped(row.problem, kept)
        # A duplicate or a long prompt is a valid row: --strict is about rows that nobody could read.
        if isinstance(row.problem, BadRow) and strict:
            raise ValueError(f"{row.location}: {message}; correct the row, or leave out --strict to drop it")
        if reason:
            report.drop(reason, f"{row.location}: {message}")
        elif isinstance(row.problem, Problem):
            kept[row.problem.prompt_id] = row.problem
            report.keep(split.of(row.problem.prompt))
    if not report.kept:
        raise ValueError(f"{path} yields no problem: {_summary(report)}")
    return report


def _why_dropped(
    problem: Problem | BadRow,
    kept: dict[str, Problem],
    count_tokens: Callable[[str, str], int] | None = None,
    max_prompt_tokens: int | None = None,
) -> tuple[str, str]:
    """Return the reason to drop a row, and a message; both are empty for a problem to keep."""
    if isinstance(problem, BadRow):
        return problem.reason, str(problem)
    # Also across inputs: one file's training prompt must not be another's under a second answer.
    if (earlier := kept.get(problem.prompt_id)) is not None:
        if earlier.answer == problem.answer:
            return "duplicate", f"the prompt of an earlier row of {earlier.source}"
        return "conflicting_answer", (
            f"answer {short(problem.answer)} to the prompt of an earlier row of {earlier.source}, where it "
            f"is {short(earlier.answer)}"
        )
    if count_tokens is not None and max_prompt_tokens is not None:
        num_tokens = count_tokens(problem.prompt, problem.task)
        if num_tokens > max_prompt_tokens:
            return "too_long", f"a prompt of {num_tokens} tokens, over the limit of {max_prompt_tokens}"
    return "", ""


def _summary(report: InputReport) -> str:
    examples = [dropped.examples[0] for dropped in report.dropped.values()]
    return f"{report.rows} rows read, all dropped, such as {examples}" if examples else "it has no rows"


def _write(
    output: Path,
    problems: list[Problem],
    reports: list[InputReport],
    split: Split,
    max_prompt_tokens: int | None,
) -> PrepareReport:
    # By id: in which order rows were read does not decide in which order a run visits them.
    problems = sorted(problems, key=lambda problem: problem.prompt_id)
    output.mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        part = [problem for problem in problems if split.of(problem.prompt) == name]
        write_problems(output / f"{name}.parquet", part)
    report = PrepareReport(
        **asdict(split),
        max_prompt_tokens=max_prompt_tokens,
        **{name: sum(getattr(entry, name) for entry in reports) for name in SPLITS},
        inputs=reports,
    )
    write_json(output / "report.json", asdict(report))
    return report


def check_no_leak(pools: Mapping[str, Sequence[Problem]]) -> None:
    """Refuse a question that stands in two pools, such as one to train on and one to be tested on.

    pools: problems by what their pool is called, for the message.

    Raises:
        ValueError: names two such pools, how many questions they share, and one of these.
    """
    keys = {name: {question_key(problem.prompt) for problem in pool} for name, pool in pools.items()}
    for (first, first_keys), (second, second_keys) in combinations(keys.items(), 2):
        if shared := first_keys & second_keys:
            example = next(
                problem.prompt for problem in pools[second] if question_key(problem.prompt) in shared
            )
            raise ValueError(
                f"{first} and {second} share {len(shared)} questions, such as {short(example)}: a pass rate "
                f"on what was trained on, or chosen by, says nothing; make all sets in one call of "
                f"`scalerl prepare`"
            )
