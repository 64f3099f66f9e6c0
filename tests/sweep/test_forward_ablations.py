"""Forward ablations: the paper's baseline as a base, and one choice of it changed at a time."""

import pytest
from axis_effects import SWEEPS, effects, points

from scalerl.cli import main

AXES = sorted(path.stem for path in SWEEPS.glob("*.toml") if path.stem != "base")
BASELINE = {
    "gradient": [1.23, 0.7, 0.0, 0.0],  # DAPO clips 1.27 and 6
    "weight": 0.25,  # a mean of a completion's tokens, then of completions
    "advantage": 1.0,
    "num_trained": 4,
    "admitted": 9,
    "published": [0, 1, 2],
    "mastered_returns": True,
    "heads": (False, False),
    "reward": 1.0,
    "interrupted": True,
    "prompts": 48,
}
CISPO = [1.23, 0.7, 1.27, 5.0]


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (
            "loss_type",
            {
                "cispo": {"gradient": CISPO},
                "dapo": {},
                "grpo": {"gradient": [0.0, 0.7, 0.0, 0.0]},
                "gspo": {"gradient": [0.0] * 4},
            },
        ),
        ("loss_aggregation", {"prompt": {"weight": 0.125}, "sample": {}, "token": {"weight": 0.1}}),
        ("advantage_norm", {"batch": {"advantage": 0.6325}, "prompt": {}, "none": {"advantage": 0.5}}),
        ("zero_variance", {"drop": {"num_trained": 2}, "keep": {}}),
        ("curriculum", {"no_positive_resampling": {"mastered_returns": False}, "uniform": {}}),
        (
            "lm_head_precision",
            {
                "fp32": {"heads": (True, True)},
                "bf16": {},
                "fp32_generator": {"heads": (True, False)},
                "fp32_trainer": {"heads": (False, True)},
            },
        ),
        (
            "off_policy",
            {
                "ppo_off_policy-1": {"admitted": 1},
                "ppo_off_policy-8": {"admitted": 8, "published": [0, 8, 16]},
                "pipeline_rl-8": {},
            },
        ),
        # the cap is of CISPO, whatever the base: three runs of DAPO would be the same
        (
            "cispo_eps_max",
            {cap: {"gradient": [*CISPO[:3], last]} for cap, last in (("4", 4.0), ("5", 5.0), ("8", 6.0))},
        ),
    ],
)
def test_each_choice_is_changed_alone(axis, expected):
    configs = points(axis, base="baseline")
    assert configs.keys() == expected.keys()
    for name, config in configs.items():
        found, wanted = effects(config), BASELINE | expected[name]
        for effect, value in wanted.items():
            assert found[effect] == pytest.approx(value, rel=1e-3), (name, effect)


@pytest.mark.parametrize("axis", ["loo", "recipe", "study"])
def test_axes_of_whole_recipes_are_the_same_around_every_base(axis):
    assert points(axis) == points(axis, base="baseline")


@pytest.mark.parametrize("base", [[], ["--base", "baseline"]])
@pytest.mark.parametrize("axis", AXES)
def test_a_dry_run_of_every_axis(axis, base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["sweep", str(SWEEPS / f"{axis}.toml"), *base, "--scale", "ablation", "--cluster", "local"]
    assert main([*command, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[2].startswith(f"runs/sweeps/{'baseline-' if base else ''}{axis}/{axis}")
    planned = [line for line in lines if line.split()[1:2] == ["planned"]]
    assert len(planned) == len(points(axis))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_base_names_those_there_are(capsys):
    assert main(["sweep", str(SWEEPS / "loss_type.toml"), "--base", "basline", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "there is no base basline; did you mean baseline? `scalerl sweep" in error
    assert "--base baseline`" in error and "bases/ has baseline" in error
