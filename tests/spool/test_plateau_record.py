"""What is concluded of a step's evaluations is concluded once: a replay repeats it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerl.common.files import read_json, write_json
from scalerl.paths import RunPaths
from scalerl.settings import build_config
from scalerl.spool.plateau import decide_plateau, watches_plateaus

CONFIG = build_config(
    {
        "budget.max_steps": 99,
        "evaluation.every_steps": 10,
        "evaluation.samples_per_prompt": 4,
        "optimizer.plateau_window_evaluations": 1,
        "optimizer.plateau_learning_rate_factor": 0.5,
        "optimizer.plateau_min_gain": 0.2,
    }
)


@pytest.fixture
def paths(tmp_path):
    paths = RunPaths(tmp_path)
    paths.create()
    return paths


def evaluate(paths: RunPaths, step: int, num_correct: list[int]) -> None:
    write_json(paths.evaluation(f"{step:08d}"), {"step": step, "num_correct": num_correct})


def test_evaluations_since_the_last_plateau_decide(paths):
    assert not decide_plateau(paths, CONFIG, 10, since=-1)
    evaluate(paths, 0, [1, 2, 3])
    evaluate(paths, 10, [2, 3, 4])
    evaluate(paths, 20, [2, 3, 4])
    assert not decide_plateau(paths, CONFIG, 20, since=-1), "1/4 more than at step 0; step 20 is not over"
    assert decide_plateau(paths, CONFIG, 30, since=-1)
    assert not decide_plateau(paths, CONFIG, 40, since=10), "only step 20 is of the new learning rate"
    decided = read_json(paths.plateaus)
    assert decided["20"] == {"plateau": False, "gain": 0.25, "standard_error": 0.0, "evaluations": [0, 10]}
    assert decided["30"] == {"plateau": True, "gain": 0.0, "standard_error": 0.0, "evaluations": [0, 10, 20]}
    assert decided["40"]["evaluations"] == [20]


def test_a_replay_repeats_what_was_decided_with_fewer_evaluations(paths):
    evaluate(paths, 0, [2, 2])
    assert not decide_plateau(paths, CONFIG, 20, since=-1), "the evaluator is late"
    evaluate(paths, 10, [2, 2])
    assert not decide_plateau(paths, CONFIG, 20, since=-1), "as before the crash"
    assert decide_plateau(paths, CONFIG, 30, since=-1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), crash=st.integers(2, 11), back=st.integers(1, 3))
def test_a_run_that_crashes_finds_the_plateaus_of_one_that_does_not(seed, crash, back, tmp_path_factory):
    """Evaluations come late by chance, and all of them are there when the steps are done again."""
    paths = RunPaths(tmp_path_factory.mktemp("run"))
    paths.create()
    late = random.Random(seed)
    evaluations = {step: [late.randint(1, 3) for _ in range(3)] for step in range(0, 120, 10)}

    def steps(begin: int, end: int, since: int) -> list[tuple[int, int]]:
        found = []
        for step in range(begin, end, 10):
            for done, num_correct in evaluations.items():
                if done < step and (late.random() < 0.5 or paths.evaluation(f"{done:08d}").exists()):
                    evaluate(paths, done, num_correct)
            if decide_plateau(paths, CONFIG, step, since):
                since = step
            found.append((step, since))
        return found

    first = steps(10, 10 * crash, -1)
    checkpoint = max(1, crash - back)
    since = dict([(0, -1), *first])[10 * (checkpoint - 1)]
    again = steps(10 * checkpoint, 120, since)
    assert again[: crash - checkpoint] == first[checkpoint - 1 :]


def test_nothing_is_decided_where_nothing_would_follow():
    assert not watches_plateaus(build_config({"budget.max_steps": 1}))
    assert watches_plateaus(build_config({"budget.max_steps": 1, "batch.max_prompts": 96}))
    factor = {"optimizer.plateau_learning_rate_factor": 0.5}
    assert watches_plateaus(build_config({"budget.max_steps": 1} | factor))
