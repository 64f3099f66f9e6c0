"""Do trainer and generator compute the same model as plain Transformers? Log-probabilities, token by token.

In fp32 a path may differ from the reference by MAX_DIFFERENCE at most. In bf16 rounding alone makes a
difference, of a size that depends on the model; so a path is judged by how far it is from the fp32 reference,
in units of how far plain Transformers in bf16 is: NOISE_RATIO, a ratio of root mean squares by position. And
where the trainer's attention computes as the reference's does, rounding included, next to nothing may be left
between the two: TWIN_RATIO, in the same units. It finds what the first ratio cannot, such as constants that
were rounded to bf16, whose effect may be smaller than that of rounding everything else.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scalerl.config import RunConfig
from scalerl.paths import RunPaths
from scalerl.preflight.exam import GENERATOR_PATHS, ExamPath, ScoredSequence, read_exam
from scalerl.preflight.report import Finding

MAX_DIFFERENCE = 1e-4
"""Greatest difference from the reference in fp32, nats."""
NOISE_RATIO = 1.25
"""How far a bf16 path may be from fp32, as a multiple of plain bf16; other kernels: .9 to 1.1."""
NOISE_RATIO_PER_TOKEN = 4.0
"""What few tokens add to NOISE_RATIO, divided by the root of their number."""
TWIN_RATIO = 0.5
"""How far the trainer may be from plain Transformers with the same attention, in bf16, in the same units."""
POSITIONS = (0, 256, 1024, 4096, 16_384, 1 << 30)
"""Bounds of the buckets of positions."""
LABELS: dict[ExamPath, str] = {
    "generator": "the generator",
    "generator_reloaded": "the generator after an in-flight reload",
    "trainer_alone": "the trainer, one sequence at a time,",
    "trainer_packed": "the trainer with packed sequences",
}
"""The paths that are judged, as a reason names them."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far one path is from another at positions [begin, end)."""

    path: str
    against: str
    begin: int
    end: int
    num_tokens: int
    mean: float
    """Mean |difference|, nats."""
    max: float
    """Greatest |difference|, nats."""
    rms: float
    """Root mean square of the difference, nats."""
    noise_ratio: float
    """rms in units of that between plain Transformers in the run's dtype and in fp32, on the same tokens."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What the comparison of all paths found."""

    differences: list[Difference]
    findings: list[Finding]

    @property
    def max_logprob_difference(self) -> dict[str, float]:
        """Return the greatest |difference| of every pair of paths, nats, by "<path> - <against>"."""
        largest: dict[str, float] = {}
        for row in self.differences:
            pair = f"{row.path} - {row.against}"
            largest[pair] = max(largest.get(pair, 0.0), row.max)
        return largest


def compare_paths(config: RunConfig, paths: RunPaths) -> Parity:
    """Compare what the exams have left in the run folder.

    Raises:
        FileNotFoundError: an exam has not ended.
    """
    scored = {path: read_exam(paths, path) for path in LABELS}
    reference, exact = read_exam(paths, "reference"), read_exam(paths, "reference_fp32")
    differences: list[Difference] = []
    findings: list[Finding] = []
    for path, sequences in scored.items():
        found = _by_position(path, sequences, "reference", reference, reference, exact)
        if config.model.dtype == "float32":
            findings += _judge_fp32(path, found)
        else:
            errors = _by_position(path, sequences, "reference_fp32", exact, reference, exact)
            findings += _judge_noise(path, errors, config.model.dtype)
            found += errors
        differences += found
    if config.model.dtype != "float32":
        alone, twin = scored["trainer_alone"], read_exam(paths, "reference_twin")
        found = _by_position("trainer_alone", alone, "reference_twin", twin, reference, exact)
        findings += _judge_twin(found)
        differences += found
    return Parity(differences=differences, findings=findings)


