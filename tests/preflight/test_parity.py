"""Which differences between the exams' paths speak against a run, in fp32 and in bf16."""

import numpy as np
import pytest

from scalerl.paths import RunPaths
from scalerl.preflight.exam import ScoredSequence, write_exam
from scalerl.preflight.parity import compare_paths, noise_limit
from scalerl.settings import build_config

LENGTHS = (40, 700, 1500)
NOISE = 0.03
JUDGED = ("generator", "generator_reloaded", "trainer_alone", "trainer_packed")


class Exams:
    """The files of a run whose paths differ from the truth by rounding alone, each in its own way."""

    def __init__(self, folder, dtype: str) -> None:
        self.paths = RunPaths(folder)
        self.config = build_config({"model.dtype": dtype})
        random = np.random.default_rng(0)
        size = {"float32": 3e-6, "bfloat16": NOISE}[dtype]
        self.truth = [-random.exponential(3.0, size=length - 1) for length in LENGTHS]
        self.said = {
            path: [values + size * random.standard_t(4, size=len(values)) / 2**0.5 for values in self.truth]
            for path in (*JUDGED, "reference")
        }
        self.said["reference_fp32"] = self.truth
        self.said["reference_twin"] = [values + 1e-7 for values in self.said["trainer_alone"]]

    def findings(self) -> list[str]:
        for path, values in self.said.items():
            # A generator scores what it has sampled, the others the prompt as well.
            skipped = 5 if path.startswith("generator") else 0
            rows = [
                ScoredSequence(
                    sequence=f"s{index}",
                    token_ids=range(len(part) + 1),
                    scored_from=1 + skipped,
                    logprobs=part[skipped:].tolist(),
                )
                for index, part in enumerate(values)
            ]
            self.paths.root.mkdir(exist_ok=True)
            write_exam(self.paths, path, rows)
        self.parity = compare_paths(self.config, self.paths)
        assert all(finding.refuses for finding in self.parity.findings)
        return [finding.text for finding in self.parity.findings]


@pytest.fixture(params=["float32", "bfloat16"])
def exams(request, tmp_path):
    return Exams(tmp_path / "run", request.param)


def test_rounding_alone_is_no_finding(exams):
    assert exams.findings() == []


def test_one_token_that_is_off_in_fp32(tmp_path):
    exams = Exams(tmp_path / "run", "float32")
    exams.said["trainer_packed"][1][300] += 2e-4
    (text,) = exams.findings()
    assert text.startswith("the trainer with packed sequences computes other log-probabilities")
    assert "by up to 0.0002 nats, at positions 256 to 1024 (limit in fp32: 0.0001)" in text
    assert exams.parity.max_logprob_difference["trainer_packed - reference"] == pytest.approx(2e-4, rel=0.1)


def test_a_scale_that_is_left_out(exams):
    exams.said["generator_reloaded"] = [1.5 * values for values in exams.said["generator_reloaded"]]
    (text,) = exams.findings()
    assert text.startswith("the generator after an in-flight reload computes other")


def test_an_error_that_grows_with_the_position_shows_in_the_last_bucket(tmp_path):
    exams = Exams(tmp_path / "run", "bfloat16")
    # twice as large as rounding at position 1500, next to nothing in the first bucket
    random = np.random.default_rng(1)
    for values in exams.said["generator"]:
        values += 2 * NOISE * np.arange(len(values)) / 1500 * random.normal(size=len(values))
    (text,) = exams.findings()
    assert "the generator computes other" in text and "at positions 1024 to 1500" in text


def test_a_trainer_that_rounds_otherwise_than_its_twin(tmp_path):
    exams = Exams(tmp_path / "run", "bfloat16")
    random = np.random.default_rng(1)
    for values in exams.said["trainer_alone"]:
        values += 0.4 * NOISE * random.normal(size=len(values))
    assert exams.findings() == []  # below half of what rounding does
    for values in exams.said["trainer_alone"]:
        values += 0.4 * NOISE * random.normal(size=len(values))
    (text,) = exams.findings()
    assert "although its attention is the same" in text


@pytest.mark.parametrize("path", JUDGED)
def test_what_is_not_finite_is_refused_unless_the_token_was_forced(exams, path):
    for values in exams.said[path]:
        values[20:30] = np.nan
    texts = exams.findings()
    if path.startswith("generator"):
        assert texts == []
    else:
        assert texts and all(text.startswith("the trainer") for text in texts)


def test_exams_that_scored_other_sequences(exams):
    exams.findings()
    write_exam(exams.paths, "reference", [])
    with pytest.raises(ValueError, match="generator and reference have no token in common"):
        compare_paths(exams.config, exams.paths)


def test_few_tokens_may_be_further_off():
    assert noise_limit(64) == 1.75
    assert noise_limit(1600) == 1.35
