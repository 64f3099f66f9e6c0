"""What one path says of the sequences, from one process to another."""

import math

import pytest

from scalerl.preflight.exam import ScoredSequence, read_exam, sequences_to_score, write_exam

LONG = ScoredSequence(sequence="text", token_ids=[5, 6, 7, 8], scored_from=2, logprobs=[-0.5, float("nan")])
SHORT = ScoredSequence(sequence="p0-0", token_ids=[1, 2], scored_from=1, logprobs=[-0.25])


def test_an_exam_is_read_as_it_was_written(paths, run_folder):
    write_exam(paths, "generator", [LONG])
    write_exam(paths, "generator_reloaded", [LONG, SHORT])
    with pytest.raises(FileNotFoundError):
        read_exam(paths, "trainer_packed")
    read = read_exam(paths, "generator")["text"]
    assert (read.token_ids, read.scored_from, read.logprobs[0]) == ([5, 6, 7, 8], 2, -0.5)
    assert math.isnan(read.logprobs[1])
    assert [row.sequence for row in sequences_to_score(paths)] == ["p0-0", "text"]


@pytest.mark.parametrize(("scored_from", "num_logprobs"), [(0, 4), (2, 3), (1, 2)])
def test_a_sequence_has_one_logprob_a_scored_token(paths, run_folder, scored_from, num_logprobs):
    row = ScoredSequence(
        sequence="p", token_ids=[5, 6, 7, 8], scored_from=scored_from, logprobs=[-1.0] * num_logprobs
    )
    with pytest.raises(ValueError, match=f"scored from {scored_from}, have {num_logprobs} log-prob"):
        write_exam(paths, "reference", [row])
