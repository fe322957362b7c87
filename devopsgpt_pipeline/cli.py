"""The command line: `devopsgpt COMMAND`, its commands gathered from the room `commands`."""

import click

from devopsgpt_pipeline.commands import books, chain, home, models, registry, servers


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="devopsgpt", message="%(prog)s %(version)s")
def main() -> None:
    """Train, judge and serve a GPT-2 on books about running services, as software-defined assets.

    Everything is written under DEVOPSGPT_HOME (default: .devopsgpt). DEVOPSGPT_PROFILE chooses
    between `sample` (two small books that come along, no network, minutes on a laptop) and `sre`
    (Google's two SRE books and OpenAI's GPT-2, for a GPU).
    """


for command in (
    chain.run,
    chain.finetune,
    servers.up,
    servers.serve,
    models.sample,
    models.evaluate,
    models.benchmark,
    models.leaderboard,
    registry.promote,
    registry.rollback,
    registry.lineage,
    registry.export,
    books.history,
    home.backup,
    home.restore,
):
    main.add_command(command)


if __name__ == "__main__":  # where the package is not installed: in a container
    main()
