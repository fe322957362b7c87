"""`devopsgpt run` and `finetune`: the chain, once."""

import click

from devopsgpt_model.config import changed, describe
from devopsgpt_pipeline.commands.errors import report_errors
from devopsgpt_pipeline.commands.table import print_table
from devopsgpt_pipeline.home import BOOKS, Home
from devopsgpt_pipeline.profiles import chosen_profile
from devopsgpt_pipeline.settings import read_settings


@click.command()
@click.option(
    "--question",
    default="When the pager rings,",
    show_default=True,
    help="What the service is asked.",
)
@report_errors
def run(question: str) -> None:
    """Run the whole chain once, ask the service a question, print its answer.

    Observes the books, then makes whatever is out of date: chapters, clean text, token bins, the
    fine-tuned checkpoint, its evaluation, the registered model, the champion. Run again, it redoes
    only what changed.
    """
    from devopsgpt_pipeline.local.question import ask
    from devopsgpt_pipeline.local.session import bring_up_to_date

    settings = read_settings()
    home = Home(settings.home).prepare()
    with bring_up_to_date(home, chosen_profile(settings)) as tracking_uri:
        ask(home, tracking_uri, question)


@click.command()
@click.argument("preset")
@click.option(
    "-s",
    "--set",
    "changes",
    multiple=True,
    metavar="NAME=VALUE",
    help="A training setting; repeatable.",
)
@click.option(
    "--sweep",
    "axes",
    multiple=True,
    metavar="NAME=A,B,...",
    help="Try each value; repeatable for a grid.",
)
@click.option(
    "--dataset",
    default=BOOKS,
    show_default=True,
    help="What to train on: books or shakespeare.",
)
@click.option(
    "--list-settings",
    is_flag=True,
    help="Print every setting of PRESET with its value and unit, and stop.",
)
@report_errors
def finetune(
    preset: str, changes: tuple[str, ...], axes: tuple[str, ...], dataset: str, list_settings: bool
) -> None:
    """Fine-tune with the settings of PRESET and put the result through the gate.

    Presets: sample, train_sre_cpu, finetune_sre_small, finetune_sre, finetune_shakespeare,
    finetune_sre_small_muon, finetune_sre_muon, finetune_shakespeare_muon. What comes before
    training is brought up to date first; what comes after it (evaluation, registry, promotion)
    follows.

    With --sweep every combination is trained, as child runs of one MLflow run, and the best goes
    on; the same command goes on with a sweep that was cut short.
    """
    config = changed(preset, changes)
    if list_settings:
        click.echo(describe(config))
        return
    from devopsgpt_pipeline.local.grid import grid
    from devopsgpt_pipeline.local.session import finetune_once, finetune_sweep

    trials = grid(preset, changes, axes) if axes else []
    settings = read_settings()
    home, profile = Home(settings.home).prepare(), chosen_profile(settings)
    if not trials:
        finetune_once(home, profile, config, dataset)
        return
    outcomes = finetune_sweep(home, profile, preset, trials, dataset)
    print_table([outcome.row() for outcome in outcomes])
    click.echo(f"best: {outcomes[0].trial.name}")
