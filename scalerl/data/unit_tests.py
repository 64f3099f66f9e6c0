"""Unit tests of code problems: the shapes people have, and the one that is kept.

| shape                    | tests                                                             |
|--------------------------|-------------------------------------------------------------------|
| TACO, APPS               | {inputs: [...], outputs: [...], optionally fn_name}               |
| DeepCoder, LiveCodeBench | [{input, output, optionally fn_name, or metadata.func_name}, ...] |

Both may be JSON text or the value itself. A test with a function's name is a call, any other is stdin and
stdout; its type or testtype is not needed. For stdin and stdout a list is the lines of the text. The input of
a call is the list of its arguments, or text with one JSON value a line; the output is its result, JSON text
where the input is text. Where the input is a list, a result that is a list of one element is also accepted as
that element: APPS and TACO wrap results, and do not say so.

What is kept, and what scalerl.tasks.code grades by: a JSON list of {"input": text, "output": text} and
{"fn_name": text, "arguments": [...], "accepted": [value, ...]}.
"""

import json
import math
from typing import Any

from scalerl.data.bad_row import BadRow, short

MAX_TESTS_BYTES = 4 << 20
"""The size of all tests of a problem together: every grading moves them between processes."""
WANTED = (
    "{inputs: [...], outputs: [...][, fn_name]} or a list of {input, output[, fn_name]}, or the JSON text "
    "of one of these"
)


def parse_tests(value: Any) -> str:
    """Return the tests of a problem, of any shape, as they are kept.

    Raises:
        BadRow: there is none, one is not a test, or together they are too large.
    """
    tests = _from_json(value, "tests") if isinstance(value, str) else value
    if isinstance(tests, dict):
        tests = _from_columns(tests)
    if not isinstance(tests, list) or not tests or not all(isinstance(test, dict) for test in tests):
        raise BadRow("bad_tests", f"its tests are {short(value)}, where one or more are wanted: {WANTED}")
    # Sorted and without NaN, so that equal tests are equal texts: they are compared to find duplicates.
    try:
        kept = json.dumps([_parse_test(test) for test in tests], sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadRow("bad_tests", f"its tests hold a value that JSON does not have ({error})") from None
    if len(kept) > MAX_TESTS_BYTES:
        raise BadRow(
            "tests_too_large",
            f"its tests are {len(kept)} bytes of JSON, over {MAX_TESTS_BYTES}; leave out the largest",
        )
    return kept


def _from_columns(tests: dict[str, Any]) -> list[dict[str, Any]]:
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise BadRow(
            "bad_tests",
            f"its tests are {short(tests)}, where inputs and outputs are wanted, lists of one length",
        )
    name = {"fn_name": tests["fn_name"]} if tests.get("fn_name") else {}
    return [{"input": given, "output": output} | name for given, output in zip(inputs, outputs, strict=True)]


def _parse_test(test: dict[str, Any]) -> dict[str, Any]:
    if test.get("input") is None or "output" not in test:
        raise BadRow("bad_tests", f"a test is {short(test)}, where {{input, output}} is wanted")
    name = _function_name(test)
    if not name:
        return {"input": _text(test["input"]), "output": _text(test["output"])}
    given, output = test["input"], test["output"]
    if isinstance(given, str):
        arguments = [_from_json(line, "input") for line in given.split("\n") if line.strip()]
        accepted = [_from_json(output, "output") if isinstance(output, str) else output]
    elif isinstance(given, list):
        arguments, accepted = given, [output]
        # [5] may mean 5 or a list of one: a site's own grader knows, its files do not say.
        if isinstance(output, list) and len(output) == 1:
            accepted.append(output[0])
    else:
        raise BadRow(
            "bad_tests",
            f"the input of a call of {name} is {short(given)}, where the list of its arguments is wanted",
        )
    return {"fn_name": name, "arguments": arguments, "accepted": accepted}


def _function_name(test: dict[str, Any]) -> str:
    metadata = test.get("metadata")
    name = test.get("fn_name") or (metadata.get("func_name") if isinstance(metadata, dict) else None) or ""
    if name and not (isinstance(name, str) and name.isidentifier()):
        raise BadRow(
            "bad_tests", f"the function of a test is called {short(name)}, where a Python name is wanted"
        )
    if not name and (test.get("testtype") == "functional" or test.get("type") == "function_call"):
        raise BadRow(
            "bad_tests",
            f"a test calls a function, and neither fn_name nor metadata.func_name says which: {short(test)}",
        )
    return name


def _text(value: Any) -> str:
    """Return standard input or output as text; a list is its lines."""
    lines = value if isinstance(value, list) else [value]
    if not all(
        isinstance(line, str) or (isinstance(line, int | float) and math.isfinite(line)) for line in lines
    ):
        raise BadRow(
            "bad_tests",
            f"stdin or stdout of a test is {short(value)}, where a text is wanted; calls need fn_name",
        )
    text = "\n".join(map(str, lines))
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRow("malformed", "its tests hold half a surrogate pair, where valid Unicode is wanted")
    return text


def _from_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRow("bad_tests", f"its {what} {short(text)} is not valid JSON ({error})") from None
