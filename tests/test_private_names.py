"""The table of private names in docs/decisions.md is whole, and true."""

import ast
import re

from conftest import REPOSITORY

PACKAGES = ("devopsgpt_model", "devopsgpt_pipeline", "devopsgpt_serving")
# Documented all the same: named tuples', ctypes' and os' own.
PUBLIC = {"_replace", "_asdict", "_fields", "_fields_", "_exit"}
OWN = {"self", "cls"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def private_names(tree):
    """What a module imports from private modules of others, and the private attributes of objects
    that are not its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.module.startswith(PACKAGES):
            for alias in node.names:
                if any(map(is_private, [*node.module.split("."), alias.name])):
                    yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = ast.unparse(node.value)
            if owner not in OWN and owner != "super()":
                yield ast.unparse(node)


def rows():
    """file, names, cell of the test; of the table's rows."""
    page = (REPOSITORY / "docs" / "decisions.md").read_text()
    table = page.split("## Private names of dependencies")[1].split("\n## ")[0]
    for line in table.splitlines():
        if line.startswith("| `"):
            names, file, _, test = [cell.strip() for cell in line.strip("|").split("|")]
            yield file.strip("`"), re.findall(r"`([^`]+)`", names), test


def test_the_table_has_every_private_name():
    found = {
        (str(path.relative_to(REPOSITORY)), name)
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        for name in private_names(ast.parse(path.read_text()))
    }
    assert len(found) > 5
    listed = {(file, name) for file, names, _ in rows() for name in names}
    assert found - listed == set()


def test_what_the_table_names_is_there():
    for file, names, test in rows():
        source = (REPOSITORY / file).read_text()
        assert [name for name in names if name.rpartition(".")[2] not in source] == []
        for path in re.findall(r"`(tests/[^`]+)`", test):
            assert (REPOSITORY / path).exists(), path
        assert "`tests/" in test or "mypy" in test
