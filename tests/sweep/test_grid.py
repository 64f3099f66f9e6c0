"""The grid of a sweep: what is in it, and which axis files are refused."""

from pathlib import Path

import pytest

from scalerl.sweep.grid import grid, read_axis

SWEEPS = Path(__file__).parents[2] / "sweeps"


def test_grid_is_axis_times_seeds():
    points = grid(
        [SWEEPS / "base.toml", SWEEPS / "scale" / "demo.toml"],
        SWEEPS / "loss_type.toml",
        2,
        ["batch.prompts=8"],
    )
    losses = [(point.config.algo.loss_type, point.config.seed) for point in points]
    assert losses == [(loss, seed) for loss in ("cispo", "dapo", "grpo", "gspo") for seed in (0, 1)]
    assert len({point.config.signature() for point in points}) == len({point.name for point in points}) == 8
    assert {point.config.batch.prompts for point in points} == {8}
    assert {point.config.model.dtype for point in points} == {"float32"}


def test_an_axis_of_seeds_is_one_recipe():
    points = grid([], SWEEPS / "seed.toml", 1)
    assert [(point.name, point.config.seed) for point in points] == [
        (f"seed-seed{seed}", seed) for seed in range(5)
    ]


@pytest.mark.parametrize(
    ("axis", "num_seeds", "override"),
    [("loss_type", 1, "algo.loss_type=dapo"), ("loss_type", 2, "seed=7"), ("seed", 2, "")],
)
def test_two_runs_that_would_be_the_same_are_refused(axis, num_seeds, override):
    with pytest.raises(
        ValueError, match="would be the same run: an override or --seeds sets what the axis varies"
    ):
        grid([], SWEEPS / f"{axis}.toml", num_seeds, [override] if override else [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('key = "model.path"\nvalues = ["/models/a"]', "without '/'"),
        ('key = "seed"\nvalues = 3', "a `key` and a list of `values`"),
        ("key = 3\nvalues = [3]", "a `key` and a list of `values`"),
        ("points = [1]", "a `key` and a list of `values`"),
        ('key = "algo.los"\nvalues = [1]', "unknown key 'algo.los'"),
        ('key = "seed"', "a `key` and a list of `values`"),
        ('key = "seed"\nvalues = [1, 1]', "a name of its own"),
        ('key = "seed"\nvalues = []', "a name of its own"),
        ("[[points]]\nseed = 1", "a name of its own"),
        ('all_points = 1\nkey = "seed"\nvalues = [1]', "all_points is a table"),
        ('key = "seed"\nvalues = [1]\n[all_points]\nalgo.los = 1', "unknown key 'algo.los'"),
        ("key =", "not valid TOML"),
    ],
)
def test_bad_axis_is_refused(tmp_path, text, message):
    path = tmp_path / "axis.toml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read_axis(path)
    assert message in str(error.value)


def test_bad_value_names_axis_and_point(tmp_path):
    path = tmp_path / "axis.toml"
    path.write_text('key = "algo.loss_type"\nvalues = ["ppo"]')
    with pytest.raises(ValueError, match=r"axis\.toml \(ppo\).*'cispo'"):
        grid([], path, 1)
