"""`devopsgpt sample`, `evaluate`, `benchmark`, `leaderboard`: what models write, and how good they
are."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from devopsgpt_pipeline.commands.errors import report_errors
from devopsgpt_pipeline.commands.table import print_table
from devopsgpt_pipeline.home import BOOKS, Home
from devopsgpt_pipeline.local.servers import mlflow_for
from devopsgpt_pipeline.settings import read_settings


@click.command()
@click.argument("prompt")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Checkpoint folder; default: the newest fine-tuned one.",
)
@click.option(
    "--samples", default=1, show_default=True, type=click.IntRange(1), help="How many texts."
)
@click.option(
    "--max-tokens",
    default=200,
    show_default=True,
    type=click.IntRange(1),
    help="Length of each, in tokens.",
)
@click.option(
    "--temperature", default=0.8, show_default=True, help="0 takes the most likely token each time."
)
@click.option(
    "--top-k",
    default=200,
    show_default=True,
    help="Draw from the k most likely tokens; 0 for all.",
)
@click.option(
    "--top-p",
    default=1.0,
    show_default=True,
    help="Draw from the most likely tokens that reach this share.",
)
@click.option("--seed", default=1337, show_default=True, help="The same seed gives the same text.")
@report_errors
def sample(
    prompt: str, checkpoint: Path | None, samples: int, max_tokens: int, seed: int, **sampling: Any
) -> None:
    """Continue PROMPT with a checkpoint, without any server."""
    from devopsgpt_model.checkpoint import load_checkpoint
    from devopsgpt_model.device import choose_device
    from devopsgpt_model.generate import generate_text

    folder = checkpoint or Home(read_settings().home).finetuned
    loaded = load_checkpoint(folder, str(choose_device()))
    for number in range(samples):
        text = generate_text(
            loaded.model, loaded.tokenizer, prompt, max_tokens, seed=seed + number, **sampling
        )
        click.echo(prompt + text)
        if number + 1 < samples:
            click.echo("---------------")


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--dataset",
    "datasets",
    default=[BOOKS],
    show_default=True,
    multiple=True,
    help="Token bins; repeatable.",
)
@click.option(
    "--batches",
    default=500,
    show_default=True,
    help="Random batches by nanoGPT's protocol; 0: none.",
)
@click.option(
    "--documents",
    default=0,
    type=click.IntRange(0),
    help="Where openwebtext has to be made: its first documents only; default: all, 54 GB of text.",
)
@report_errors
def evaluate(
    models: tuple[str, ...], datasets: tuple[str, ...], batches: int, documents: int
) -> None:
    """Train and val loss, perplexity and bits per byte of each MODEL on each dataset, beside
    published values.

    MODEL is a size of GPT-2 (gpt2, gpt2-medium, gpt2-large, gpt2-xl; fetched where it is not here),
    a checkpoint folder, a version or alias of the registered model, or an MLflow run; without one
    it is the newest fine-tuned checkpoint. A fine-tune is measured beside the weights that it
    started from, and what is measured is kept in the model's MLflow run. A dataset beside the books
    is made where it is not here.
    """
    from devopsgpt_pipeline.datasets.folder import ON_DEMAND, parse_text_folders
    from devopsgpt_pipeline.evaluation.evaluate import evaluate_models
    from devopsgpt_pipeline.evaluation.named_models import needs_mlflow

    settings = read_settings()
    home = Home(settings.home)
    made_on_demand = (*ON_DEMAND, *parse_text_folders(settings.text_folders))
    names = list(models) or [str(home.finetuned)]
    missing = [
        name
        for name in datasets
        if name in made_on_demand and not (home.bins(name) / "meta.json").exists()
    ]
    with mlflow_for(settings) if any(map(needs_mlflow, names)) else nullcontext() as uri:
        if missing:
            from devopsgpt_pipeline.local.session import make_datasets

            of = {
                name: {"documents": documents} if name == "openwebtext" else {} for name in missing
            }
            make_datasets(home.prepare(), uri, of)
        rows = evaluate_models(home, uri, names, list(datasets), batches, _say)
    print_table(rows)


@click.command()
@click.argument("model", required=False)
@click.option(
    "--tasks",
    default="lambada_openai,wikitext,hellaswag",
    show_default=True,
    help="The harness's names.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with local copies (lambada_openai.jsonl, wikitext2_raw_test.txt, "
    "hellaswag_val.jsonl): no network.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    help="Only the first rows of each task; nothing is logged then.",
)
@click.option(
    "--batch-size",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Sequences at a time.",
)
@report_errors
def benchmark(
    model: str | None, tasks: str, data: Path | None, limit: int | None, batch_size: int
) -> None:
    """Standard benchmarks of MODEL by EleutherAI's lm-evaluation-harness, beside published values.

    MODEL is named as for `evaluate`. Needs the extra lm-eval. What is measured is kept in the
    model's MLflow run.
    """
    from devopsgpt_pipeline.evaluation.benchmark import benchmark_model
    from devopsgpt_pipeline.evaluation.named_models import needs_mlflow

    settings = read_settings()
    home = Home(settings.home)
    name = model or str(home.finetuned)
    with mlflow_for(settings) if needs_mlflow(name) else nullcontext() as uri:
        rows = benchmark_model(home, uri, name, tasks.split(","), data, limit, batch_size, _say)
    print_table(rows)


@click.command()
@report_errors
def leaderboard() -> None:
    """Every model that was measured, the best first: baselines and fine-tunes on each dataset,
    published values beside.

    The asset `leaderboard` writes the same table and a picture of it to DEVOPSGPT_HOME/leaderboard.
    """
    from devopsgpt_pipeline.evaluation.leaderboard import read_leaderboard
    from devopsgpt_pipeline.tracking.client import connect

    board = read_leaderboard(connect(read_settings().tracking_server))
    if not board.entries:
        raise ValueError("nothing was measured yet; run the chain, or materialize gpt2_baseline")
    for part in board.parts():
        print_table(part)
    for note in board.notes():
        click.echo(note)


def _say(line: str) -> None:
    click.echo(line, err=True)
