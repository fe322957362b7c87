"""The command line: `devopsgpt run | up | sample | finetune | evaluate | benchmark | leaderboard |
serve | history`, and for the registry and the home `lineage | promote | rollback | backup |
restore`."""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import click

from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.profiles import profile_from_environment

DAGSTER_PORT, MLFLOW_PORT, SERVING_PORT = 3000, 5000, 8000


def told_in_one_line(command: Callable[..., None]) -> Callable[..., None]:
    """Errors that a person can act on are told in a line, without a traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, RuntimeError, ConnectionError) as error:
            raise click.ClickException(str(error)) from error

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Train, judge and serve a GPT-2 on books about running services, as software-defined assets.

    Everything is written under DEVOPSGPT_HOME (default: .devopsgpt). DEVOPSGPT_PROFILE chooses
    between `sample` (two small books that come along, no network, minutes on a laptop) and `sre`
    (Google's two SRE books and OpenAI's GPT-2, for a GPU).
    """


@main.command()
@click.option(
    "--question",
    default="When the pager rings,",
    show_default=True,
    help="What the service is asked.",
)
@told_in_one_line
def run(question: str) -> None:
    """Run the whole chain once, ask the service a question, print its answer.

    Observes the books, then makes whatever is out of date: chapters, clean text, token bins, the
    fine-tuned checkpoint, its evaluation, the registered model, the champion. Run again, it redoes
    only what changed.
    """
    from devopsgpt_pipeline.local.question import ask
    from devopsgpt_pipeline.local.session import bring_up_to_date

    home = Home.from_environment().prepare()
    with bring_up_to_date(home, profile_from_environment()) as tracking_uri:
        ask(home, tracking_uri, question)


@main.command()
@click.option("--dagster-port", default=DAGSTER_PORT, show_default=True, help="Dagster's web UI.")
@click.option(
    "--mlflow-port", default=MLFLOW_PORT, show_default=True, help="MLflow: runs and registry."
)
@click.option("--service-port", default=SERVING_PORT, show_default=True, help="The service.")
@told_in_one_line
def up(dagster_port: int, mlflow_port: int, service_port: int) -> None:
    """Start Dagster, MLflow and the service over the same home; Ctrl-C stops all three."""
    from devopsgpt_pipeline.local import servers as processes
    from devopsgpt_pipeline.local.environment import configure, workspace_file

    home = Home.from_environment().prepare()
    mlflow = processes.mlflow_server(home, mlflow_port)
    configure(home, mlflow.url, mlflow.url)
    servers = [
        mlflow,
        processes.dagster_server(home, dagster_port, workspace_file()),
        processes.serving_server(home, service_port, mlflow.url),
    ]
    processes.check_ports_free(servers)
    signal.signal(signal.SIGTERM, _interrupt)
    click.echo(f"starting; logs are in {home.logs}")
    try:
        with processes.running(servers) as children:
            for server, what in zip(
                servers, ("runs and registry", "assets and schedules", "the API"), strict=True
            ):
                click.echo(f"  {server.name:<8} {server.url}  {what}")
            click.echo("Ctrl-C stops all three")
            _wait_for_an_end(servers, children)
    except KeyboardInterrupt:
        click.echo("\nstopped")


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _wait_for_an_end(servers: Any, children: Any) -> None:
    while True:
        for server, child in zip(servers, children, strict=True):
            if child.poll() is not None:
                raise RuntimeError(
                    f"{server.name} ended with status {child.returncode}; its log is {server.log}"
                )
        time.sleep(0.5)


@main.command()
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
@told_in_one_line
def sample(
    prompt: str, checkpoint: Path | None, samples: int, max_tokens: int, seed: int, **sampling: Any
) -> None:
    """Continue PROMPT with a checkpoint, without any server."""
    from devopsgpt_model.checkpoint import load_checkpoint
    from devopsgpt_model.device import choose_device
    from devopsgpt_model.generate import generate_text

    loaded = load_checkpoint(checkpoint or Home.from_environment().finetuned, str(choose_device()))
    for number in range(samples):
        text = generate_text(
            loaded.model, loaded.tokenizer, prompt, max_tokens, seed=seed + number, **sampling
        )
        click.echo(prompt + text)
        if number + 1 < samples:
            click.echo("---------------")


