"""Every value of every axis changes what it names: a gradient, a weight, a filter, an admission window; not
only the config.

The effects of a config are held against numbers worked by hand.
"""

import pytest
from axis_effects import (
    PROMPT_IDS,
    SWEEPS,
    admitted_batches,
    effects,
    gradient,
    points,
    reward_of,
    thinking_budgets,
)
from factories import make_group

from scalerl.config import RunConfig
from scalerl.inference.engine import EngineOptions
from scalerl.preflight.inputs import check_inputs
from scalerl.spool.schema import ShardError
from scalerl.sweep.grid import grid
from scalerl.trainer.batch import check_trainable
from scalerl.trainer.state import TrainingState

AXES = sorted(path.stem for path in SWEEPS.glob("*.toml") if path.stem != "base")
NAMES = """advantage_norm batch_size cispo_eps_max context_length curriculum dapo_eps generations_per_prompt
gspo_scale length_control lm_head_precision loo loss_aggregation loss_type max_off_policy model off_policy
recipe seed study tasks zero_variance"""
SCALES = sorted(path.stem for path in (SWEEPS / "scale").glob("*.toml"))


def test_all_axes_are_there():
    assert NAMES.split() == AXES


@pytest.mark.parametrize("base", [None, "baseline"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("axis", AXES)
def test_every_axis_has_a_grid_of_different_runs_at_every_scale_and_around_every_base(axis, scale, base):
    configs = points(axis, scale, base)
    assert len({config.signature() for config in configs.values()}) == len(configs) > 1


SCALERL = {
    "gradient": [1.23, 0.7, 1.27, 5.0],
    "weight": 0.125,
    "advantage": 0.6325,  # .5 / sqrt(5/8)
    "num_trained": 2,
    "admitted": 9,
    "published": [0, 1, 2],
    "mastered_returns": False,
    "heads": (True, True),
    "reward": 1.0,
    "interrupted": True,
    "prompts": 48,
}
DAPO, GRPO, NOTHING = [1.23, 0.7, 0.0, 0.0], [0.0, 0.7, 0.0, 0.0], [0.0] * 4
PPO_8 = {"admitted": 8, "published": [0, 8, 16]}


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        # a ratio of 1.23 is within DAPO's range and outside GRPO's; the four make a sequence ratio of 1.6,
        # which GSPO clips
        (
            "loss_type",
            {
                "cispo": {},
                "dapo": {"gradient": DAPO},
                "grpo": {"gradient": GRPO},
                "gspo": {"gradient": NOTHING},
            },
        ),
        ("loss_aggregation", {"prompt": {}, "sample": {"weight": 0.25}, "token": {"weight": 0.1}}),
        ("advantage_norm", {"batch": {}, "prompt": {"advantage": 1.0}, "none": {"advantage": 0.5}}),
        ("zero_variance", {"drop": {}, "keep": {"num_trained": 4}}),
        ("curriculum", {"no_positive_resampling": {}, "uniform": {"mastered_returns": True}}),
        ("off_policy", {"ppo_off_policy-1": {"admitted": 1}, "ppo_off_policy-8": PPO_8, "pipeline_rl-8": {}}),
        ("max_off_policy", {str(k): {"admitted": k + 1} for k in (1, 2, 4, 8, 12)}),
        # the ratio of 6 weighs as much as its cap, or as itself
        (
            "cispo_eps_max",
            {
                cap: {"gradient": [1.23, 0.7, 1.27, last]}
                for cap, last in (("4", 4.0), ("5", 5.0), ("8", 6.0))
            },
        ),
        (
            "dapo_eps",
            {
                "0.20": {"gradient": GRPO},
                "0.26": {"gradient": DAPO},
                "0.28": {"gradient": [1.23, 0.7, 1.27, 0.0]},
            },
        ),
        (
            "lm_head_precision",
            {
                "fp32": {},
                "bf16": {"heads": (False, False)},
                "fp32_generator": {"heads": (True, False)},
                "fp32_trainer": {"heads": (False, True)},
            },
        ),
        (
            "length_control",
            {
                "interruption": {},
                "length_penalty": {"reward": 0.5, "interrupted": False},
                "none": {"interrupted": False},
            },
        ),
        ("batch_size", {"512": {"prompts": 32}, "768": {}, "2048": {"prompts": 128}}),
        (
            "generations_per_prompt",
            {"8": {"prompts": 96}, "16": {}, "24": {"prompts": 32}, "32": {"prompts": 24}},
        ),
        (
            "loo",
            {
                "ScaleRL": {},
                "prompt_norm": {"advantage": 1.0},
                "length_penalty": {"reward": 0.5, "interrupted": False},
                "keep_zero_variance": {"num_trained": 4},
                "ppo_off_policy-8": PPO_8,
                "no_fp32": {"heads": (False, False)},
                "sample_average": {"weight": 0.25},
                "uniform_sampling": {"mastered_returns": True},
                "DAPO": {"gradient": DAPO},
            },
        ),
    ],
)
def test_values_change_what_they_name_and_nothing_else(axis, expected):
    configs = points(axis)
    assert configs.keys() == expected.keys()
    for name, changes in expected.items():
        assert effects(configs[name]) == SCALERL | changes, name


