"""`scalerl prepare --generate NAME[:DATASET][,key=value...]`: the generators there are, and their arguments.

Adding one means writing a function like these and an entry in GENERATORS.
"""

import re
import tomllib
from collections.abc import Callable
from typing import Any

from scalerl.common.names import suggest
from scalerl.data import arithmetic, reasoning_gym, word_problems
from scalerl.data.problem import Problem

Generated = tuple[list[Problem], dict[str, int]]
"""Problems with different prompts, and how many were dropped by reason."""
BETWEEN_ARGUMENTS = re.compile(r",(?=\s*[A-Za-z_]\w*\s*=)")
"""The comma before a key: one within a list or a text separates nothing."""


def generate_arithmetic(dataset: str, arguments: dict[str, Any], *, count: int, seed: int) -> Generated:
    """Return left-to-right chains modulo 10; arguments: min_steps, max_steps.

    Raises:
        ValueError: another argument, one that is no whole number, or what arithmetic.generate refuses.
    """
    _check_numbers("arithmetic", dataset, arguments, ("min_steps", "max_steps"))
    return arithmetic.generate(count, seed=seed, **arguments), {}


def generate_word_problems(dataset: str, arguments: dict[str, Any], *, count: int, seed: int) -> Generated:
    """Return word problems of one or two calculations; arguments: min_steps, max_steps.

    Raises:
        ValueError: another argument, one that is no whole number, or what word_problems.generate refuses.
    """
    _check_numbers("word_problems", dataset, arguments, ("min_steps", "max_steps"))
    return word_problems.generate(count, seed=seed, **arguments), {}


def _check_numbers(name: str, dataset: str, arguments: dict[str, Any], keys: tuple[str, ...]) -> None:
    """Refuse a data set, and arguments other than whole numbers for `keys`."""
    if dataset:
        raise ValueError(f"--generate {name}:{dataset}: it has no data sets; write {name} alone")
    for key, value in arguments.items():
        if key not in keys:
            raise ValueError(f"--generate {name}: no key {key!r}; {suggest(key, keys)}")
        if type(value) is not int:
            raise ValueError(f"--generate {name}: {key}={value!r}, where a whole number is wanted")


GENERATORS: dict[str, Callable[..., Generated]] = {
    "arithmetic": generate_arithmetic,
    "reasoning_gym": reasoning_gym.generate,
    "word_problems": generate_word_problems,
}


def generate(order: str, *, count: int, seed: int) -> tuple[str, Generated]:
    """Return what `order`, NAME[:DATASET][,key=value...], is called in the report, and its problems.

    Raises:
        ValueError: there is no such generator, or it refuses its data set, its arguments or the count.
    """
    name, _, rest = order.partition(":")
    if name not in GENERATORS:
        raise ValueError(f"--generate {order}: there is no generator {name!r}; {suggest(name, GENERATORS)}")
    dataset, arguments = parse_arguments(rest)
    made = GENERATORS[name](dataset, arguments, count=count, seed=seed)
    return f"{name}:{dataset}" if dataset else name, made


def parse_arguments(text: str) -> tuple[str, dict[str, Any]]:
    """Return data set and arguments of a text such as "chain_sum,min_terms=3"; either may be missing.

    Values are TOML (numbers, true and false, lists, quoted texts), or else plain texts.

    Raises:
        ValueError: a part after the first is not key=value, or a key is there twice.
    """
    # A data set has no "=", so a first part that has one is an argument already: arithmetic:max_steps=4.
    parts = [part.strip() for part in BETWEEN_ARGUMENTS.split(text)]
    dataset = "" if "=" in parts[0] else parts.pop(0)
    if "," in dataset:
        raise ValueError(f"--generate: {dataset!r} is one data set followed by key=value parts, or should be")
    arguments: dict[str, Any] = {}
    for part in parts:
        key, _, raw = (word.strip() for word in part.partition("="))
        if key in arguments:
            raise ValueError(f"--generate: {key} is given twice; once is enough")
        try:
            arguments[key] = tomllib.loads(f"value = {raw}")["value"]
        except tomllib.TOMLDecodeError:
            arguments[key] = raw
    return dataset, arguments
