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
