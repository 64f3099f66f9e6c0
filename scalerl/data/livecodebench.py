"""Rows of LiveCodeBench's code generation, as they are published, in the shape of any other code problem.

| column             | holds                                                                                |
|--------------------|--------------------------------------------------------------------------------------|
| question_content   | the prompt                                                                           |
| starter_code       | empty for programs of stdin and stdout                                               |
| public_test_cases  | JSON text: [{input, output, testtype}, ...]                                          |
| private_test_cases | the same, or its pickle, zlib-compressed, as base64                                  |
| metadata           | JSON text: {"func_name": ...} where a function is called, else {}                    |

All tests of a problem count: LiveCodeBench itself grades by the public and the private ones together.
"""

import base64
import io
import json
import pickle
import zlib
from typing import Any

from scalerl.data.bad_row import BadRow, short

MAX_TEXT_BYTES = 64 << 20
"""Size of private tests, unpacked: a few published ones are larger than any program is tested with."""


def unpack_record(record: dict[str, Any]) -> dict[str, Any]:
    """Return a published row as {question, starter_code, tests}.

    Raises:
        BadRow: its tests or its metadata are not what they should be, or together too large.
    """
    metadata = _json(record.get("metadata") or "{}", "metadata", dict)
    tests = _json(record["public_test_cases"], "public_test_cases", list)
    private = record.get("private_test_cases") or "[]"
    if isinstance(private, str) and not private.lstrip().startswith("["):
        private = _unpack(private)
    tests = tests + _json(private, "private_test_cases", list)
    tests = [test | {"metadata": metadata} if isinstance(test, dict) else test for test in tests]
    return {
        "question": record.get("question_content"),
        "starter_code": record.get("starter_code"),
        "tests": tests,
    }


def _json(value: Any, name: str, kind: type) -> Any:
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise BadRow("bad_tests", f"its {name} {short(value)} is not valid JSON ({error})") from None
    if not isinstance(value, kind):
        raise BadRow("bad_tests", f"its {name} is {short(value)}, where a JSON {kind.__name__} is wanted")
    return value


class _TextUnpickler(pickle.Unpickler):
    """A reader of pickled texts: a pickle may run any code when it is read, and that of a text needs none."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse to import anything."""
        raise pickle.UnpicklingError(f"it names {module}.{name}, where only a text is wanted")


def _unpack(packed: str) -> str:
    # Unpacked up to a limit: a few bytes of a hostile file could otherwise become gigabytes.
    try:
        unpacker = zlib.decompressobj()
        pickled = unpacker.decompress(base64.b64decode(packed, validate=True), MAX_TEXT_BYTES)
        if not unpacker.eof and len(pickled) < MAX_TEXT_BYTES:
            raise ValueError("cut short")
        text = _TextUnpickler(io.BytesIO(pickled)).load() if unpacker.eof else None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise BadRow(
            "bad_tests",
            f"its private_test_cases {short(packed)} are neither JSON nor a packed text ({error})",
        ) from None
    if text is None:
        raise BadRow(
            "tests_too_large",
            f"its private_test_cases are over {MAX_TEXT_BYTES} bytes unpacked; leave out the largest",
        )
    if not isinstance(text, str):
        raise BadRow("bad_tests", f"its private_test_cases hold {short(text)}, where a text is wanted")
    return text
