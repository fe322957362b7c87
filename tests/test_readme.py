"""The README tells the truth: what it names is there, and what it says to type works."""

import re
import tomllib

import pytest
from conftest import REPOSITORY

from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.settings import Settings, variable_of
from devopsgpt_pipeline.sources.books import load_book
from devopsgpt_serving.settings import PREFIX as SERVING_PREFIX
from devopsgpt_serving.settings import Settings as ServingSettings

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
MAKEFILE = (REPOSITORY / "Makefile").read_text()


PACKAGES = ("devopsgpt_model", "devopsgpt_pipeline", "devopsgpt_serving")


def tree_paths():
    """Paths of the captioned tree, two spaces a level. A line names one path, or several files and
    then what they are."""
    block = README.split("## What is where")[1].split("## ")[0]
    folder = ""
    for line in block.splitlines():
        if match := re.match(r"    (  )?((?:[\w.-]+(?:/|\.\w+) ?)+)", line):
            indented, names = match.groups()
            first = names.split()[0]
            folder = first if not indented and first.endswith("/") else folder
            for name in names.split():
                yield f"{folder}{name}" if indented else name


def test_the_tree_is_there():
    paths = list(tree_paths())
    assert len(paths) > 40
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


def test_the_tree_names_every_room_and_every_file_at_a_packages_root():
    rooms = {
        f"{path.parent.relative_to(REPOSITORY)}/"
        for name in PACKAGES
        for path in REPOSITORY.glob(f"{name}/*/__init__.py")
    }
    files = {
        str(path.relative_to(REPOSITORY))
        for name in PACKAGES
        for path in REPOSITORY.glob(f"{name}/*.py")
    }
    assert len(rooms) > 10
    assert (rooms | {file for file in files if not file.endswith("__init__.py")}) - set(
        tree_paths()
    ) == set()


def test_the_tree_is_short():
    block = README.split("## What is where")[1].split("## ")[0]
    assert len([line for line in block.splitlines() if line.strip()]) <= 40


def test_its_make_targets_exist():
    targets = set(re.findall(r"(?:^    |`)make ([a-z-]+)", README, re.MULTILINE))
    assert targets >= {"run", "test", "up", "setup"}
    assert [name for name in targets if not re.search(rf"^{name}:", MAKEFILE, re.MULTILINE)] == []


def test_its_commands_exist():
    commands = set(re.findall(r"(?:`|bin/)devopsgpt ([a-z]+)", README))
    assert commands >= {
        "run",
        "up",
        "sample",
        "finetune",
        "evaluate",
        "serve",
        "promote",
        "rollback",
    }
    assert commands <= set(main.commands)


@pytest.mark.parametrize(
    "preset", sorted(set(re.findall(r"devopsgpt\s+finetune\s+([a-z_]+)", README)))
)
def test_its_presets_exist(preset):
    from devopsgpt_model.config import PRESETS

    assert preset in PRESETS


def test_its_pictures_and_files_exist():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert len(links) >= 4
    assert [link for link in links if not (REPOSITORY / link.partition("#")[0]).exists()] == []


def test_its_third_book_loads(tmp_path):
    text = README.split("```toml")[1].split("```")[0]
    text = "\n".join(line.removeprefix("  ") for line in text.splitlines())
    tomllib.loads(text)
    path = tmp_path / "harbour.toml"
    path.write_text(text)
    assert load_book(path).name == "harbour-manual"


def test_its_settings_are_settings():
    from devopsgpt_model.config import TrainingConfig, field_docs

    assert set(re.findall(r"--set ([a-z_]+)=", README)) <= set(field_docs(TrainingConfig))


def test_the_environment_variables_that_it_names_are_settings():
    named = set(re.findall(r"DEVOPSGPT_[A-Z]+(?:_[A-Z]+)*", README))
    ours = {variable_of(field) for field in Settings.model_fields}
    theirs = {SERVING_PREFIX + field.upper() for field in ServingSettings.model_fields}
    assert named - ours - theirs - {SERVING_PREFIX.rstrip("_")} == set()


def test_the_tables_of_variables_name_every_setting_with_its_default():
    pages = README + (REPOSITORY / "docs" / "operations.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \|[^|]*\| *([^|]*?) *\|$", pages, re.MULTILINE))
    fields = {variable_of(name): field for name, field in Settings.model_fields.items()}
    assert set(rows) == set(fields)
    stated = {name: default for name, default in rows.items() if default.startswith("`")}
    assert len(stated) >= 6
    assert stated == {name: f"`{fields[name].default}`" for name in stated}


def test_its_schedule_and_jobs_exist():
    wiring = ("definitions.py", "defs/automation.py")
    source = "".join((REPOSITORY / "devopsgpt_pipeline" / file).read_text() for file in wiring)
    for name in ("observe_books_daily", "on_change", "whole_chain"):
        assert f"`{name}`" in README or f"*Jobs > {name}*" in README
        assert f'"{name}"' in source
    assert Settings.model_fields["observe_cron"].default == "17 4 * * *"
    assert "04:17 UTC" in README


def test_its_routes_are_served():
    from devopsgpt_serving.app import create_app

    paths = set(create_app(ServingSettings()).openapi()["paths"]) | {"/", "/docs", "/metrics"}
    named = set(re.findall(r"`(?:GET|POST) (/[^`]*)`", README))
    assert len(named) >= 5
    assert named <= paths


def test_nothing_is_left_to_fill_in():
    assert "<!--" not in README


def test_no_path_of_a_machine_is_named():
    for path in [
        REPOSITORY / "README.md",
        *(REPOSITORY / "docs").glob("*.md"),
        REPOSITORY / "CHANGELOG.md",
    ]:
        assert not re.search(r"(/work/|/root/|/home/|/tmp/)", path.read_text()), path


def test_each_row_of_the_threat_model_names_what_shows_it():
    text = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    table = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    assert table[0][5].strip() == "Shown by"
    for row in table[1:]:
        shown = re.findall(r"`([^`]+)`", row[5])
        assert shown, f"nothing shows {row[1].strip()!r}"
        for what in shown:
            assert what == "make audit" or (REPOSITORY / what).is_file(), what
