"""Each file of a finished home deleted, or cut: a run makes it anew or says what is wrong in one
sentence. What is served in the end is never another thing."""

import fnmatch
import itertools
import os
import random

import pytest

from attack.pipeline import homes
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.local.up_lock import sole_up

# One file of each kind is damaged; their patterns cover every file of a finished home.
KINDS = [
    *("mlflow/mlflow.db", "mlflow/artifacts/*/models/*/MLmodel"),
    "mlflow/artifacts/*/models/*/manifest.json",
    *(
        f"mlflow/artifacts/*/models/*/model/{name}"
        for name in ("model.safetensors", "config.json", "to*.json", "[!mct]*.json", "tr*.json")
    ),
    *(
        f"mlflow/artifacts/*/models/*/model/{name}"
        for name in ("README.md", "LICENSE", "loss_curve.png")
    ),
    *("dagster/dagster.yaml", "dagster/history/runs.db", "dagster/history/runs/index.db"),
    *("dagster/history/runs/*-*.db", "dagster/schedules/schedules.db"),
    *("chapters/*/manifest.json", "chapters/*/history.json", "chapters/*/seen/index.json"),
    *("chapters/*/seen/*.html", "chapters/*/*.html", "text/*/manifest.json", "text/*/*.txt"),
    *("tokens/.books.*/meta.json", "tokens/.books.*/train.bin", "tokens/.books.*/val.bin"),
    *("tokens/.books.*/tokenizer.json", "tokens/.books.*/tokenizer_config.json", "tokens/books"),
    *("checkpoints/evaluation.json", "checkpoints/finetuned"),
    *(
        f"checkpoints/.finetuned.*/{name}"
        for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
    ),
    *("checkpoints/.finetuned.*/generation_config.json", "checkpoints/.finetuned.*/training.json"),
    *("checkpoints/.finetuned.*/lineage.json", "leaderboard", ".leaderboard.*/*"),
]
# Nothing rests on these: locks, logs, pictures beside a run.
LOOSE = [
    "*.lock",
    "logs/*",
    "dagster/storage/*",
    "mlflow/artifacts/*/artifacts/*.md",
]
LOOSE += ["mlflow/artifacts/*/artifacts/*.png", "chapters/library"]
# MLflow's own flavor reads these, and nothing of ours
LOOSE += ["mlflow/artifacts/*/components/tokenizer/*", "checkpoints/*/loss_curve.png"]
QUICK = [
    ("mlflow/mlflow.db", "deleted"),
    ("mlflow/artifacts/*/models/*/model/model.safetensors", "cut"),
]


def files_of(home):
    """Every file and link, by its name in the home."""
    return sorted(
        path.relative_to(home).as_posix()
        for path in home.rglob("*")
        if path.is_symlink() or path.is_file()
    )


def kind_of(name):
    return next((kind for kind in [*KINDS, *LOOSE] if fnmatch.fnmatch(name, kind)), None)


def damage(path, how):
    if how == "deleted" or path.is_symlink():
        path.unlink()
    elif how == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[: size // 2] + bytes(size - size // 2))


def judge(ended, champion):
    """The right champion, or one sentence. returns: which of them, for the table"""
    assert "Traceback" not in ended.output, ended.output
    if ended.status == 0:
        assert ended.champion == champion, ended.output
        anew = [line for line in ended.output.splitlines() if "to be made anew" in line]
        return f"made anew ({anew[0].strip()[:150]})" if anew else "nothing rests on it"
    assert ended.error, ended.output
    assert len(ended.error.splitlines()) == 1, ended.error
    return f"told: {ended.error}"


def attack(kind, how, home, champion, tried):
    found = [name for name in files_of(home) if kind_of(name) == kind]
    assert found, f"the finished home has no {kind}"
    name = random.Random(f"{kind} {how}").choice(found)
    damage(home / name, how)
    with sole_up(Home(home), []):  # a run beside `up` is no second `up`
        tried(f"{how}: {name}", judge(homes.run(home), champion))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "how"), QUICK)
def test_a_damaged_file_never_leads_to_a_wrong_champion(kind, how, home, finished, tried):
    attack(kind, how, home, finished[1], tried)


# each kind one way, and each way for a third of the kinds: all of them would take an hour
WAYS = itertools.cycle(["deleted", "cut", "replaced"])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "how"), list(zip(KINDS, WAYS, strict=False)))
def test_no_damaged_file_leads_to_a_wrong_champion(kind, how, home, finished, tried):
    attack(kind, how, home, finished[1], tried)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_nothing_rests_on_may_all_be_deleted(home, finished, tried):
    names = files_of(home)
    assert [name for name in names if kind_of(name) is None] == []
    loose = [name for name in names if kind_of(name) in LOOSE]
    for name in loose:
        (home / name).unlink()
    ended = homes.run(home)
    tried(f"deleted: {len(loose)} logs, locks and pictures", judge(ended, finished[1]))
    assert ended.status == 0