@main.command()
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
    default="sre",
    show_default=True,
    help="What to train on: sre (the books) or shakespeare.",
)
@click.option(
    "--list-settings",
    is_flag=True,
    help="Print every setting of PRESET with its value and unit, and stop.",
)
@told_in_one_line
def finetune(
    preset: str, changes: tuple[str, ...], axes: tuple[str, ...], dataset: str, list_settings: bool
) -> None:
    """Fine-tune with the settings of PRESET and put the result through the gate.

    Presets: sample, train_sre_cpu, finetune_sre_small, finetune_sre, finetune_shakespeare. What
    comes before training is brought up to date first; what comes after it (evaluation, registry,
    promotion) follows.

    With --sweep every combination is trained, as child runs of one MLflow run, and the best goes
    on; the same command goes on with a sweep that was cut short.
    """
    from devopsgpt_model.config import changed, describe
    from devopsgpt_pipeline.local.grid import grid
    from devopsgpt_pipeline.local.progress import table
    from devopsgpt_pipeline.local.session import finetune_once, finetune_sweep

    config = changed(preset, changes)
    if list_settings:
        click.echo(describe(config))
        return
    if not axes:
        finetune_once(
            Home.from_environment().prepare(), profile_from_environment(), config, dataset
        )
        return
    trials = grid(preset, changes, axes)
    home, profile = Home.from_environment().prepare(), profile_from_environment()
    outcomes = finetune_sweep(home, profile, preset, trials, dataset)
    table([outcome.row() for outcome in outcomes])
    click.echo(f"best: {outcomes[0].trial.name}")


@main.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--dataset",
    "datasets",
    default=["sre"],
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
@told_in_one_line
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
    from contextlib import nullcontext

    from devopsgpt_pipeline.datasets.folder import ON_DEMAND, folders_from_environment
    from devopsgpt_pipeline.evaluation.evaluate import evaluate_models, mlflow_for
    from devopsgpt_pipeline.evaluation.named_models import needs_mlflow
    from devopsgpt_pipeline.local.progress import table
    from devopsgpt_pipeline.local.session import make_datasets

    home, made_on_demand = Home.from_environment(), (*ON_DEMAND, *folders_from_environment())
    names = list(models) or [str(home.finetuned)]
    missing = [
        name
        for name in datasets
        if name in made_on_demand and not (home.tokens / name / "meta.json").exists()
    ]
    with mlflow_for(home) if any(map(needs_mlflow, names)) else nullcontext() as uri:
        if missing:
            of = {
                name: {"documents": documents} if name == "openwebtext" else {} for name in missing
            }
            make_datasets(home.prepare(), uri, of)
        rows = evaluate_models(
            home, uri, names, list(datasets), batches, lambda line: click.echo(line, err=True)
        )
    table(rows)


@main.command()
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
@told_in_one_line
def benchmark(
    model: str | None, tasks: str, data: Path | None, limit: int | None, batch_size: int
) -> None:
    """Standard benchmarks of MODEL by EleutherAI's lm-evaluation-harness, beside published values.

    MODEL is named as for `evaluate`. Needs the extra lm-eval. What is measured is kept in the
    model's MLflow run.
    """
    from contextlib import nullcontext

    from devopsgpt_pipeline.evaluation.benchmark import benchmark_model
    from devopsgpt_pipeline.evaluation.evaluate import mlflow_for
    from devopsgpt_pipeline.evaluation.named_models import needs_mlflow
    from devopsgpt_pipeline.local.progress import table

    home, name = Home.from_environment(), model or str(Home.from_environment().finetuned)
    with mlflow_for(home) if needs_mlflow(name) else nullcontext() as uri:
        rows = benchmark_model(
            home,
            uri,
            name,
            tasks.split(","),
            data,
            limit,
            batch_size,
            lambda line: click.echo(line, err=True),
        )
    table(rows)


@main.command()
@told_in_one_line
def leaderboard() -> None:
    """Every model that was measured, the best first: baselines and fine-tunes on each dataset,
    published values beside.

    The asset `leaderboard` writes the same table and a picture of it to DEVOPSGPT_HOME/leaderboard.
    """
    from devopsgpt_pipeline.evaluation.leaderboard import read_leaderboard
    from devopsgpt_pipeline.local.progress import table

    board = read_leaderboard(_client())
    if not board.entries:
        raise ValueError("nothing was measured yet; run the chain, or materialize gpt2_baseline")
    for part in board.parts():
        table(part)
    for note in board.notes():
        click.echo(note)


