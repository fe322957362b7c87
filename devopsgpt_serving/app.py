"""Wiring: settings in, a FastAPI application out. Nothing is read or started before create_app()
and its lifespan."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from anyio import to_thread
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from devopsgpt_serving.api import generate, health
from devopsgpt_serving.api.api_keys import ApiKeyMiddleware
from devopsgpt_serving.api.error_answers import install_handlers
from devopsgpt_serving.api.middleware import RequestMiddleware
from devopsgpt_serving.api.openai import chat, completions, models, tokens
from devopsgpt_serving.api.openai.chat_template import open_chat_template
from devopsgpt_serving.api.openapi import describe_settings
from devopsgpt_serving.api.pages import install_pages
from devopsgpt_serving.api.service import Service
from devopsgpt_serving.engine.backlog import Backlog
from devopsgpt_serving.engine.engine import Engine
from devopsgpt_serving.engine.loaded_model import LoadedModel
from devopsgpt_serving.engine.mailbox import Mailbox
from devopsgpt_serving.engine.sequence import Sequence
from devopsgpt_serving.metrics import Metrics
from devopsgpt_serving.settings import Settings
from devopsgpt_serving.tracing import open_tracing
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.alias_follower import AliasFollower
from devopsgpt_serving.versions.cache import VersionCache
from devopsgpt_serving.versions.loading import loader
from devopsgpt_serving.versions.registry import Registry
from devopsgpt_serving.versions.vllm_loading import vllm_loader

DESCRIPTION = """Text from a GPT-2 fine-tuned on books about running services reliably.

The model is whatever version the registry's alias names; `X-Model-Version` on each answer tells \
which one gave it."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service. settings: from the environment where None

    raises: ValueError for a setting out of range or a chat template that is none, OSError for a
    cache folder that cannot be written
    """
    settings = settings or Settings()
    chat_template = open_chat_template(settings.chat_template)
    service = build_service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.mailbox.open(asyncio.get_running_loop())
        service.engine.start()
        service.follower.start()
        yield
        service.draining = True
        service.follower.stop()
        await to_thread.run_sync(service.engine.stop)
        await to_thread.run_sync(service.tracing.close)

    app = FastAPI(
        title="DevopsGPT",
        version=_package_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.chat_template = chat_template
    install_handlers(app)
    for routes in (generate, models, completions, chat, tokens, health):
        app.include_router(routes.router)
    install_pages(app)
    describe_settings(app, service)
    app.add_middleware(
        ApiKeyMiddleware,
        accepted=service.settings.accepted_keys(),
        guarded=service.settings.guarded,
    )
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.settings.cors_origins),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Model-Version", "X-Ignored-Fields", "Retry-After"],
        )
    app.add_middleware(RequestMiddleware, service=service)  # the last is the outermost
    return app


def build_service(settings: Settings) -> Service:
    """Engine, follower and metrics, not yet started."""
    metrics, backlog = Metrics(settings.model_name), Backlog(settings.deadline_s)
    tracing, mailbox = open_tracing(), Mailbox(settings.stream_interval_s)

    def on_token(sequence: Sequence) -> None:
        backlog.token()
        metrics.token(sequence)

    def on_end(sequence: Sequence, reason: str) -> None:
        backlog.drop(sequence)
        metrics.ended(sequence, reason)
        tracing.ended(sequence, reason)

    engine = Engine(
        max_running=settings.max_batch_size,
        max_queue=settings.max_queue,
        prefill_chunk=settings.prefill_chunk,
        on_token=on_token,
        on_end=on_end,
        on_step=mailbox.end_step,
    )
    cache = VersionCache(settings.cache_folder, settings.max_cache_bytes)
    cache.prepare()
    follower = AliasFollower(
        Registry(
            settings.tracking_uri,
            settings.model_name,
            settings.alias,
            settings.registry_timeout_s,
            settings.fetch_timeout_s,
            settings.artifact_prefixes,
        ),
        cache,
        engine,
        _loader(settings),
        poll_interval_s=settings.poll_interval_s,
        poll_jitter=settings.poll_jitter,
        tracing=tracing,
    )
    metrics.watch(engine, follower)
    return Service(settings, engine, follower, metrics, backlog, tracing, mailbox)


def _loader(settings: Settings) -> Callable[[Version, Path], LoadedModel]:
    if settings.engine == "own":
        return loader(settings.device, settings.precision, settings.max_batch_size)
    key, rows = settings.vllm_api_key.get_secret_value(), settings.max_batch_size
    return vllm_loader(settings.vllm_url, key, rows, settings.cache_folder, settings.vllm_start_s)


def _package_version() -> str:
    try:
        return version("devopsgpt")
    except PackageNotFoundError:
        return "0"
