"""How a reader refuses one row of an input file."""

from typing import Any


class BadRow(Exception):
    """A row that is not a problem.

    `reason` is the word it is counted under; the message says what is wrong, and what is valid.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def short(value: Any) -> str:
    """Return a value as a message shows it: at most 60 characters of its repr."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
