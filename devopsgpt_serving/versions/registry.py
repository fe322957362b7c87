"""Which version to serve, and its files: MLflow's registry over HTTP, through the client of
mlflow-skinny.

The alias is resolved once per look; what follows goes by version. Knows no model and no web.
"""

import errno
import os
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from devopsgpt_model.tracking import hide_password, limit_patience
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

    def resolve(self) -> Version:
        """The version under the alias.

        raises: NoModelYet, RegistryUnavailable, MlflowException for an address that is none
        """
        # before the try: what MLflow says of a wrong address is an invalid parameter, too
        client = self._client
        try:
            found = client.get_model_version_by_alias(self.name, self.alias)
        except self._mlflow.exceptions.MlflowException as error:
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
        client = self._client
        try:
            if version.source.startswith("models:/m-"):
                logged = client.get_logged_model(version.source.removeprefix("models:/"))
                return str(logged.artifact_location)
            return str(client.get_model_version_download_uri(self.name, version.number))
        except (self._mlflow.exceptions.MlflowException, OSError) as error:
            raise self._unavailable(error) from error

    def _download(self, uri: str, folder: Path) -> None:
        try:
            self._mlflow.artifacts.download_artifacts(
                uri, dst_path=str(folder), tracking_uri=self.tracking_uri
            )
        except (self._mlflow.exceptions.MlflowException, ConnectionError) as error:
            raise _disk_error(error) or self._unavailable(error) from error
        except OSError as error:
            # all of requests' errors are OSErrors
            if type(error).__module__.startswith("requests"):
                raise self._unavailable(error) from error
            raise

    @cached_property
    def _client(self) -> "MlflowClient":
        return self._mlflow.MlflowClient(
            tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri
        )

    @cached_property
    def _mlflow(self) -> ModuleType:
        limit_patience(self.timeout_s)
        # late: when it is imported, MLflow reads whether it may report its use
        import mlflow

        return mlflow

    @property
    def address(self) -> str:
        """Where the registry is, for people: without the password that the URL may carry."""
        return hide_password(self.tracking_uri, self.tracking_uri)

    def _unavailable(self, error: Exception) -> RegistryUnavailable:
        said = hide_password(" ".join(str(error).split()) or repr(error), self.tracking_uri)
        return RegistryUnavailable(
            f"MLflow at {self.address} did not answer as it should: {said[:300]}; start it, or set "
            "DEVOPSGPT_SERVING_TRACKING_URI"
        )


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
