"""No regular expression of the project takes more than linear time, on any text."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from attack.pipeline.hostile_text import hostile, patterns
from attack.programs import environment
from devopsgpt_pipeline.sources.books import read_pattern

PACKAGES = ("devopsgpt_model", "devopsgpt_pipeline", "devopsgpt_serving")
TRUSTED = {"devopsgpt_serving/api/pages.py": "reads only the pages that the service ships"}
PROGRAM = """
import faulthandler, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from attack.pipeline.hostile_text import hostile, patterns, use
trusted = sys.argv[3:]
for place, (pattern, methods) in patterns(Path(sys.argv[1]), sys.argv[2]).items():
    if place.rpartition(":")[0] in trusted:
        continue
    for size in (10, 30, 100, 1_000, 10_000, 100_000):
        for text in hostile(pattern, size):
            harmless = type(text)(b"a1 " if isinstance(text, bytes) else "a1 ") * (len(text) // 3)
            for method in methods:
                started = time.perf_counter()
                use(pattern, method, harmless)
                usual_s = time.perf_counter() - started
                print(place, size, method, repr(text[:60]), flush=True)
                # ends the process, also while re holds the interpreter; less is the machine's noise
                faulthandler.dump_traceback_later(max(2.0, 100 * usual_s), exit=True)
                use(pattern, method, text)
                faulthandler.cancel_dump_traceback_later()
print("whole")
"""


def searched(folder: Path, package: str, *trusted: str) -> str:
    """The last line of a process that tries each pattern of a package: "whole", or what it was at
    when it was killed."""
    command = [sys.executable, "-c", PROGRAM, str(folder), package, *trusted]
    answer = subprocess.run(command, env=environment(), capture_output=True, text=True)
    lines = answer.stdout.splitlines()
    assert lines, answer.stderr
    assert (answer.returncode == 0) == (lines[-1] == "whole"), answer.stderr
    return lines[-1]


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES)
def test_every_pattern_takes_linear_time(package, tried):
    last = searched(REPOSITORY, package, *TRUSTED)
    assert last == "whole"
    count = len(patterns(REPOSITORY, package))
    tried(f"{count} patterns of {package} on hostile text up to 100 kB", "each in linear time")


SLOW = {
    "exponential": r"(<!--.*?-->\s*)*$",
    "the classic": r"^(a+)+$",
    "quadratic": r"[0-9+-]*[0-9][0-9+-]*|n",
    "a name and its rest": r"<(/?)([a-zA-Z][a-zA-Z0-9]*)([^<>]*)>",
    "spaces twice": r"x\s*:?\s*y",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", SLOW)
def test_a_pattern_that_takes_longer_is_found(what, tmp_path, tried):
    package = tmp_path / "hasty"
    package.mkdir()
    (package / "__init__.py").touch()
    flags = ", re.DOTALL" if what == "exponential" else ""
    method = "fullmatch" if what == "quadratic" else "search"
    (package / "module.py").write_text(
        f"import re\n\nSLOW = re.compile({SLOW[what]!r}{flags})\nFOUND = SLOW.{method}('')\n"
    )
    last = searched(tmp_path, "hasty")
    assert last.startswith("hasty/module.py:3")
    tried(f"{SLOW[what]} ({what})", f"killed at {last.partition(' ')[2]}")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_pattern_is_made_in_a_way_that_is_not_seen(package):
    """Compared by ==: re forgets what it compiled, and compiles it anew."""
    found = [pattern for pattern, _ in patterns(REPOSITORY, package).values()]
    assert found
    made = [
        (name, key, value)
        for name, module in list(sys.modules.items())
        if name.startswith(package)
        for key, value in vars(module).items()
        if isinstance(value, re.Pattern)
    ]
    assert [each for each in made if each[2] not in found] == []


def test_what_is_trusted_is_there():
    assert [path for path in TRUSTED if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("what", ["exponential", "the classic", "spaces twice"])
def test_a_pattern_of_a_users_book_takes_linear_time(what, tried):
    """The same patterns, in RE2; the test's own time limit would end them in re."""
    for size in (100, 10_000, 100_000):
        for text in hostile(re.compile(SLOW[what]), size):
            read_pattern(SLOW[what]).search(text)
            read_pattern(SLOW[what], any_case=True).search(text)
    tried(f"{SLOW[what]} in a book's TOML, 100 kB", "linear time")
