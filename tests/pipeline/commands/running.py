"""A command in this process."""

from click.testing import CliRunner

from devopsgpt_pipeline.cli import main


def invoke(*arguments, **environment):
    return CliRunner().invoke(main, arguments, env=environment)
