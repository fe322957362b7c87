"""The only wiring: profile and places from the environment, assets, checks, jobs and schedules from
their rooms."""

import os
import warnings
from typing import Any

import dagster as dg

from devopsgpt_model.tracking import DEFAULT_TRACKING_URI
from devopsgpt_pipeline.datasets.folder import folders_from_environment
from devopsgpt_pipeline.defs.automation import DAILY, ON_CHANGE, ON_CHANGE_SENSOR, Timetable
from devopsgpt_pipeline.defs.baselines import build_gpt2_baseline
from devopsgpt_pipeline.defs.checks import CHECKS
from devopsgpt_pipeline.defs.datasets import (
    build_token_bins,
    build_token_bins_folder,
    token_bins_openwebtext,
    token_bins_shakespeare,
)
from devopsgpt_pipeline.defs.evaluation import evaluation
from devopsgpt_pipeline.defs.leaderboard import leaderboard
from devopsgpt_pipeline.defs.pretrained import pretrained_gpt2
from devopsgpt_pipeline.defs.registry import champion, registered_model
from devopsgpt_pipeline.defs.resources import (
    HomeResource,
    MlflowResource,
    WebResource,
    launcher_from_environment,
)
from devopsgpt_pipeline.defs.sources import build_book_site, build_chapters
from devopsgpt_pipeline.defs.text import build_clean_text
from devopsgpt_pipeline.defs.training import build_finetuned_checkpoint, build_sweep_trial
from devopsgpt_pipeline.home import Home, make_temporary_folder
from devopsgpt_pipeline.operations.retention_job import RETENTION_DAILY, retention
from devopsgpt_pipeline.profiles import Profile, profile_from_environment
from devopsgpt_pipeline.sources.books import Book, books_from_environment

# Observed sources and live Pipes messages are beta in Dagster; what is used of them is pinned and
# tested.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def build_definitions(
    profile: Profile,
    books: list[Book],
    home: Home,
    tracking_uri: str,
    ui_url: str,
    timetable: Timetable = DAILY,
) -> dg.Definitions:
    """Everything that Dagster knows, for one profile and its books."""
    sites = [build_book_site(book) for book in books]
    site_keys = [key for site in sites for key in site.keys]
    assets = [
        *(build_chapters(book) for book in books),
        *(build_clean_text(book) for book in books),
        build_token_bins(profile, books),
        build_finetuned_checkpoint(profile),
        evaluation,
        registered_model,
        champion,
    ]
    assets = [_automated(asset, timetable) for asset in assets]
    folders = folders_from_environment()
    more_bins = [
        token_bins_shakespeare,
        token_bins_openwebtext,
        *(build_token_bins_folder(name, folder) for name, folder in folders.items()),
    ]
    gpt2_baseline = build_gpt2_baseline(["sre", "shakespeare", "openwebtext", *folders])
    observe_books = _job(
        "observe_books", "Look whether the books have changed at their sites.", *site_keys
    )
    return dg.Definitions(
        assets=[*sites, pretrained_gpt2, *more_bins, gpt2_baseline, leaderboard, *assets],
        asset_checks=CHECKS,
        jobs=[
            observe_books,
            *_jobs_by_hand(assets, more_bins),
            build_sweep_trial(profile),
            retention,
        ],
        schedules=[
            dg.ScheduleDefinition(
                name="observe_books_daily",
                job=observe_books,
                cron_schedule=timetable.observe,
                default_status=dg.DefaultScheduleStatus.RUNNING,
            ),
            RETENTION_DAILY,
        ],
        sensors=[ON_CHANGE_SENSOR],
        resources=_resources(home, tracking_uri, ui_url),
    )


def _jobs_by_hand(chain: list[Any], more_bins: list[Any]) -> list[Any]:
    """What a person, or `devopsgpt run`, starts."""
    return [
        # A run carries one partition key, and the chain has none: the weights to start from have a
        # job of their own.
        _job("fetch_pretrained_gpt2", "Fetch OpenAI's weights of one size.", pretrained_gpt2),
        _job("datasets", "Token bins of the datasets besides the books.", *more_bins),
        _job(
            "whole_chain",
            "From the books' chapters to the champion and the leaderboard.",
            *chain,
            leaderboard,
        ),
    ]


def _job(name: str, description: str, *selected: Any) -> Any:
    return dg.define_asset_job(name, dg.AssetSelection.assets(*selected), description=description)


def _resources(home: Home, tracking_uri: str, ui_url: str) -> dict[str, Any]:
    return {
        "home": HomeResource(path=str(home.path)),
        "mlflow": MlflowResource(tracking_uri=tracking_uri, ui_url=ui_url),
        "launcher": launcher_from_environment(home),
        "web": WebResource(contact=os.environ.get("DEVOPSGPT_CONTACT", "")),
    }


def _automated(asset: dg.AssetsDefinition, timetable: Timetable) -> dg.AssetsDefinition:
    trained = asset.key == dg.AssetKey("finetuned_checkpoint")
    condition = timetable.training_condition if trained else ON_CHANGE
    return asset.map_asset_specs(
        lambda spec: spec.replace_attributes(automation_condition=condition)
    )


def _from_environment() -> dg.Definitions:
    make_temporary_folder()
    profile = profile_from_environment()
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_TRACKING_URI
    ui_url = os.environ.get("DEVOPSGPT_MLFLOW_UI_URL") or tracking_uri
    books = books_from_environment(profile.name)
    home, timetable = Home.from_environment(), Timetable.from_environment()
    return build_definitions(profile, books, home, tracking_uri, ui_url, timetable)


defs = _from_environment()
