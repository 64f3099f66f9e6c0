"""A few telling families through the real engines: one step of ZeRO-3, samples of vLLM, log-probabilities.

The whole matrix is `make families` (tools/family_table.py).
"""

import subprocess
import sys
from pathlib import Path

import pytest
from matrix import SIDES, verdict

from scalerl.common.files import read_json

pytestmark = pytest.mark.engine

AGREE = ("Llama", "Gemma-2", "Granite-MoE", "Phi")
"""Rotary scaling; soft caps of scores and logits; a scale of the logits, and experts; a bias of the head."""
REFUSED = "LFM2"
"""Convolutions go on across sequences; vLLM's on a CPU are others than those of Transformers."""

STALE = "GPT-OSS"
"""A reload in vLLM leaves its experts as they were."""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    """Return the figures of every family, of the three processes together."""
    folder = tmp_path_factory.mktemp("families")
    program = Path(__file__).with_name("matrix.py")
    names = (*AGREE, REFUSED, STALE)
    for role in SIDES:
        subprocess.run([sys.executable, program, role, folder, *names], check=True, timeout=300)
    files = [read_json(folder / f"{role}.json") for role in SIDES]
    return {name: {key: value for file in files for key, value in file[name].items()} for name in names}


@pytest.mark.parametrize("name", AGREE)
def test_a_family_trains_and_samples_the_same_model(found, name):
    assert verdict(found[name]) == ""
    assert found[name]["layout"] == "rows"
    assert found[name]["step"] > 0.1  # so that the second policy is another one


def test_the_soft_cap_of_scores_is_not_left_to_sdpa(found):
    assert {name: found[name]["attention"] for name in AGREE} == dict.fromkeys(AGREE, "sdpa") | {
        "Gemma-2": "eager"
    }


def test_convolutions_get_a_row_a_sequence_and_the_generators_difference_is_seen(found):
    figures = found[REFUSED]
    assert figures["layout"] == "alone"
    assert max(figures[key] for key in ("trainer_alone", "trainer_packed", "exported")) < 1e-4
    assert verdict(figures).startswith("generator differs by")


def test_experts_that_a_reload_leaves_as_they_were_are_refused(found):
    assert "cannot reload GptOssForCausalLM in flight: its experts stay as they were" in verdict(found[STALE])
