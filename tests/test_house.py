"""The house keeps its own rules: short functions and files, small rooms, READMEs that name what there is."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
MODULES = sorted((REPOSITORY / "scalerl").rglob("*.py"))
READMES = sorted(
    path
    for path in REPOSITORY.rglob("README.md")
    if not {".venv", "runs"} & {*path.relative_to(REPOSITORY).parts}
)
MAX_FUNCTION_LINES, MAX_FILE_LINES, MAX_FILES = 45, 350, 12
MAX_README_LINES, MAX_TOP_README_LINES = 119, 170


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def functions() -> Iterator[tuple[str, int]]:
    """Yield (where it is, lines) of every function, decorators left out."""
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield f"{name(path)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def test_no_function_is_long():
    lengths = dict(functions())
    assert len(lengths) > 500
    assert {where: lines for where, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def test_no_file_is_long():
    lengths = {name(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {where: lines for where, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_room_is_crowded():
    rooms = Counter(name(path.parent) for path in MODULES)
    assert {room: files for room, files in rooms.items() if files > MAX_FILES} == {}


def test_there_are_readmes():
    assert REPOSITORY / "README.md" in READMES


@pytest.mark.parametrize("readme", READMES, ids=name)
def test_every_relative_link_of_a_readme_exists(readme):
    text = re.sub(r"```.*?```", "", readme.read_text(), flags=re.S)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    relative = [link for link in links if link and not re.match(r"[a-z]+:", link)]
    assert [link for link in relative if not (readme.parent / link).exists()] == []


@pytest.mark.parametrize("readme", READMES, ids=name)
def test_every_make_target_of_a_readme_is_one(readme):
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.M))
    code = re.findall(r"```.*?```|`[^`\n]+`", readme.read_text(), flags=re.S)
    named = {target for piece in code for target in re.findall(r"(?<![\w-])make +([a-z][a-z-]*)", piece)}
    assert named - targets == set()


@pytest.mark.parametrize("readme", [path for path in READMES if path.parent != REPOSITORY], ids=name)
def test_a_readme_beside_the_code_is_short(readme):
    assert len(readme.read_text().splitlines()) <= MAX_README_LINES


def test_the_top_readme_is_of_one_sitting():
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= MAX_TOP_README_LINES
