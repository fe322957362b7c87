"""Rooms, files and functions stay small enough to read."""

import ast

from conftest import REPOSITORY

MOST_FILES, MOST_LINES, MOST_FUNCTION_LINES, MOST_COLUMNS = 16, 400, 60, 100


def sources(*folders):
    """Path in the repository -> text of every Python file."""
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    return {str(path.relative_to(REPOSITORY)): path.read_text("utf-8") for path in paths}


EVERYTHING = sources(
    "devopsgpt_model", "devopsgpt_pipeline", "devopsgpt_serving", "tests", "benchmarks", "deploy"
)


def test_no_room_holds_too_many_files():
    rooms = [path.rpartition("/")[0] for path in EVERYTHING if "__init__" not in path]
    assert {room for room in rooms if rooms.count(room) > MOST_FILES} == set()


def test_no_file_is_too_long():
    long = {path for path, text in EVERYTHING.items() if len(text.splitlines()) > MOST_LINES}
    assert long == set()


def test_no_function_is_too_long():
    long = {
        f"{path} {node.name}"
        for path, text in EVERYTHING.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= MOST_FUNCTION_LINES
    }
    assert long == set()


def test_no_line_is_too_wide():
    wide = [
        f"{path}:{number}"
        for path, text in EVERYTHING.items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > MOST_COLUMNS
    ]
    assert wide == []
