"""Programs of a process of their own, which can be killed: what a test runs beside itself."""

import os

from conftest import REPOSITORY


def environment():
    """Ours, with the project and its tests on the path."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    }
