"""The only wiring: settings from the environment, assets, checks, jobs and schedules from their
rooms."""

import warnings
from typing import Any

import dagster as dg

from devopsgpt_pipeline.datasets.folder import ON_DEMAND, parse_text_folders
from devopsgpt_pipeline.defs.automation import (
    ON_CHANGE,
    check_cron,
    observe_daily,
    on_change_sensor,
    training_condition,
)
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
    build_launcher,
)
from devopsgpt_pipeline.defs.sources import build_book_site, build_chapters
from devopsgpt_pipeline.defs.text import build_clean_text
from devopsgpt_pipeline.defs.training import build_finetuned_checkpoint, build_sweep_trial
from devopsgpt_pipeline.home import BOOKS
from devopsgpt_pipeline.operations.retention_job import RETENTION_DAILY, retention
from devopsgpt_pipeline.profiles import Profile, chosen_profile
from devopsgpt_pipeline.settings import Settings, read_settings
from devopsgpt_pipeline.sources.books import Book, books_of_profile

# Observed sources and live Pipes messages are beta in Dagster; what is used of them is pinned and
# tested.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def build_definitions(settings: Settings, profile: Profile, books: list[Book]) -> dg.Definitions:
    """Everything that Dagster knows, for one profile and its books.

    raises: ValueError for a setting that cannot be used
    """
    check_cron("DEVOPSGPT_OBSERVE_CRON", settings.observe_cron)
    if settings.retrain_cron:
        check_cron("DEVOPSGPT_RETRAIN_CRON", settings.retrain_cron)
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
    assets = [_automated(asset, settings.retrain_cron) for asset in assets]
    folders = parse_text_folders(settings.text_folders)
    more_bins = [
        token_bins_shakespeare,
        token_bins_openwebtext,
        *(build_token_bins_folder(name, folder) for name, folder in folders.items()),
    ]
    gpt2_baseline = build_gpt2_baseline([BOOKS, *ON_DEMAND, *folders])
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
            observe_daily(observe_books, settings.observe_cron),
            RETENTION_DAILY,
        ],
        sensors=[on_change_sensor()],
        resources=_resources(settings),
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


def _resources(settings: Settings) -> dict[str, Any]:
    uri = settings.tracking_server
    return {
        "home": HomeResource(path=str(settings.home)),
        "mlflow": MlflowResource(tracking_uri=uri, ui_url=settings.mlflow_ui_url or uri),
        "launcher": build_launcher(settings),
        "web": WebResource(contact=settings.contact, hub_endpoint=settings.hub_endpoint),
    }


def _automated(asset: dg.AssetsDefinition, retrain_cron: str) -> dg.AssetsDefinition:
    trained = asset.key == dg.AssetKey("finetuned_checkpoint")
    condition = training_condition(retrain_cron) if trained else ON_CHANGE
    return asset.map_asset_specs(
        lambda spec: spec.replace_attributes(automation_condition=condition)
    )


def _from_environment() -> dg.Definitions:
    settings = read_settings()
    if settings.tmpdir:  # where it is missing, Python takes /tmp and does not say so
        settings.tmpdir.mkdir(parents=True, exist_ok=True)
    profile = chosen_profile(settings)
    return build_definitions(settings, profile, books_of_profile(profile.name, settings.books))


defs = _from_environment()
