"""From files to a RunConfig: TOML < `key=value`, keys as dotted names; an unknown one is refused with the
nearest that there is."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scalerl.common.files import read_json
from scalerl.common.names import hint, nearest
from scalerl.config import RunConfig

OPEN_TABLES = ("data.chat_template_kwargs",)
"""Tables of RunConfig whose names the user chooses."""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one table of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


@cache
def known_keys() -> list[str]:
    """Return every dotted key a config may set, in order of definition."""
    return [*flatten(RunConfig().model_dump()), *(f"{table}.NAME" for table in OPEN_TABLES)]


def check_key(key: str, origin: str) -> None:
    """Refuse a dotted key that RunConfig does not have, or that names a table instead of a value.

    Raises:
        ValueError: names `origin`, the key and the nearest valid names.
    """
    if key in OPEN_TABLES:
        raise ValueError(f"{origin}: {key} is a table: set its entries, each as {key}.NAME=value")
    keys = known_keys()
    if key in keys or key.startswith(tuple(f"{table}." for table in OPEN_TABLES)):
        return
    last = key.rsplit(".", 1)[-1]
    near = [known for known in keys if known.rsplit(".", 1)[-1] == last] or nearest(key, keys)
    raise ValueError(f"{origin}: unknown key {key!r}; {hint(near, keys)}")


def path_hint(path: Path, there: Iterable[Path]) -> str:
    """Return a hint for a path that is not there, such as "did you mean sweeps/scale/demo.toml?"."""
    by_name = {other.stem: str(other) for other in sorted(there)}
    return hint([by_name[name] for name in nearest(path.stem, by_name)], by_name.values())


def require_toml(path: Path) -> None:
    """Refuse a path that is no file.

    Raises:
        ValueError: names the nearest TOML files of its folder, or all of them.
    """
    if not path.is_file():
        there = sorted(path.parent.glob("[!.]*.toml"))
        beside = path_hint(path, there) if there else f"{path.parent.absolute()} holds no TOML file"
        raise ValueError(f"there is no file {path}; {beside}")


def parse_override(text: str) -> tuple[str, Any]:
    """Split `algo.loss_type=dapo` into (key, value); the value is read as TOML, or else as a plain string.

    Raises:
        ValueError: there is no "=" in `text`.
    """
    key, separator, raw = text.partition("=")
    if not separator:
        raise ValueError(f"override {text!r} is not of the form key=value, such as algo.loss_type=dapo")
    try:
        return key.strip(), tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), raw.strip()


def read_file(path: Path) -> dict[str, Any]:
    """Read the dotted keys and values of a TOML file, or of the config.json that a run has written.

    Raises:
        ValueError: there is no such file, it is neither, or it sets an unknown key.
    """
    if path.suffix != ".json" or not path.is_file():
        return read_toml(path)
    saved = read_json(path)
    if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
        raise ValueError(f"{path} is no config.json of a run: it has no table config; a TOML file will do")
    return flatten(saved["config"])


def read_toml(path: Path) -> dict[str, Any]:
    """Read the dotted keys and values of one TOML file, and check the keys.

    Raises:
        ValueError: there is no such file, it is not TOML, or it sets an unknown key.
    """
    require_toml(path)
    try:
        values = flatten(tomllib.loads(path.read_text()))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None
    for key in values:
        check_key(key, str(path))
    return values


def build_config(
    flat: Mapping[str, Any], origin: str = "config", overrides: Mapping[str, str] | None = None
) -> RunConfig:
    """Make a validated RunConfig of dotted keys.

    origin: where they come from, for errors. overrides: the text that set a key, for keys that one set.

    Raises:
        ValueError: what is wrong with each value, where it comes from, and what is valid.
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        check_key(key, origin)
        *tables, name = key.split(".")
        table = nested
        for part in tables:
            table = table.setdefault(part, {})
        table[name] = value
    try:
        return RunConfig.model_validate(nested)
    except ValidationError as error:
        set_here = {key: text for key, text in (overrides or {}).items() if key in _wrong_keys(error)}
        if set_here:
            origin = ", ".join(f"override {text!r}" for text in set_here.values())
        raise ValueError(f"{origin}: {describe_errors(error)}") from None


def _wrong_keys(error: ValidationError) -> set[str]:
    return {".".join(map(str, item["loc"])) for item in error.errors()}


def describe_errors(error: ValidationError) -> str:
    """Say in one line what is wrong with each value."""
    return "; ".join(_describe(item) for item in error.errors())


def _describe(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "value_error":
        return f"{key + ': ' if key else ''}{item['ctx']['error']}"
    return f"{key} = {item['input']!r}: {item['msg']}"


def load_config(paths: Sequence[Path], overrides: Iterable[str] = ()) -> RunConfig:
    """Make a config of the defaults, then `paths` in order, then `overrides` ("key=value"); later ones win.

    paths: TOML files, or config.json of a run.

    Raises:
        ValueError: an unknown key or an invalid value, with the way out.
    """
    flat: dict[str, Any] = {}
    for path in paths:
        flat.update(read_file(path))
    texts: dict[str, str] = {}
    for text in overrides:
        key, value = parse_override(text)
        check_key(key, f"override {text!r}")
        flat[key], texts[key] = value, text
    return build_config(flat, " + ".join(str(path) for path in paths) or "config", texts)


def differences(first: RunConfig, second: RunConfig) -> list[str]:
    """Name the dotted keys in which two configs differ, with both values."""
    left, right = flatten(first.model_dump()), flatten(second.model_dump())
    unset = "not set"
    pairs = ((key, left.get(key, unset), right.get(key, unset)) for key in left | right)
    return [f"{key}: {before!r} -> {after!r}" for key, before, after in pairs if before != after]
