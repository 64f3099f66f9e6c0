"""Tests of what a machine does not have."""

import os
from typing import NoReturn

import pytest


def leave_out(reason: str, what: str) -> NoReturn:
    """Skip the tests of `what`, and say so; except in CI, where nothing may be left out."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; CI leaves out no test")
    pytest.skip(f"{reason}; left out: the tests {what}")
