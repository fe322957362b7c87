"""Servers end with the process that started them, however it ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from devopsgpt_pipeline.local import servers
port = servers.free_port()
log = Path(sys.argv[1])
# a server with a child of its own, as MLflow's has
command = f"[sys.executable, '-m', 'http.server', '{port}', '--bind', '127.0.0.1']"
script = f"import subprocess, sys; subprocess.run({command})"
server = servers.Server("files", [sys.executable, "-c", script], port, "/", log)
with servers.running([server]) as children:
    print(children[0].pid, flush=True)
    time.sleep(0 if sys.argv[2] == "leave" else 60)
"""


def members(group):
    """Processes of a group, those that only wait to be collected left out."""
    answer = subprocess.run(
        ["ps", "-eo", "pgid=,stat=,pid="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split() for line in answer.splitlines()]
    return [row[2] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]


@pytest.mark.parametrize("how", [signal.SIGKILL, "leave"])
def test_servers_end_with_their_parent(tmp_path, how):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "log"), str(how)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    group = int(parent.stdout.readline())
    if how == signal.SIGKILL:
        assert len(members(group)) == 2
        parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 15
    while members(group):
        assert time.monotonic() < deadline, members(group)
        time.sleep(0.05)
