from importlib.metadata import version

import pytest

from pipeline.commands.running import invoke

COMMANDS = [
    "run",
    "up",
    "sample",
    "finetune",
    "evaluate",
    "benchmark",
    "serve",
    "history",
    "leaderboard",
    "lineage",
    "export",
    "promote",
    "rollback",
    "backup",
    "restore",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    answer = invoke(command, "--help")
    assert answer.exit_code == 0
    assert len(answer.output) > 200
    assert command in invoke("--help").output


def test_version_is_the_packages():
    assert invoke("--version").output.split()[-1] == version("devopsgpt")


def test_serve_tells_host_port_and_keys():
    told = invoke("serve", "--help").output
    for option in ("--host", "--port", "--api-keys-file", "--tracking-uri"):
        assert option in told
