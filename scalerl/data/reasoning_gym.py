"""`scalerl prepare --generate reasoning_gym:DATASET[,key=value...]`: problems of that package's data sets.

They are made in a process of their own, `python -m scalerl.data.reasoning_gym`, whose hashes of texts are
always the same: some data sets draw from sets of words, whose order depends on them.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from scalerl.common.names import suggest
from scalerl.data.problem import Problem, compute_prompt_id
from scalerl.tasks.reasoning_gym import ReasoningGym, find_scorer, make_dataset, make_reference, unpack

ROUND = 100
"""The least number of entries drawn at once."""
MAX_IDLE_ROUNDS = 10
"""Rounds in a row that may bring no new prompt, before it is taken that there are no more."""


def generate(
    dataset: str, arguments: dict[str, Any], *, count: int, seed: int
) -> tuple[list[Problem], dict[str, int]]:
    """Return `count` problems with different prompts, and how many entries were dropped by reason.

    Raises:
        ValueError: the package is missing, it has no such data set, the data set refuses an argument, or it
            has fewer than `count` different prompts.
    """
    ReasoningGym().check_installed()
    if count < 1 or seed < 0:
        raise ValueError(f"cannot generate {count} problems from seed {seed}: give at least 1, and 0 or more")
    order = {"dataset": dataset, "arguments": arguments, "count": count, "seed": seed}
    # The hash seed is read when Python starts, so it takes a process.
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "scalerl.data.reasoning_gym"],
        input=json.dumps(order).encode(),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
    )
    made = json.loads(answer.stdout)
    if "error" in made:
        raise ValueError(f"--generate reasoning_gym: {made['error']}")
    source = f"reasoning_gym:{dataset}"
    problems = [
        Problem(
            prompt_id=compute_prompt_id(question),
            prompt=question,
            answer=reference,
            task=ReasoningGym.name,
            source=source,
        )
        for question, reference in made["problems"]
    ]
    return problems, made["dropped"]


def check_arguments(dataset: str, arguments: dict[str, Any]) -> None:
    """Check the name of a data set and the arguments of its config.

    Raises:
        ValueError: the nearest valid name, or the type that is wanted.
    """
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        raise ValueError(f"there is no data set {dataset!r}; {suggest(dataset, sorted(DATASETS))}")
    config = DATASETS[dataset][1]
    fields = {field.name: field for field in dataclasses.fields(config) if field.name not in ("seed", "size")}
    for key, value in arguments.items():
        if key in ("seed", "size"):
            raise ValueError(f"{key} is said by --{'count' if key == 'size' else key}")
        if key not in fields:
            raise ValueError(f"{dataset} has no key {key!r}; {suggest(key, fields)}")
        default = getattr(config(), key)
        if not _fits(value, default):
            wanted = f"a value of type {type(default).__name__} is wanted, such as its default {default!r}"
            raise ValueError(f"{key}={value!r}: {wanted}")
    try:
        make_dataset(dataset, arguments, seed=0, size=1)
    except Exception as error:  # each config checks itself, with assert or otherwise
        raise ValueError(f"{dataset} refuses {arguments}: {error or type(error).__name__}") from None


def _fits(value: Any, default: Any) -> bool:
    if default is None or type(value) is type(default):
        return True
    if isinstance(default, float):
        return type(value) is int
    return isinstance(default, tuple) and isinstance(value, list)


def draw(dataset: str, arguments: dict[str, Any], *, count: int, seed: int) -> dict[str, Any]:
    """Return {"problems": [[question, reference], ...], "dropped": {reason: entries}}.

    An entry whose own answer does not get the full score is dropped; some have none, where many are right.

    Raises:
        ValueError: there are fewer than `count` different prompts.
    """
    check_arguments(dataset, arguments)
    references: dict[str, str] = {}
    dropped = {"duplicate": 0, "bad_reference": 0}
    idle_rounds = 0
    for entries in _rounds(dataset, arguments, max(count, ROUND), seed):
        before = len(references)
        for entry in entries:
            # Not normalised: in boards and drawings blanks have a meaning.
            question = entry["question"].strip()
            if question in references:
                dropped["duplicate"] += 1
            elif (reference := _checked_reference(dataset, arguments, entry)) is None:
                dropped["bad_reference"] += 1
            else:
                references[question] = reference
            if len(references) == count:
                return {"problems": list(references.items()), "dropped": dropped}
        idle_rounds = 0 if len(references) > before else idle_rounds + 1
        if idle_rounds == MAX_IDLE_ROUNDS:
            break
    raise ValueError(
        f"{len(references)} different prompts is all that turned up with {arguments or 'its defaults'}, "
        f"{count} were asked for; ask for fewer, or widen its arguments"
    )


def _rounds(dataset: str, arguments: dict[str, Any], size: int, seed: int) -> Iterator[Iterator[dict]]:
    """Yield rounds of `size` entries, each of a seed of its own.

    Entry i of most data sets is drawn from seed + i: the seeds of rounds, and of two values of --seed, have
    to be far apart, or they would share nearly all entries.
    """
    for number in range(sys.maxsize):
        far = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        made = make_dataset(dataset, arguments, seed=far, size=size)
        yield (made[index] for index in range(size))


def _checked_reference(dataset: str, arguments: dict[str, Any], entry: dict[str, Any]) -> str | None:
    """Return the reference of an entry; None if its own answer, graded by it, is not right."""
    try:
        reference = make_reference(dataset, arguments, entry)
    except TypeError:
        return None
    kept = unpack(json.loads(reference)["entry"])
    # None: the package gives no answer where many are right, and scores by the metadata alone.
    if kept["answer"] is None:
        return reference
    scorer = find_scorer(dataset, json.dumps(arguments, sort_keys=True))
    return reference if scorer(kept["answer"], kept) == 1 else None


def main() -> None:
    """Answer the order on stdin on what was stdout: a few data sets print while they draw."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        made = draw(**json.load(sys.stdin))
    except ValueError as error:
        made = {"error": str(error)}
    with answer:
        json.dump(made, answer)


if __name__ == "__main__":
    main()
