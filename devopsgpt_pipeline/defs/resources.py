"""What assets are given: places and services, never values of their own."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from devopsgpt_model.tracking import without_login
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.settings import Settings
from devopsgpt_pipeline.sources.books import Book
from devopsgpt_pipeline.sources.web.fetch import Fetcher
from devopsgpt_pipeline.sources.web.settings import FetchSettings
from devopsgpt_pipeline.training.kubernetes_launcher import KubernetesLauncher
from devopsgpt_pipeline.training.launcher import Launcher, LocalLauncher

if TYPE_CHECKING:
    from mlflow import MlflowClient


class HomeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The folder that everything is written under."""

    path: str

    @property
    def folders(self) -> Home:
        return Home(Path(self.path))


class WebResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """How the crawler behaves on the web, and where the Hugging Face hub is."""

    contact: str = ""
    """An address for the sites' owners, sent in the User-Agent."""

    hub_endpoint: str = ""
    """A mirror of the hub; empty: the hub itself."""

    def fetcher(self, home: Home, book: Book) -> Fetcher:
        """A fetcher that keeps its pace across processes. Use it as a context manager.

        Plain http is spoken with a book whose own file gives such an address, and with no other.
        """
        settings = FetchSettings(
            contact=self.contact, allow_http=book.contents_url.startswith("http:")
        )
        return Fetcher(settings, pace_folder=home.chapters)


class MlflowResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The tracking server and model registry."""

    tracking_uri: str
    """Where clients connect."""

    ui_url: str
    """Where people look, for links in metadata."""

    def client(self) -> "MlflowClient":
        """raises: TrackingUnavailable where no server answers"""
        from devopsgpt_pipeline.tracking.client import connect

        return connect(self.tracking_uri)

    def run_url(self, experiment_id: str, run_id: str) -> str:
        return f"{without_login(self.ui_url)}/#/experiments/{experiment_id}/runs/{run_id}"

    def run_link(self, experiment_id: str, run_id: str) -> dg.MetadataValue:
        return dg.MetadataValue.url(self.run_url(experiment_id, run_id))

    def version_link(self, version: str) -> dg.MetadataValue:
        from devopsgpt_pipeline.tracking.client import MODEL_NAME

        return dg.MetadataValue.url(
            f"{without_login(self.ui_url)}/#/models/{MODEL_NAME}/versions/{version}"
        )


def build_launcher(settings: Settings) -> Launcher:
    """What starts trainings. raises: ValueError for a pod without an image"""
    if settings.launcher == "local":
        return LocalLauncher(processes=settings.processes)
    if not settings.kubernetes_image:
        raise ValueError(
            "DEVOPSGPT_LAUNCHER=kubernetes needs DEVOPSGPT_KUBERNETES_IMAGE, the image of the pod"
        )
    return KubernetesLauncher(
        processes=settings.processes,
        image=settings.kubernetes_image,
        home_path=str(settings.home),
        home_claim=settings.kubernetes_claim,
        namespace=settings.kubernetes_namespace,
    )