def _by_position(
    path: str,
    sequences: Mapping[str, ScoredSequence],
    against: str,
    others: Mapping[str, ScoredSequence],
    reference: Mapping[str, ScoredSequence],
    exact: Mapping[str, ScoredSequence],
) -> list[Difference]:
    """Return the differences by bucket of positions.

    Raises:
        ValueError: there is no token that both have scored.
    """
    parts = [
        _aligned(sequences[name], others[name], reference[name], exact[name])
        for name in sequences
        if name in others
    ]
    columns = np.concatenate(parts or [np.empty((5, 0))], axis=1)
    if path in GENERATOR_PATHS:  # which have no log-probability of a token that was forced
        columns = columns[:, ~np.isnan(columns[1])]
    position, value, other, rounded, fp32 = columns
    if not len(position):
        raise ValueError(f"the exams {path} and {against} have no token in common")
    differences = []
    for begin, end in itertools.pairwise(POSITIONS):
        here = (position >= begin) & (position < end)
        if here.any():
            difference, noise = _distance(value[here], other[here]), _distance(rounded[here], fp32[here])
            differences.append(
                Difference(
                    path=path,
                    against=against,
                    begin=begin,
                    end=min(end, int(position.max()) + 1),
                    num_tokens=int(here.sum()),
                    mean=float(difference.mean()),
                    max=float(difference.max()),
                    rms=_rms(difference),
                    noise_ratio=_ratio(_rms(difference), _rms(noise)),
                )
            )
    return differences


def _aligned(*sequences: ScoredSequence) -> np.ndarray:
    """Return [1 + paths, tokens]: position, then what each path says, of the tokens that all have scored."""
    begin = max(sequence.scored_from for sequence in sequences)
    values = np.array(
        [sequence.logprobs[begin - sequence.scored_from :] for sequence in sequences], dtype=np.float64
    )
    position = begin + np.arange(values.shape[1], dtype=np.float64)
    return np.concatenate([position[None], values])


def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return |difference|, infinite where either is not finite."""
    difference = np.abs(first - second)
    return np.where(np.isfinite(difference), difference, np.inf)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _ratio(rms: float, noise: float) -> float:
    """Return rms in units of the noise; infinite where there is none to measure by."""
    return rms / noise if 0 < noise < math.inf else math.inf if rms > 0 else 0.0


def _judge_fp32(path: ExamPath, found: list[Difference]) -> list[Finding]:
    worst = max(found, key=lambda row: row.max)
    if worst.max <= MAX_DIFFERENCE:
        return []
    where = f"at positions {worst.begin} to {worst.end}"
    return [_refusal(path, f"by up to {worst.max:.2g} nats, {where} (limit in fp32: {MAX_DIFFERENCE:g})")]


def _judge_noise(path: ExamPath, errors: list[Difference], dtype: str) -> list[Finding]:
    worst = max(errors, key=lambda row: row.noise_ratio / noise_limit(row.num_tokens))
    if worst.noise_ratio <= noise_limit(worst.num_tokens):
        return []
    return [
        _refusal(
            path,
            f"by more than rounding: at positions {worst.begin} to {worst.end} it is {worst.noise_ratio:.2f} "
            f"times as far from fp32 as plain Transformers in {dtype} (limit for {worst.num_tokens} tokens: "
            f"{noise_limit(worst.num_tokens):.2f})",
        )
    ]


def _judge_twin(found: list[Difference]) -> list[Finding]:
    worst = max(found, key=lambda row: row.noise_ratio)
    if worst.noise_ratio <= TWIN_RATIO:
        return []
    return [
        _refusal(
            "trainer_alone",
            f"although its attention is the same: by {worst.noise_ratio:.2f} times what rounding does, at "
            f"positions {worst.begin} to {worst.end} (limit: {TWIN_RATIO:g})",
        )
    ]


def noise_limit(num_tokens: int) -> float:
    """Return the noise ratio that so many tokens may show."""
    return NOISE_RATIO + NOISE_RATIO_PER_TOKEN / math.sqrt(num_tokens)


def _refusal(path: ExamPath, text: str) -> Finding:
    return Finding(
        refuses=True,
        text=f"{LABELS[path]} computes other log-probabilities than plain Transformers, {text}: trainer and "
        f"generator would be two models. Choose a base of another architecture (those in "
        f"scalerl/trainer/README.md agree), or report this one",
    )
