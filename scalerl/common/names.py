"""What an error says about a name that is not known."""

import difflib
from collections.abc import Collection

MOST = 24
"""Names that a hint lists; of more, it says how many."""


def nearest(name: str, valid: Collection[str]) -> list[str]:
    """Return the valid names that are spelt nearly like `name`, at most three, best first."""
    return difflib.get_close_matches(name, valid, n=3)


def hint(near: Collection[str], valid: Collection[str]) -> str:
    """Return a hint for a name that is not valid: "did you mean loss_type?", or all that are valid."""
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(valid) - MOST} more" if len(valid) > MOST else ""
    return f"there are {', '.join(list(valid)[:MOST]) or 'none'}{more}"


def suggest(name: str, valid: Collection[str]) -> str:
    """Return the hint for `name`: the nearest valid names, or where none is near, all of them."""
    return hint(nearest(name, valid), valid)
