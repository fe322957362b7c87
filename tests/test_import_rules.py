"""Who may import whom: the rooms' walls, read from the source."""

import ast
import os
import re
import subprocess
import sys

import pytest
from conftest import REPOSITORY

MODEL, PIPELINE, SERVING = "devopsgpt_model", "devopsgpt_pipeline", "devopsgpt_serving"

# Rooms and root files of each folder, in the order of the flow: each line imports from the lines
# above it and from its own, never from one below. Names on one line are equals.
ORDERS = {
    MODEL: [
        "kernels",
        "atomic batches checkpoint config device evaluate generate gpt loss memory sampling stop"
        " threads token_bins tokenizer tracking",
        "training",
        "train",
    ],
    PIPELINE: [
        "home settings profiles",
        "hub",
        "tracking",
        "sources",
        "text",
        "datasets",
        "training",
        "evaluation",
        "registry",
        "defs",
        "operations",
        "definitions",
        "local",
        "commands deploy_env",
        "cli",
    ],
    f"{PIPELINE}.sources": [
        "html",
        "books",
        "sample_site",
        "web",
        "pages",
        "archive changes guards",
        "seen",
        "visit",
        "observe scrape",
    ],
    SERVING: [
        "version settings errors",
        "compute",
        "engine",
        "tracing",
        "versions",
        "metrics",
        "api",
        "logs",
        "app",
        "__main__",
    ],
}
BACKWARD = {
    ("devopsgpt_pipeline/evaluation/evaluate.py", "local"): "starts an MLflow server of its own",
}
DAGSTERS = ("defs/", "local/", "operations/", "definitions.py")
LAUNCHERS = ("training/launcher.py", "training/kubernetes_launcher.py")


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


def room_of(package, name):
    """The room or root file of a package that a module, or a file's path, lies in; else None."""
    parts = name.removesuffix(".py").replace("/", ".").removeprefix(package).split(".")
    return parts[1] if parts[0] == "" and len(parts) > 1 and parts[1] != "__init__" else None


@pytest.mark.parametrize("package", [MODEL, PIPELINE, f"{PIPELINE}.sources"])
def test_a_room_imports_earlier_rooms_only(package):
    place = {room: n for n, line in enumerate(ORDERS[package]) for room in line.split()}
    found = {}
    for path in files(package):
        here = room_of(package, str(path.relative_to(REPOSITORY)))
        for module in imports(path):
            there = room_of(package, module)
            if here and place.get(there, -1) > place[here]:  # -1: a name of the package itself
                found[str(path.relative_to(REPOSITORY)), there] = module
    assert found.keys() == (BACKWARD.keys() if package == PIPELINE else set())


@pytest.mark.parametrize("package", list(ORDERS))
def test_every_room_has_its_place(package):
    rooms = {room_of(package, str(path.relative_to(REPOSITORY))) for path in files(package)}
    assert rooms - {None} - {room for line in ORDERS[package] for room in line.split()} == set()


def test_dagster_is_where_the_chain_is_wired():
    found = {line.split()[0] for line in offences(PIPELINE, ["dagster", "dagster_k8s"])}
    inside = tuple(f"{PIPELINE}/{place}" for place in (*DAGSTERS, *LAUNCHERS))
    assert [path for path in found if not path.startswith(inside)] == []


def test_the_pipeline_never_imports_the_service():
    assert offences(PIPELINE, [SERVING]) == []


def test_the_service_never_imports_the_pipeline_or_training():
    forbidden = [PIPELINE, "dagster", f"{MODEL}.train", f"{MODEL}.training", "pandas", "flask"]
    assert offences(SERVING, forbidden) == []


def test_importing_the_definitions_loads_neither_torch_nor_mlflow(tmp_path):
    code = f"""
import sys
import {PIPELINE}.definitions
print([name for name in ("torch", "mlflow", "matplotlib") if name in sys.modules])
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
