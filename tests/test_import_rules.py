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
        "atomic batches checkpoint config device evaluate generate gpt loss sampling shutdown"
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
        "commands",
        "cli",
    ],
    f"{PIPELINE}.sources": [
        "addresses html",
        "css",
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
        "connections",
        "http_protocol",
        "server",
        "logs",
        "app",
        "__main__",
    ],
}
# Imports inside functions, grouped by reason: file -> modules. Everything else stands at the top.
INSIDE_FUNCTIONS = {
    "definitions load neither torch nor MLflow, matplotlib nor the hub's client; a step does": {
        "devopsgpt_pipeline/defs/baselines.py": "devopsgpt_model.checkpoint devopsgpt_model.device"
        " devopsgpt_pipeline.tracking.runs",
        "devopsgpt_pipeline/defs/checks.py": "devopsgpt_model.checkpoint devopsgpt_model.generate",
        "devopsgpt_pipeline/defs/datasets.py": "devopsgpt_pipeline.datasets.openwebtext",
        "devopsgpt_pipeline/defs/evaluation.py": "devopsgpt_model.device"
        " devopsgpt_pipeline.tracking.runs",
        "devopsgpt_pipeline/defs/leaderboard.py": "devopsgpt_pipeline.defs"
        " devopsgpt_pipeline.evaluation.leaderboard devopsgpt_pipeline.tracking.runs",
        "devopsgpt_pipeline/defs/pretrained.py": "devopsgpt_pipeline.hub.pretrained",
        "devopsgpt_pipeline/defs/registry.py": "devopsgpt_pipeline.registry.gate"
        " devopsgpt_pipeline.registry.licence"
        " devopsgpt_pipeline.registry.model_card devopsgpt_pipeline.tracking.client"
        " devopsgpt_pipeline.tracking.runs devopsgpt_pipeline.tracking.versions"
        " devopsgpt_pipeline.training.lineage",
        "devopsgpt_pipeline/defs/resources.py": "devopsgpt_pipeline.tracking.client",
        "devopsgpt_pipeline/defs/training.py": "devopsgpt_pipeline.defs"
        " devopsgpt_pipeline.defs.pictures devopsgpt_pipeline.tracking"
        " devopsgpt_pipeline.tracking.runs devopsgpt_pipeline.tracking.versions"
        " devopsgpt_pipeline.training.lineage devopsgpt_pipeline.training.prepare",
        "devopsgpt_pipeline/operations/retention_job.py": "devopsgpt_pipeline.operations",
        "devopsgpt_pipeline/datasets/bpe.py": "tokenizers",
    },
    "who reads what was measured, as two checks and the registration do, needs no torch": {
        "devopsgpt_pipeline/evaluation/comparison.py": "devopsgpt_model.checkpoint"
        " devopsgpt_model.device devopsgpt_model.generate"
        " devopsgpt_model.training.trainer devopsgpt_pipeline.tracking.runs"
        " devopsgpt_pipeline.tracking.versions",
        "devopsgpt_pipeline/evaluation/measure.py": "devopsgpt_model.evaluate",
        "devopsgpt_pipeline/evaluation/memorization.py": "torch",
    },
    "who launches a training, or counts processors, needs no torch": {
        "devopsgpt_model/threads.py": "torch",
        "devopsgpt_pipeline/training/launcher.py": "torch",
        "devopsgpt_pipeline/training/prepare.py": "devopsgpt_model.checkpoint",
    },
    "the command line answers at once: a command loads what it needs": {
        "devopsgpt_pipeline/cli.py": "*",
        "devopsgpt_pipeline/commands/": "*",
        "devopsgpt_pipeline/local/session.py": "devopsgpt_pipeline.local.sweep"
        " devopsgpt_pipeline.local.whole"
        " devopsgpt_pipeline.tracking.client",
        "devopsgpt_serving/__main__.py": "devopsgpt_serving.app devopsgpt_serving.server",
    },
    "the environment is set first": {
        "devopsgpt_pipeline/local/session.py": "devopsgpt_pipeline.definitions",
        "devopsgpt_serving/versions/registry.py": "mlflow",
    },
    "an extra, or a platform's own, that may be missing": {
        "devopsgpt_model/device.py": "devopsgpt_model.kernels.loss",
        "devopsgpt_model/loss.py": "devopsgpt_model.kernels",
        "devopsgpt_serving/compute/captured.py": "devopsgpt_model.kernels",
        "devopsgpt_model/training/report.py": "dagster_pipes mlflow mlflow.entities",
        "devopsgpt_model/training/ranks.py": "torch.distributed.device_mesh"
        " torch.distributed.fsdp torch.distributed.tensor",
        "devopsgpt_pipeline/evaluation/harness.py": "lm_eval",
        "devopsgpt_pipeline/training/kubernetes_launcher.py": "dagster_k8s dagster_k8s.client"
        " dagster_k8s.pipes kubernetes.utils",
        "devopsgpt_serving/tracing.py": "opentelemetry.exporter.otlp.proto.http.trace_exporter"
        " opentelemetry.sdk.resources opentelemetry.sdk.trace opentelemetry.sdk.trace.export"
        " opentelemetry.trace opentelemetry.trace.propagation.tracecontext",
        "devopsgpt_pipeline/registry/export.py": "devopsgpt_pipeline.registry.gguf_file",
        "benchmarks/_llama.py": "devopsgpt_pipeline.registry.gguf_file llama_cpp",
        "benchmarks/_onnx.py": "onnxruntime onnxruntime.quantization",
        "benchmarks/_serving_peers.py": "ctranslate2 transformers",
    },
    "Triton's interpreter is chosen before the kernel is defined; a part loads what it measures": {
        "benchmarks/gpu/kernels.py": "devopsgpt_model.kernels devopsgpt_model.loss",
        "benchmarks/gpu/measure.py": "benchmarks benchmarks.serving devopsgpt_model.config"
        " devopsgpt_model.device",
    },
    "each contender is a process of its own, whose memory is measured": {
        "benchmarks/training.py": "benchmarks._nanogpt devopsgpt_model.batches"
        " devopsgpt_model.device devopsgpt_model.gpt devopsgpt_model.train"
        " devopsgpt_model.training.ranks devopsgpt_model.training.step",
    },
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


def imports_inside_functions(package):
    """(file, module) of every import that a function makes."""
    for path in files(package):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                for node in ast.walk(function):
                    modules = [node.module] if isinstance(node, ast.ImportFrom) else []
                    if isinstance(node, ast.Import):
                        modules = [alias.name for alias in node.names]
                    yield from ((str(path.relative_to(REPOSITORY)), name) for name in modules)


def test_an_import_inside_a_function_has_its_reason():
    listed = {
        (file, module)
        for group in INSIDE_FUNCTIONS.values()
        for file, modules in group.items()
        for module in modules.split()
    }
    free = tuple(file for file, module in listed if module == "*")
    packages = (MODEL, PIPELINE, SERVING, "benchmarks")
    found = {one for package in packages for one in imports_inside_functions(package)}
    found = {(file, module) for file, module in found if not file.startswith(free)}
    assert sorted(found - listed) == [], "move these to the top, or list them with their reason"
    assert sorted(listed - found - {(file, "*") for file in free}) == [], "these are gone"


def room_of(package, name):
    """The room or root file of a package that a module, or a file's path, lies in; else None."""
    parts = name.removesuffix(".py").replace("/", ".").removeprefix(package).split(".")
    return parts[1] if parts[0] == "" and len(parts) > 1 and parts[1] != "__init__" else None


@pytest.mark.parametrize("package", list(ORDERS))
def test_a_room_imports_earlier_rooms_only(package):
    place = {room: n for n, line in enumerate(ORDERS[package]) for room in line.split()}
    found = {}
    for path in files(package):
        here = room_of(package, str(path.relative_to(REPOSITORY)))
        for module in imports(path):
            there = room_of(package, module)
            if here and place.get(there, -1) > place[here]:  # -1: a name of the package itself
                found[str(path.relative_to(REPOSITORY)), there] = module
    assert found == {}


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
    assert answer.stderr == ""


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
