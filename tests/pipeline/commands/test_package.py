"""The package as it is installed: from a wheel, and with a part of its dependencies."""

import email
import os
import subprocess
import sys
import textwrap
import zipfile

import pytest
from conftest import REPOSITORY

# what `[serving]` does not bring
PIPELINES = """dagster mlflow.server lxml rich requests tokenizers pyarrow matplotlib
    huggingface_hub protego cssselect filelock re2"""


@pytest.fixture
def run_without(tmp_path):
    """Run `devopsgpt` in a Python that lacks packages."""

    def run(packages, *arguments):
        blocker = tmp_path / "sitecustomize.py"
        blocker.write_text(
            textwrap.dedent(f"""
            import sys

            class Blocker:
                def find_spec(self, name, path=None, target=None):
                    if name in {packages.split()!r}:
                        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

            sys.meta_path.insert(0, Blocker())
            """)
        )
        environment = os.environ | {
            "PYTHONPATH": f"{tmp_path}:{REPOSITORY}",
            "DEVOPSGPT_HOME": str(tmp_path / "home"),
        }
        return subprocess.run(
            [sys.executable, "-m", "devopsgpt_pipeline.cli", *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_help_needs_no_package_of_the_pipeline(run_without):
    told = run_without(PIPELINES, "--help")
    assert told.returncode == 0, told.stderr
    assert "finetune" in told.stdout


@pytest.mark.parametrize("command", [["run"], ["lineage"], ["evaluate", "gpt2"]])
def test_a_command_names_the_extra_that_it_needs(run_without, command):
    told = run_without(PIPELINES + " mlflow", *command)
    assert told.returncode == 1
    assert told.stderr.startswith("Error: this command needs packages that are not installed (")
    assert told.stderr.endswith("pip install 'devopsgpt[pipeline]'\n")


def test_serve_names_its_own_extra(run_without):
    told = run_without("fastapi", "serve")
    assert told.returncode == 1
    assert "pip install 'devopsgpt[serving]'" in told.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The content of our wheel, as pip unpacks it."""
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (wheel,) = place.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "installed")
    return place / "installed"


def test_a_wheel_carries_what_dagster_is_started_with(installed, tmp_path):
    program = "from devopsgpt_pipeline.local.servers import shipped; print(*map(shipped, {}))"
    told = subprocess.run(
        [sys.executable, "-c", program.format(("dagster.yaml", "workspace.yaml"))],
        env=os.environ | {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    for name, place in zip(("dagster.yaml", "workspace.yaml"), told.stdout.split(), strict=True):
        assert place == str(installed / "devopsgpt_pipeline" / name)
        with open(place) as shipped:
            assert shipped.read() == (REPOSITORY / name).read_text()
    for name in ("openai/templates/plain.jinja", "playground/index.html"):
        assert (installed / "devopsgpt_serving" / "api" / name).is_file()


def test_the_packages_metadata_is_complete(installed):
    (written,) = installed.glob("devopsgpt-*.dist-info/METADATA")
    told = email.message_from_string(written.read_text())
    assert told["Summary"]
    assert told["License-Expression"] == "MIT"
    assert told["Keywords"]
    assert "Programming Language :: Python :: 3.14" in told.get_all("Classifier")
