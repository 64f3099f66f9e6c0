"""Policies and an engine for the tests of sampling."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scalerl.inference.engine import SamplingEngine


@pytest.fixture(scope="session")
def policies(tmp_path_factory, write_policy) -> dict[str, list[Path]]:
    """Two policies with a tied head, two with an untied one and two with experts, in folders named as the
    trainer names them."""
    root = tmp_path_factory.mktemp("policies")
    found: dict[str, list[Path]] = {}
    for kind in ("tied", "untied", "moe"):
        found[kind] = [root / kind / f"{version:08d}-{'0' * 12}" for version in range(2)]
        for seed, folder in enumerate(found[kind]):
            write_policy(folder, seed=seed, tie_embeddings=kind != "untied", moe=kind == "moe")
    return found


@pytest.fixture(scope="module")
def tied_engine(open_engine, policies) -> Iterator[SamplingEngine]:
    """An engine that serves one of the tied policies; a test must load the one it wants."""
    with open_engine(policies["tied"][0]) as engine:
        yield engine
