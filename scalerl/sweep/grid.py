"""A sweep as data: base config + axis -> one RunConfig per grid point and seed. Pure: it starts nothing.

An axis file in sweeps/ names what varies, either one key and its values

    key = "algo.loss_type"
    values = ["cispo", "dapo"]

or whole points, when several keys move together

    [[points]]
    name = "ppo_off_policy-8"
    "off_policy.mode" = "ppo_off_policy"
    "off_policy.k" = 8

What all its points have in common, whatever the base, may stand once:

    [all_points]
    "algo.loss_type" = "cispo"
"""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalerl.common.names import nearest
from scalerl.config import RunConfig
from scalerl.settings import build_config, check_key, flatten, parse_override, read_toml


@dataclass(frozen=True, kw_only=True)
class GridPoint:
    """One run of a sweep: the name of its folder and its config."""

    name: str
    config: RunConfig


def read_axis(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read the points of an axis file: (name, overrides), those of all points included.

    Raises:
        ValueError: no point, two of one name, or a key RunConfig does not know.
    """
    try:
        content = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    shared = content.pop("all_points", {})
    if not isinstance(shared, dict):
        raise ValueError(f"{path}: all_points is a table, [all_points], not {shared!r}")
    match content:
        case {"points": [*tables]} if all(isinstance(table, dict) for table in tables):
            points = [(str(table.pop("name", "")), flatten(table)) for table in tables]
        case {"key": str(key), "values": [*values]}:
            points = [(str(value), {key: value}) for value in values]
        case _:
            found = ", ".join(content) or "nothing"
            raise ValueError(
                f"{path}: an axis has a `key` and a list of `values`, or a list of [[points]]; found {found}"
            )
    names = [name for name, _ in points]
    if not points or "" in names or len(set(names)) < len(names) or any("/" in name for name in names):
        raise ValueError(
            f"{path}: every point needs a name of its own without '/', since it names a folder; found {names}"
        )
    points = [(name, flatten(shared) | overrides) for name, overrides in points]
    for _, overrides in points:
        for key in overrides:
            check_key(key, str(path))
    return points


def grid(base: Sequence[Path], axis: Path, num_seeds: int, overrides: Iterable[str] = ()) -> list[GridPoint]:
    """Return every point of the axis with every seed: base files < axis point < overrides.

    A point that sets the seed brings its own.

    Raises:
        ValueError: an unknown key, an invalid value, a number of seeds below 1, or two points that are the
            same run.
    """
    if num_seeds < 1:
        raise ValueError(f"--seeds {num_seeds}: at least 1 is needed")
    flat: dict[str, Any] = {}
    for path in base:
        flat |= read_toml(path)
    texts = {parse_override(text)[0]: text for text in overrides}
    fixed = dict(parse_override(text) for text in texts.values())
    runs = []
    for name, point in read_axis(axis):
        recipe = axis.stem if "seed" in point else f"{axis.stem}-{name}"
        for seed in range(num_seeds):
            config = build_config(flat | {"seed": seed} | point | fixed, f"{axis} ({name})", texts)
            runs.append(GridPoint(name=f"{recipe}-seed{point.get('seed', seed)}", config=config))
    _check_distinct(runs)
    return runs


def _check_distinct(runs: Sequence[GridPoint]) -> None:
    """Refuse two points with one signature: they would be trained twice, and compared with themselves."""
    first: dict[str, GridPoint] = {}
    for run in runs:
        twin = first.setdefault(run.config.signature(), run)
        if twin is not run:
            why = "an override or --seeds sets what the axis varies"
            raise ValueError(f"{run.name} and {twin.name} would be the same run: {why}")


def axis_file(path: Path, command: str) -> Path:
    """Return the file of an axis, such as sweeps/loss_type.toml.

    command: what the user types for an axis, with {} for its name, such as "make sweep AXIS={}".

    Raises:
        ValueError: there is none of this name; says the nearest, the command with it, and which there are.
    """
    return _require(path, "axis", command)


def scale_file(sweeps: Path, scale: str, command: str) -> Path:
    """Return the overlay of a scale, such as sweeps/scale/demo.toml; `command` as in axis_file.

    Raises:
        ValueError: there is none of this name; says the nearest, the command with it, and which there are.
    """
    return _require(sweeps / "scale" / f"{scale}.toml", "scale", command)


def base_file(sweeps: Path, base: str, command: str) -> Path:
    """Return the overlay of a base other than ScaleRL, such as sweeps/bases/baseline.toml; `command` as in
    axis_file.

    Raises:
        ValueError: there is none of this name; says the nearest, the command with it, and which there are.
    """
    return _require(sweeps / "bases" / f"{base}.toml", "base", command)


def _require(path: Path, kind: str, command: str) -> Path:
    if path.is_file() and path.stem != "base":  # the config that every axis varies
        return path
    folder = path.parent if any(path.parent.glob("[!.]*.toml")) else Path("sweeps")
    names = sorted(file.stem for file in folder.glob("[!.]*.toml") if file.stem != "base")
    near = nearest(path.stem, names)
    hint = f"did you mean {near[0]}? `{command.format(near[0])}`; " if near else ""
    raise ValueError(f"there is no {kind} {path.stem}; {hint}{folder}/ has {', '.join(names) or 'none'}")