@main.command()
@click.option("--port", default=SERVING_PORT, show_default=True, help="Where the API listens.")
@click.option(
    "--tracking-uri",
    default=None,
    help="MLflow server; default: MLFLOW_TRACKING_URI, else localhost:5000.",
)
@told_in_one_line
def serve(port: int, tracking_uri: str | None) -> None:
    """Serve the registry's champion over HTTP; needs an MLflow server (`devopsgpt up` starts
    one)."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"http://127.0.0.1:{MLFLOW_PORT}"
    os.environ |= {"DEVOPSGPT_SERVING_PORT": str(port), "DEVOPSGPT_SERVING_TRACKING_URI": uri}
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "devopsgpt_serving"])


@main.command()
@click.argument("book")
@click.argument("chapter", required=False)
@click.option(
    "--at",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Print CHAPTER as it was then (UTC).",
)
@told_in_one_line
def history(book: str, chapter: str | None, at: datetime | None) -> None:
    """The versions of BOOK's chapters, or of one CHAPTER, that the archive keeps; with --at, that
    chapter's text.

    A version stays for a year after another one took its place.
    """
    from devopsgpt_pipeline.local.progress import table
    from devopsgpt_pipeline.sources.books import books_from_environment
    from devopsgpt_pipeline.text import history as kept

    home, books = Home.from_environment(), books_from_environment(profile_from_environment().name)
    if at is None:
        table(kept.versions(home.chapters, kept.book_named(book, books), chapter))
    elif chapter is None:
        raise click.UsageError("--at needs a CHAPTER")
    else:
        click.echo(
            kept.text_at(
                home.chapters, kept.book_named(book, books), chapter, at.replace(tzinfo=UTC)
            ),
            nl=False,
        )


@main.command()
@click.argument("version")
@click.option("--reason", required=True, help="Why; kept as a tag of the version.")
@told_in_one_line
def promote(version: str, reason: str) -> None:
    """Make VERSION of the registered model the champion, whatever the gate decided."""
    from devopsgpt_pipeline.registry.promote import promote_by_hand

    promote_by_hand(_client(), version, reason, Home.from_environment().promotion_lock)
    click.echo(f"version {version} is the champion")


@main.command()
@click.option("--reason", required=True, help="Why; kept as a tag of the version.")
@told_in_one_line
def rollback(reason: str) -> None:
    """Make the previous champion the champion again; the service follows within its poll interval.

    The version that is served now becomes the previous one, so a second rollback undoes the first.
    """
    from devopsgpt_pipeline.registry import promote

    version = promote.rollback(_client(), reason, Home.from_environment().promotion_lock)
    click.echo(f"version {version} is the champion again")


@main.command()
@click.argument("version", default="champion")
@click.option(
    "--chapter", metavar="BOOK/SLUG", help="Instead: the versions that learned this chapter."
)
@click.option("--json", "as_json", is_flag=True, help="Print everything that is recorded, as JSON.")
@told_in_one_line
def lineage(version: str, chapter: str | None, as_json: bool) -> None:
    """What VERSION, a number or an alias, was made of: chapters, hashes, settings, initial weights,
    code, runs.

    Without VERSION it is the champion, which is what the service serves. With --chapter it is the
    other way round: which versions learned a chapter, in which form, and whether the archive's
    chapter is still the same.
    """
    from devopsgpt_pipeline.local.progress import table
    from devopsgpt_pipeline.registry import lineage as lineage_view
    from devopsgpt_pipeline.registry.lineage import all_lineages, lineage_of

    if chapter is not None:
        home = Home.from_environment()
        rows = lineage_view.versions_of_chapter(
            all_lineages(_client()), chapter, home.chapters, home.text
        )
        if as_json:
            click.echo(json.dumps(rows, indent=1))
        elif rows:
            table(
                [
                    row | {"content_sha256": row["content_sha256"][: lineage_view.SHORT]}
                    for row in rows
                ]
            )
        else:
            click.echo(f"{chapter} is in the archive, and no version in the registry knew it")
        return
    found = lineage_of(_client(), version)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False))
        return
    click.echo(
        f"version {found.version}" + (f", {', '.join(found.aliases)}" if found.aliases else "")
    )
    for name, value in lineage_view.facts(found):
        click.echo(f"  {name:<34} {value}")
    if rows := lineage_view.chapters(found):
        table(rows)


@main.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--keep",
    type=click.IntRange(1),
    help="Then delete all but the newest in the folder; default: none.",
)
@told_in_one_line
def backup(target: Path, keep: int | None) -> None:
    """Write the whole home (databases, archive, artifacts) to the file TARGET, or into the folder
    TARGET.

    Nothing has to be stopped. Where the environment names PostgreSQL databases, they are in it too.
    """
    from devopsgpt_pipeline.operations.backup import backup as write
    from devopsgpt_pipeline.operations.backup import forget_backups

    if keep and not target.is_dir():
        raise click.UsageError(f"--keep needs a folder of backups, and {target} is none")
    click.echo(f"wrote {write(Home.from_environment(), target)}")
    for path in forget_backups(target, keep) if keep else []:
        click.echo(f"deleted {path}")


@main.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@told_in_one_line
def restore(source: Path) -> None:
    """Bring the backup SOURCE back into DEVOPSGPT_HOME, which must be empty: all of its files, or
    none.

    Every file's hash is checked before anything moves. Where the environment names PostgreSQL
    databases, they must be empty and are filled first, each whole or not at all; an error names
    those that must be emptied to try again.
    """
    from devopsgpt_pipeline.operations.restore import restore as bring_back

    home = Home.from_environment()
    bring_back(source, home)
    click.echo(f"restored {home.path}")


def _client() -> Any:
    from devopsgpt_pipeline.tracking.client import connect

    return connect(os.environ.get("MLFLOW_TRACKING_URI") or f"http://127.0.0.1:{MLFLOW_PORT}")


if __name__ == "__main__":  # where the package is not installed: in a container
    main()