def test_recipes():
    bf16, prompt_norm, uniform = {"heads": (False, False)}, {"advantage": 1.0}, {"mastered_returns": True}
    minimax = prompt_norm | uniform | PPO_8 | {"prompts": 80}
    expected = {
        "ScaleRL": {},
        "MiniMax": minimax,
        "Magistral": bf16 | prompt_norm | uniform | {"gradient": DAPO, "prompts": 80},
        "DAPO": minimax | bf16 | {"gradient": DAPO},
        "GRPO": bf16 | prompt_norm | uniform | PPO_8 | {"gradient": GRPO, "weight": 0.25, "num_trained": 4},
    }
    configs = points("recipe")
    assert configs.keys() == expected.keys()
    for name, changes in expected.items():
        assert effects(configs[name]) == SCALERL | changes, name


def test_a_phase_of_ppo_off_policy_is_generated_from_its_first_policy():
    configs = points("off_policy")
    left = {
        name: [admitted_batches(config, step) for step in (0, 1, 7, 8)] for name, config in configs.items()
    }
    assert left == {
        "ppo_off_policy-1": [1, 1, 1, 1],
        "ppo_off_policy-8": [8, 7, 1, 8],
        "pipeline_rl-8": [9, 9, 9, 9],
    }


@pytest.mark.parametrize("name", ["4e-4", "4e-3", "5e-3", "4e-2"])
def test_gspo_scale(name):
    algo = points("gspo_scale")[name]
    kept = [gradient(algo, [ratio]) != [0.0] for ratio in (1.0003, 1.0035, 1.0045, 1.03, 1.05)]
    num_kept = {"4e-4": 1, "4e-3": 2, "5e-3": 3, "4e-2": 4}[name]
    assert kept == [True] * num_kept + [False] * (5 - num_kept)
    low = algo.algo.gspo_eps_low
    assert low / algo.algo.gspo_eps_high == pytest.approx(0.6 if name == "5e-3" else 0.75)


@pytest.mark.parametrize(
    ("axis", "completions"),
    [
        ("batch_size", {"512": 512, "768": 768, "2048": 2048}),
        ("generations_per_prompt", {"8": 768, "16": 768, "24": 768, "32": 768}),
    ],
)
def test_completions_of_a_step(axis, completions):
    for name, config in points(axis).items():
        prompts = len(TrainingState.begin(config, PROMPT_IDS).batch_groups)
        generations = completions[name] // prompts
        assert generations * prompts == completions[name]
        whole = make_group(0, generations)
        check_trainable(whole, "prompt-0", 0, 10, config)
        with pytest.raises(ShardError, match=f"generations_per_prompt is {generations}"):
            check_trainable(whole[1:], "prompt-0", 0, 10, config)


def test_staler_tokens_than_k_are_refused():
    for name, config in points("max_off_policy").items():
        group = make_group(0, 16)
        check_trainable(group, "prompt-0", int(name), 10, config)
        with pytest.raises(ShardError, match=f"allowed 0 to {name}"):
            check_trainable(group, "prompt-0", int(name) + 1, 10, config)


def test_context_length():
    configs = points("context_length")
    assert {name: EngineOptions.of(config, seed=0).max_tokens for name, config in configs.items()} == {
        "16k": 16_384,
        "32k": 36_864,
    }
    shortest, longest = thinking_budgets(configs["32k"])
    assert 26_000 <= shortest < 26_200 and 29_800 < longest <= 30_000
    assert thinking_budgets(configs["16k"])[1] <= 12_000
    # the penalty, should it be chosen, begins 2,000 tokens before the same share of the room
    penalised = {
        name: config.model_copy(update={"length": _penalised(config)}) for name, config in configs.items()
    }
    assert [reward_of(penalised["16k"], tokens) for tokens in (12_000, 13_000)] == [1.0, 0.5]
    assert [reward_of(penalised["32k"], tokens) for tokens in (32_000, 33_000)] == [1.0, 0.5]


def _penalised(config: RunConfig):
    return config.length.model_copy(update={"length_control": "length_penalty"})


def test_the_mix_of_tasks():
    ids = [f"m{number}" for number in range(700)] + [f"c{number}" for number in range(300)]
    for name, share in (("math", 0.0), ("math_code", 0.3)):
        code = [prompt_id for prompt_id in ids if prompt_id.startswith("c") and share > 0]
        math_only = [prompt_id for prompt_id in ids if prompt_id.startswith("m")]
        state = TrainingState.begin(points("tasks")[name], math_only + code, code)
        drawn = list(state.admitted.values())
        assert sum(prompt_id.startswith("c") for prompt_id in drawn) == pytest.approx(
            share * len(drawn), abs=1
        )


@pytest.mark.parametrize(
    ("axis", "name", "message"),
    [("model", "moe", "models/moe"), ("tasks", "math", "data/math/train.parquet")],
)
def test_a_placeholder_is_refused_before_launch(axis, name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = points(axis)[name]
    if axis == "tasks":
        (tmp_path / "config.json").write_text("{}")
        config = config.model_copy(update={"model": config.model.model_copy(update={"path": str(tmp_path)})})
    with pytest.raises((ValueError, OSError), match=message):
        check_inputs(config)


def test_seeds_draw_prompts_in_orders_of_their_own():
    runs = grid([SWEEPS / "base.toml"], SWEEPS / "seed.toml", 1)
    assert [run.name for run in runs] == [f"seed-seed{seed}" for seed in range(5)]
    orders = {tuple(TrainingState.begin(run.config, PROMPT_IDS).admitted.values())[:10] for run in runs}
    assert len(orders) == 5
