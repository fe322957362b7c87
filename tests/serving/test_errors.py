"""The service's exceptions: light enough for whatever raises or compares them."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "light"),
    [("errors", ("torch", "fastapi")), ("api.api_keys", ("torch",))],
)
def test_importing_it_loads_nothing_heavy(module, light):
    code = f"""
import sys
import devopsgpt_serving.{module}
print([name for name in {light} if name in sys.modules])
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
