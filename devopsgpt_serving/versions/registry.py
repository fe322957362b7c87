"""Which version to serve, and its files: MLflow's registry over HTTP, through the client of
mlflow-skinny.

The alias is resolved once per look; what follows goes by version. Knows no model and no web.
"""

import errno
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from devopsgpt_serving.errors import NoModelYet, RegistryUnavailable
from devopsgpt_serving.version import Version
from devopsgpt_serving.versions.cache import VersionCache
from devopsgpt_serving.versions.verification import read_manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow answers 400 for a missing alias, not 404
MISSING = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
DISK_RESERVE_BYTES = 50_000_000  # left free beside a download


class Registry:
    """One alias of one registered model."""

    def __init__(self, tracking_uri: str, name: str, alias: str, timeout_s: int) -> None:
        self.tracking_uri = tracking_uri
        self.name = name
        self.alias = alias
        self.timeout_s = timeout_s
        self._client: MlflowClient | None = None

    def resolve(self) -> Version:
        """The version under the alias. raises: NoModelYet, RegistryUnavailable"""
        client = self._connect()
        from mlflow.exceptions import MlflowException

        try:
            found = client.get_model_version_by_alias(self.name, self.alias)
        except MlflowException as error:
            if error.error_code in MISSING:
                raise NoModelYet(
                    f"registered model {self.name!r} has no version with alias {self.alias!r} at "
                    f"{self.address}; "
                    "train and promote one (`devopsgpt run`, or `devopsgpt promote`)"
                ) from error
            raise self._unavailable(error) from error
        except OSError as error:
            raise self._unavailable(error) from error
        tags = {str(key): str(value) for key, value in found.tags.items()}
        created = int(found.creation_timestamp or 0) // 1000
        return Version(self.name, str(found.version), str(found.source), created, tags)

    def fetch(self, version: Version, cache: VersionCache, in_use: Collection[str] = ()) -> Path:
        """A version's verified folder, downloaded where the cache has none.

        in_use: keys of versions that must not be dropped to make room for it
        raises: RegistryUnavailable, DamagedVersion, OSError where the disk has no room
        """
        if (folder := cache.verified(version)) is not None:
            return folder
        with cache.staging() as staging:
            location = self._location(version)
            self._download(f"{location}/manifest.json", staging)
            manifest = read_manifest(staging)
            needed = sum(facts["size"] for facts in manifest.values()) + DISK_RESERVE_BYTES
            cache.make_room(needed, in_use)
            _check_room(cache, needed)
            for name in manifest:
                self._download(f"{location}/{name}", staging / "model")
            return cache.keep(staging, version)

    def _location(self, version: Version) -> str:
        client = self._connect()
        from mlflow.exceptions import MlflowException

        try:
            if version.source.startswith("models:/m-"):
                return str(
                    client.get_logged_model(
                        version.source.removeprefix("models:/")
                    ).artifact_location
                )
            return str(client.get_model_version_download_uri(self.name, version.number))
        except (MlflowException, OSError) as error:
            raise self._unavailable(error) from error

    def _download(self, uri: str, folder: Path) -> None:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        try:
            download_artifacts(uri, dst_path=str(folder), tracking_uri=self.tracking_uri)
        except (MlflowException, ConnectionError) as error:
            raise _disk_error(error) or self._unavailable(error) from error
        except OSError as error:
            # all of requests' errors are OSErrors
            if type(error).__module__.startswith("requests"):
                raise self._unavailable(error) from error
            raise

    def _connect(self) -> "MlflowClient":
        if self._client is None:
            limit_patience(self.timeout_s)
            from mlflow import MlflowClient

            self._client = MlflowClient(
                tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri
            )
        return self._client

    @property
    def address(self) -> str:
        """Where the registry is, for people: without the password that the URL may carry."""
        return self._hidden(self.tracking_uri)

    def _hidden(self, text: str) -> str:
        password = urlsplit(self.tracking_uri).password
        return text.replace(f":{password}@", ":***@") if password else text

    def _unavailable(self, error: Exception) -> RegistryUnavailable:
        said = self._hidden(" ".join(str(error).split()) or repr(error))
        return RegistryUnavailable(
            f"MLflow at {self.address} did not answer as it should: {said[:300]}; start it, or set "
            "DEVOPSGPT_SERVING_TRACKING_URI"
        )


def limit_patience(timeout_s: int) -> None:
    """Have MLflow's client give up within seconds (its own patience is four minutes), and keep it
    quiet.

    Values that the operator set stay.
    """
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    for name, value in limits.items():
        os.environ.setdefault(name, value)


def _disk_error(error: Exception) -> OSError | None:
    """This disk's error, where it is one: MLflow tells of it in its message only, as of a download
    that failed."""
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
        if f"[Errno {code}]" in str(error):
            return OSError(code, os.strerror(code))
    return None


def _check_room(cache: VersionCache, needed: int) -> None:
    if (free := cache.free_bytes()) < needed:
        raise OSError(f"the download needs {needed} free bytes in {cache.folder}, there are {free}")
