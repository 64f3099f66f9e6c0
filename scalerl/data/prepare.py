"""`scalerl prepare`: makes a training and a held-out set of problem files, and reports what it dropped."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scalerl.common.files import write_json
from scalerl.common.table import format_table
from scalerl.data.bad_row import BadRow, short
from scalerl.data.generators import generate
from scalerl.data.problem import Problem, write_problems
from scalerl.data.readers import read_problem_file

MAX_EXAMPLES = 5


@dataclass(kw_only=True)
class Dropped:
    """The rows of one input that were dropped for one reason."""

    count: int = 0
    examples: list[str] = field(default_factory=list)
    """The first five of them, "FILE:LINE: what is wrong"."""


@dataclass(kw_only=True)
class InputReport:
    """What became of one input; rows = kept + dropped, kept = train + heldout."""

    input: str
    rows: int = 0
    kept: int = 0
    train: int = 0
    heldout: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)
    """The dropped rows by reason; README.md lists the reasons."""

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
    max_prompt_tokens: int | None
    """The limit on prompts; None: their tokens were not counted."""
    train: int
    heldout: int
    inputs: list[InputReport]

    def table(self) -> str:
        """Return one line per input, aligned, for the terminal."""
        header = ("input", "rows", "kept", "train", "held-out", "dropped")
        rows = []
        for entry in self.inputs:
            dropped = ", ".join(f"{reason} {found.count}" for reason, found in sorted(entry.dropped.items()))
            counts = (entry.rows, entry.kept, entry.train, entry.heldout)
            rows.append((Path(entry.input).name, *counts, dropped or None))
        return format_table(rows, header, align="<>>>>")


def prepare(
    inputs: Sequence[Path],
    output: Path,
    *,
    heldout_fraction: float,
    strict: bool = False,
    count_tokens: Callable[[str, str], int] | None = None,
    max_prompt_tokens: int | None = None,
) -> PrepareReport:
    """Write output/train.parquet, output/heldout.parquet and output/report.json from problem files.

    Of several rows with one prompt the first is kept. Prompts of more than `max_prompt_tokens` by
    `count_tokens(prompt, task)` are dropped. `strict` refuses the first row that is not a problem (duplicates
    and long prompts are problems). The result depends on the rows alone: each file is sorted by prompt_id.

    Raises:
        ValueError: an unreadable input, an input that yields no problem, a bad row with `strict`, an
            impossible fraction; nothing has been written.
    """
    assert (count_tokens is None) == (max_prompt_tokens is None), (
        "a token limit needs a tokenizer, and the reverse"
    )
    check_fraction(heldout_fraction)
    kept: dict[str, Problem] = {}
    reports = []
    for path in inputs:
        report = InputReport(input=str(path))
        reports.append(report)
        for row in read_problem_file(path):
            report.rows += 1
            reason, message = _why_dropped(row.problem, kept, count_tokens, max_prompt_tokens)
            # A duplicate or a long prompt is a valid row: --strict is about rows that nobody could read.
            if isinstance(row.problem, BadRow) and strict:
                raise ValueError(
                    f"{row.location}: {message}; correct the row, or leave out --strict to drop it"
                )
            if reason:
                report.drop(reason, f"{row.location}: {message}")
            elif isinstance(row.problem, Problem):
                kept[row.problem.prompt_id] = row.problem
                _count_kept(report, row.problem, heldout_fraction)
        if not report.kept:
            raise ValueError(f"{path} yields no problem: {_summary(report)}")
    return _write(output, list(kept.values()), reports, heldout_fraction, max_prompt_tokens)


def prepare_generated(
    output: Path, order: str, *, count: int, seed: int = 0, heldout_fraction: float
) -> PrepareReport:
    """Write the same files from `count` problems that a generator makes (see generators.py).

    Raises:
        ValueError: the generator refuses its order, or an impossible fraction; nothing has been written.
    """
    check_fraction(heldout_fraction)
    name, (problems, dropped) = generate(order, count=count, seed=seed)
    report = InputReport(input=name, rows=count + sum(dropped.values()))
    report.dropped = {reason: Dropped(count=number) for reason, number in dropped.items() if number}
    for problem in problems:
        _count_kept(report, problem, heldout_fraction)
    return _write(output, problems, [report], heldout_fraction, None)


def is_heldout(prompt_id: str, heldout_fraction: float) -> bool:
    """Say whether a prompt is held out: by its id alone, so in every run alike, whatever rows come or go.

    A larger fraction holds out the same prompts and more.
    """
    # The id is 64 bits of a hash, so uniform in 0..2^64: below the threshold with the wanted probability.
    return int(prompt_id, 16) < heldout_fraction * 2**64


def check_fraction(heldout_fraction: float) -> None:
    """Refuse a held-out fraction outside 0..1.

    Raises:
        ValueError: it is outside.
    """
    if not 0 <= heldout_fraction <= 1:
        raise ValueError(
            f"held-out fraction {heldout_fraction}: give a number from 0 (all train) to 1 (all held out)"
        )


def _why_dropped(
    problem: Problem | BadRow,
    kept: dict[str, Problem],
    count_tokens: Callable[[str, str], int] | None,
    max_prompt_tokens: int | None,
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


def _count_kept(report: InputReport, problem: Problem, heldout_fraction: float) -> None:
    report.kept += 1
    if is_heldout(problem.prompt_id, heldout_fraction):
        report.heldout += 1
    else:
        report.train += 1


def _summary(report: InputReport) -> str:
    examples = [dropped.examples[0] for dropped in report.dropped.values()]
    return f"{report.rows} rows read, all dropped, such as {examples}" if examples else "it has no rows"


def _write(
    output: Path,
    problems: list[Problem],
    reports: list[InputReport],
    heldout_fraction: float,
    max_prompt_tokens: int | None,
) -> PrepareReport:
    # By id: in which order rows were read does not decide in which order a run visits them.
    problems = sorted(problems, key=lambda problem: problem.prompt_id)
    heldout = [problem for problem in problems if is_heldout(problem.prompt_id, heldout_fraction)]
    train = [problem for problem in problems if not is_heldout(problem.prompt_id, heldout_fraction)]
    output.mkdir(parents=True, exist_ok=True)
    write_problems(output / "train.parquet", train)
    write_problems(output / "heldout.parquet", heldout)
    report = PrepareReport(
        heldout_fraction=heldout_fraction,
        max_prompt_tokens=max_prompt_tokens,
        train=len(train),
        heldout=len(heldout),
        inputs=reports,
    )
    write_json(output / "report.json", asdict(report))
    return report
