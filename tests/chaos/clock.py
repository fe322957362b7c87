"""A clock that can be moved for one process and its children alone."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """environment: what a process needs to be started with to go by it."""

    def __init__(self, place):
        if not shutil.which("cc"):
            pytest.skip("no C compiler: the clock cannot be moved for one process alone")
        library, self.file = place / "clock.so", place / "clock"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, SOURCE, "-ldl"],
            check=True,
        )
        self.file.write_bytes(struct.pack("q", 0))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(self.file)}

    def move(self, seconds):
        move(self.file, seconds)


def move(file, seconds):
    """Set a clock that many seconds ahead of the machine's, or behind it."""
    with open(file, "r+b") as content:
        content.write(struct.pack("q", seconds))
