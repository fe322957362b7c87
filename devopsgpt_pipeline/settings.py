"""What an operator can set for the pipeline: every value from the environment, prefix DEVOPSGPT_.

`read_settings()` reads it; importing this file reads nothing, and no .env file is read. An empty
value counts as unset.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from devopsgpt_model.tracking import DEFAULT_TRACKING_URI

PREFIX = "DEVOPSGPT_"


class Settings(BaseSettings):
    """Places, schedules and launchers of one pipeline."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, populate_by_name=True, frozen=True, env_ignore_empty=True
    )

    home: Path = Path(".devopsgpt")
    """Folder that everything is written under."""

    profile: str = "sample"
    """Which books are read, how they are encoded and what is trained: `sample` or `sre`."""

    training: str = ""
    """Training unless a run says otherwise: a preset and changes to it, as in `finetune_sre
    max_steps=200`; the profile's preset where unset."""

    books: Path | None = None
    """Folder of further books, one TOML file each."""

    text_folders: str = ""
    """Further datasets, each of a folder's .txt and .md files: name=folder, separated by commas."""

    contact: str = ""
    """Address for the sites' owners, sent in the crawler's User-Agent."""

    observe_cron: str = "17 4 * * *"
    """Cron expression, UTC: each tick asks every book's site whether it changed."""

    retrain_cron: str = ""
    """Cron expression, UTC: unattended training runs at most once between two ticks; whenever the
    corpus changed where unset."""

    processes: int = Field(default=0, ge=0, description="a number, 0 for every visible GPU")
    """Processes of one training; 0: one for each visible GPU, or one; in a pod, its GPUs."""

    launcher: Literal["local", "kubernetes"] = Field(
        default="local", description="local or kubernetes"
    )
    """Where trainings run: processes of the step, or a pod for each."""

    kubernetes_image: str = ""
    """Image of the training's pod; the launcher kubernetes needs it."""

    kubernetes_namespace: str = "default"
    """Namespace of the pod."""

    kubernetes_claim: str = "devopsgpt-home"
    """Volume claim that holds the home."""

    dagster_hosts: str = ""
    """Host names, separated by commas, under which browsers reach Dagster's pages; localhost and
    addresses need not be named."""

    mlflow_ui_url: str = ""
    """MLflow's address in links for people; the tracking server's where unset."""

    tracking_uri: str = Field(default="", validation_alias="MLFLOW_TRACKING_URI")
    """MLflow server; http://127.0.0.1:5000 where unset. `run`, `finetune`, and `evaluate` and
    `benchmark` where this is unset, start one of their own."""

    hub_endpoint: str = Field(default="", validation_alias="HF_ENDPOINT")
    """Mirror of the Hugging Face hub; the hub itself where unset."""

    tmpdir: Path | None = Field(default=None, validation_alias="TMPDIR")
    """Folder for temporary files, created where it is missing; the system's where unset."""

    dagster_postgres_url: SecretStr = Field(
        default=SecretStr(""), validation_alias="DAGSTER_POSTGRES_URL"
    )
    """Dagster's database, for backup and restore; SQLite in the home where unset."""

    mlflow_backend_store_uri: SecretStr = Field(
        default=SecretStr(""), validation_alias="MLFLOW_BACKEND_STORE_URI"
    )
    """MLflow's database, for backup and restore; SQLite in the home where unset."""

    mlflow_artifacts_destination: str = Field(
        default="", validation_alias="MLFLOW_ARTIFACTS_DESTINATION"
    )
    """Where MLflow's artifacts lie, for backup and restore; in the home where unset."""

    @field_validator("home")
    @classmethod
    def _resolve(cls, value: Path) -> Path:
        return value.resolve()

    @property
    def tracking_server(self) -> str:
        """Where clients find MLflow."""
        return self.tracking_uri or DEFAULT_TRACKING_URI

    @property
    def dagster_host_names(self) -> list[str]:
        """The names of dagster_hosts."""
        return [name.strip() for name in self.dagster_hosts.split(",") if name.strip()]

    @property
    def postgres_urls(self) -> dict[str, str]:
        """The PostgreSQL databases, by their names in a backup."""
        urls = {"dagster": self.dagster_postgres_url, "mlflow": self.mlflow_backend_store_uri}
        values = {name: url.get_secret_value() for name, url in urls.items()}
        return {name: url for name, url in values.items() if url.startswith("postgresql")}


def variable_of(field: str) -> str:
    """The environment variable that sets a field."""
    return str(Settings.model_fields[field].validation_alias or PREFIX + field.upper())


def read_settings() -> Settings:
    """The environment's settings. raises: ValueError, one sentence that names the variable"""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        rule = Settings.model_fields[field].description
        raise ValueError(f"{variable_of(field)} must be {rule}, got {first['input']!r}") from None
