"""Marks every test here `attack`; `make attack` prints what each tried and what happened."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.attack)


@pytest.fixture
def tried(request):
    """`tried(what, happened)`: a row of the table that `make attack` prints at its end."""

    def record(what: str, happened: str) -> None:
        request.node.user_properties.append(("tried", [what, happened]))

    return record


def pytest_terminal_summary(terminalreporter):
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call"
    ]
    rows = [row for report in reports for name, row in report.user_properties if name == "tried"]
    if rows:
        terminalreporter.section("what was tried, and what happened")
        for what, happened in rows:
            terminalreporter.write_line(f"{what}: {happened}")
