"""Who may import whom: the rooms' walls, read from the source."""

import ast
import os
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

MODEL, PIPELINE, SERVING = "devopsgpt_model", "devopsgpt_pipeline", "devopsgpt_serving"
# in the order of the flow
ROOMS = [f"{PIPELINE}.{room}" for room in ("sources", "text", "datasets", "registry")]


def imports(path):
    """Every module that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(package):
    found = sorted((REPOSITORY / package.replace(".", "/")).rglob("*.py"))
    assert found, f"no files in {package}"
    return found


def offences(package, forbidden, exempt=()):
    return [
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for path in files(package)
        if path.name not in exempt
        for module in imports(path)
        if any(module == name or module.startswith(f"{name}.") for name in forbidden)
    ]


def test_the_model_knows_no_orchestrator_no_registry_and_no_web():
    forbidden = [PIPELINE, SERVING, "dagster", "fastapi", "requests"]
    assert offences(MODEL, forbidden) == []
    assert offences(MODEL, ["mlflow", "dagster_pipes"], exempt=["report.py"]) == []


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_know_no_dagster_no_serving_and_no_later_room(room):
    later = ROOMS[ROOMS.index(room) + 1 :]
    above = [
        f"{PIPELINE}.{name}"
        for name in ("defs", "definitions", "local", "operations", "commands", "cli")
    ]
    assert offences(room, ["dagster", SERVING, *later, *above]) == []


def test_the_pipeline_never_imports_the_service():
    assert offences(PIPELINE, [SERVING]) == []


def test_the_service_never_imports_the_pipeline_or_training():
    forbidden = [PIPELINE, "dagster", f"{MODEL}.train", f"{MODEL}.training", "pandas", "flask"]
    assert offences(SERVING, forbidden) == []


@pytest.mark.parametrize(
    ("door", "slow"),
    [
        ("definitions", ["torch", "mlflow", "matplotlib"]),
        ("cli", ["torch", "mlflow", "dagster", "numpy", "requests"]),
    ],
)
def test_a_door_opens_without_what_takes_seconds(door, slow, tmp_path):
    """Every code server and step imports the definitions; `devopsgpt --help` imports the cli."""
    code = f"""
import sys
import {PIPELINE}.{door}
print([name for name in {slow} if name in sys.modules])
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "kept"), [({}, "true"), ({"MLFLOW_DISABLE_TELEMETRY": "false"}, "false")]
)
def test_mlflow_reports_no_use_unless_the_operator_wants_it(given, kept):
    code = f"import os, {PIPELINE}; print(os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    others = {
        name: value for name, value in os.environ.items() if name != "MLFLOW_DISABLE_TELEMETRY"
    }
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=others | given
    )
    assert answer.stdout.strip() == kept


@pytest.mark.parametrize("package", [MODEL, PIPELINE, SERVING])
def test_nothing_is_pickled_or_evaluated(package):
    forbidden = re.compile(
        r"\bimport "
        r"(pickle|cloudpickle|joblib|marshal|shelve)\b|torch\.(load|save)\(|\beval\(|\bexec\("
    )
    found = [
        f"{path.relative_to(REPOSITORY)}: {line.strip()}"
        for path in files(package)
        for line in path.read_text().splitlines()
        if forbidden.search(line) and ".eval()" not in line
    ]
    assert found == []
