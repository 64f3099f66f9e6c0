"""The published curves, and the tools whose numbers the README quotes."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


def load_tool(name: str) -> ModuleType:
    """Import tools/<name>.py."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def tool():
    """tool("learn_prior"): the module tools/learn_prior.py."""
    return load_tool


@pytest.fixture(scope="session")
def published():
    """All published curves."""
    return load_tool("learn_prior").read_published()
