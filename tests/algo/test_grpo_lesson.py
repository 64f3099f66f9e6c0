"""The printed exercise of GRPO, its numbers held against ones worked by hand."""

import importlib.util
import re
from math import log
from pathlib import Path

import pytest
import torch
from factories import make_rollout

from scalerl.paths import RunPaths
from scalerl.spool.shards import Spool

TOOL = Path(__file__).parents[2] / "tools" / "grpo.py"


@pytest.fixture(scope="module")
def grpo():
    spec = importlib.util.spec_from_file_location("grpo", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rollout(completion: int, correct: bool, num_tokens: int = 2, **changes):
    return make_rollout(
        0, completion, num_tokens, correct=correct, logprobs=[log(0.5)] * num_tokens, **changes
    )


def test_every_number_of_a_group_of_four(grpo):
    # one of four is right: mean -.5, std sqrt(.75); A = 1.5 / .866 and -.5 / .866
    group = [rollout(0, True), rollout(1, False, 3, loss_mask=[True, False, True])]
    group += [rollout(2, False), rollout(3, False)]
    # the right one's first token became 1.3 times as likely, the first of the second .7 times; its forced
    # token, whatever it became, counts for nothing
    logprobs = [[log(0.65), log(0.5)], [log(0.35), log(0.001), log(0.5)], [log(0.5)] * 2, [log(0.5)] * 2]
    text = grpo.lesson(group, logprobs, lambda ids: "".join(map(chr, (97 + number for number in ids))), 9)
    assert "mean -0.500 and std 0.866" in text
    lines = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    assert ["0", "+1.00", "+1.732", "equal", "x"] in lines
    assert [line[2] for line in lines if line[0] in ("1", "2", "3") and line[-1] == "x"] == ["-0.577"] * 3
    # 1.3 x 1.732 = 2.252 against 1.2 x 1.732 = 2.078; .7 x -.577 = -.404 against .8 x -.577 = -.462
    cut = "clipped: no gradient"
    assert ["0", "'a'", "-0.693", "-0.431", "1.300", "1.200", "2.252", "2.078", cut] in lines
    assert ["0", "'a'", "-0.693", "-1.050", "0.700", "0.800", "-0.404", "-0.462", cut] in lines
    assert ["1", "'b'", "-0.693", "-0.693", "1.000", "1.000", "1.732", "1.732"] in lines
    assert (
        "Of its 2 tokens" in text and "1 'b'  " not in text.split("completion 1")[1].split("3. The loss")[0]
    )
    # ((2.078 + 1.732) / 2 + (-.462 - .577) / 2 - .577 - .577) / 4 = .0578; DAPO lets 1.26 through
    assert ["grpo", "-0.0577", "2 of 8"] in lines
    assert ["dapo", "-0.0707", "2 of 8"] in lines


class Uniform(torch.nn.Module):
    """Twice as likely to say 3 as any other of 8 tokens, at temperature 1."""

    def forward(self, ids):
        logits = torch.zeros(*ids.shape, 8)
        logits[..., 3] = log(2)
        return type("Output", (), {"logits": logits})()


def test_log_probabilities_are_of_the_tokens_sampled_and_at_the_runs_temperature(grpo):
    sampled = make_rollout(0, 0, 4)  # tokens 0 1 2 3
    assert grpo.policy_logprobs(Uniform(), sampled, 1.0) == pytest.approx([log(1 / 9)] * 3 + [log(2 / 9)])
    # at half the temperature the logit counts twice: 4 of 7 + 4
    assert grpo.policy_logprobs(Uniform(), sampled, 0.5) == pytest.approx([log(1 / 11)] * 3 + [log(4 / 11)])


def test_the_newest_trained_group_with_different_rewards_is_taken(grpo, tmp_path):
    paths = RunPaths(tmp_path)
    spool = Spool(paths.spool)
    for group, correct in ((3, (True, False)), (4, (True, True)), (5, (True, False))):
        spool.publish([make_rollout(group, index, correct=right) for index, right in enumerate(correct)])
    assert grpo.find_group(paths, None, end=5)[0].group == 3, "5 is not trained, 4 teaches nothing"
    assert grpo.find_group(paths, 4, end=5)[0].group == 4
    with pytest.raises(ValueError, match="has no group 9; it keeps groups 3 to 5"):
        grpo.find_group(paths, 9, end=5)
    with pytest.raises(ValueError, match="keeps no trained group whose rewards differ"):
        grpo.find_group(paths, None, end=3)


def test_without_a_run_it_says_how_to_make_one(grpo, tmp_path, capsys):
    assert grpo.main([str(tmp_path / "nothing")]) == 2
    assert "is no run folder; `make demo` makes runs/demo-seed0" in capsys.readouterr().err
