"""One way to talk to MLflow: a client that notices within seconds that nobody answers."""

from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from devopsgpt_model.tracking import hide_password, limit_patience

MODEL_NAME = "devopsgpt"
EXPERIMENT = "devopsgpt"
SILENCE_S = 30  # after which a call is tried again
CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"


class TrackingUnavailable(ConnectionError):
    """An MLflow server that does not answer."""


def connect(tracking_uri: str) -> MlflowClient:
    """A client of the server. raises: TrackingUnavailable where none answers, with the remedy"""
    limit_patience(SILENCE_S, retries=2)
    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    try:
        client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        problem = (
            f"no MLflow server answers at {tracking_uri}; start one (`make up` does) or set "
            "MLFLOW_TRACKING_URI "
            f"({str(error).splitlines()[0][:200]})"
        )
        # the client's own error repeats the address, and a traceback would show it: it is not
        # chained
        hidden = hide_password(problem, tracking_uri)
        raise TrackingUnavailable(hidden) from (error if hidden == problem else None)
    return client


def experiment_id(client: MlflowClient) -> str:
    """The experiment that holds fine-tunes and baselines alike; created at first use."""
    found = client.get_experiment_by_name(EXPERIMENT)
    return str(found.experiment_id if found else client.create_experiment(EXPERIMENT))


def version_of_alias(client: MlflowClient, alias: str) -> str | None:
    """The model version that an alias stands on, or None. MLflow answers 400 for a missing alias,
    not 404."""
    try:
        return str(client.get_model_version_by_alias(MODEL_NAME, alias).version)
    except MlflowException as error:
        if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None
        raise


def aliases_by_name(client: MlflowClient) -> dict[str, str]:
    """Every alias of the registered model and its version's number; empty before the first
    registration."""
    found = client.search_registered_models(f"name = '{MODEL_NAME}'")
    return (
        {str(alias): str(version) for alias, version in found[0].aliases.items()} if found else {}
    )


def model_versions(client: MlflowClient) -> list[Any]:
    """Every model version, newest first."""
    found = all_pages(client.search_model_versions, filter_string=f"name = '{MODEL_NAME}'")
    return sorted(found, key=lambda version: -int(version.version))


def all_pages(search: Any, **query: Any) -> list[Any]:
    """Every result of a search that answers page by page."""
    found, token = [], None
    while True:
        page = search(**query, page_token=token)
        found += page
        if not (token := page.token):
            return found
