"""Which version to serve, and its files: MLflow's registry over HTTP, none of whose answers is
trusted.

The alias is resolved once per look; what follows goes by version. Knows no model and no web.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from devopsgpt_model.tracking import limit_patience
from devopsgpt_serving.errors import DamagedVersion, NoModelYet, RegistryUnavailable
from devopsgpt_serving.version import Version, printable
from devopsgpt_serving.versions.cache import VersionCache
from devopsgpt_serving.versions.mlflow_server import MlflowServer
from devopsgpt_serving.versions.verification import MAX_MANIFEST_BYTES, read_manifest

# MLflow answers 400 for a missing alias, not 404
MISSING = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
DISK_RESERVE_BYTES = 50_000_000  # left free beside a download
LOGGED_MODEL = re.compile("models:/(m-[A-Za-z0-9-]{1,100})")
LAST_SECOND = 253_402_300_799  # of the year 9999
# name, where to write it, bytes that it may have
Download = Callable[[str, Path, int], None]


class Registry:
    """One alias of one registered model."""

    def __init__(
        self,
        tracking_uri: str,
        name: str,
        alias: str,
        timeout_s: int,
        fetch_timeout_s: float = 3600.0,
        artifact_prefixes: Collection[str] = (),
    ) -> None:
        """artifact_prefixes: where files may lie besides the server itself, as in s3://bucket/path

        raises: ValueError for an address that is no web server's
        """
        limit_patience(timeout_s)
        self.server = MlflowServer(tracking_uri, timeout_s)
        self.tracking_uri = tracking_uri
        self.name = name
        self.alias = alias
        self.fetch_timeout_s = fetch_timeout_s
        self.artifact_prefixes = [prefix.rstrip("/") for prefix in artifact_prefixes]

    def resolve(self) -> Version:
        """The version under the alias. raises: NoModelYet, RegistryUnavailable"""
        answer = self.server.ask("registered-models/alias", name=self.name, alias=self.alias)
        if answer.get("error_code") in MISSING:
            raise NoModelYet(
                f"registered model {self.name!r} has no version with alias {self.alias!r} at "
                f"{self.server.address}; train and promote one (`devopsgpt run`, or `devopsgpt "
                "promote`)"
            )
        try:
            found = self._told(answer, "model_version")
            tags = {
                printable(str(tag["key"])): printable(str(tag["value"]))
                for tag in found.get("tags", [])
            }
            created = int(found.get("creation_timestamp") or 0) // 1000
            if not 0 <= created <= LAST_SECOND:
                raise ValueError(f"it was created in second {created}")
            number, source = str(found["version"]), str(found["source"])
            return Version(self.name, number, source, created, tags)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self.server.unavailable(f"its version is none: {error!r:.200}") from error

    def fetch(self, version: Version, cache: VersionCache, in_use: Collection[str] = ()) -> Path:
        """A version's verified folder, downloaded where the cache has none.

        in_use: keys of versions that must not be dropped to make room for it
        raises: RegistryUnavailable, DamagedVersion, ValueError for files that lie elsewhere than
        they may, OSError where the disk has no room
        """
        if (folder := cache.verified(version)) is not None:
            return folder
        with cache.staging() as staging:
            download = self._source(self._location(version))
            download("manifest.json", staging / "manifest.json", MAX_MANIFEST_BYTES)
            manifest = read_manifest(staging)
            needed = sum(facts["size"] for facts in manifest.values()) + DISK_RESERVE_BYTES
            cache.make_room(needed, in_use)
            _check_room(cache, needed)
            (staging / "model").mkdir()
            for name, facts in manifest.items():
                download(name, staging / name, facts["size"])
            return cache.keep(staging, version)

    def _location(self, version: Version) -> str:
        """The address that the registry tells of a version's files."""
        if logged := LOGGED_MODEL.fullmatch(version.source):
            answer = self._told(self.server.ask(f"logged-models/{logged[1]}"), "model")
            return str(self._told(answer, "info").get("artifact_uri"))
        path = "model-versions/get-download-uri"
        answer = self.server.ask(path, name=self.name, version=version.number)
        if "error_code" in answer:
            raise self._error(answer)
        return str(answer.get("artifact_uri"))

    def _told(self, answer: dict[str, Any], key: str) -> dict[str, Any]:
        """A part of an answer. raises: RegistryUnavailable where it is not there"""
        if not isinstance(told := answer.get(key), dict):
            raise self._error(answer)
        return told

    def _error(self, answer: dict[str, Any]) -> RegistryUnavailable:
        said = [str(answer.get(key, "")) for key in ("error_code", "message")]
        return self.server.unavailable(
            printable(" ".join(said)).strip() or "it lacks what was asked for"
        )

    def _source(self, address: str) -> Download:
        """How files below an address are fetched. raises: ValueError where they may not lie
        there"""
        parts, deadline = urlsplit(address), time.monotonic() + self.fetch_timeout_s
        steps = unquote(parts.path).replace("\\", "/").split("/")
        plain = address.isprintable() and ".." not in steps and not (parts.query or parts.fragment)
        if plain and any(address.startswith(f"{allowed}/") for allowed in self.artifact_prefixes):
            return lambda name, target, most: self._download_directly(
                f"{address.rstrip('/')}/{name}", target, most
            )
        here = parts.netloc.lower() in ("", self.server.host)
        if not (plain and here and parts.scheme == "mlflow-artifacts"):
            raise ValueError(
                f"its files lie at {address!r:.200}, which is neither an mlflow-artifacts: address "
                f"of {self.server.host} nor begins with a prefix of "
                "DEVOPSGPT_SERVING_ARTIFACT_PREFIXES; publish it elsewhere, or add the prefix"
            )
        folder = parts.path.strip("/")

        def download(name: str, target: Path, most: int) -> None:
            left = deadline - time.monotonic()
            seconds = None if name == "manifest.json" else left
            self.server.download(f"{folder}/{quote(name)}", target, most, seconds)

        return download

    def _download_directly(self, address: str, target: Path, most: int) -> None:
        """From a storage that the operator named, by MLflow's client, which knows them all."""
        folder, _, name = address.rpartition("/")
        artifacts = self._mlflow.artifacts
        try:
            sizes = {
                found.path.rpartition("/")[2]: found.file_size
                for found in artifacts.list_artifacts(
                    artifact_uri=folder, tracking_uri=self.tracking_uri
                )
            }
            if sizes.get(name) is None or sizes[name] > most:
                raise DamagedVersion(
                    f"{name} should have at most {most} bytes and has {sizes.get(name)}"
                )
            artifacts.download_artifacts(
                address, dst_path=str(target.parent), tracking_uri=self.tracking_uri
            )
        except (self._mlflow.exceptions.MlflowException, ConnectionError) as error:
            raise _disk_error(error) or self.server.unavailable(error) from error
        except OSError as error:
            # all of requests' errors are OSErrors
            if type(error).__module__.startswith("requests"):
                raise self.server.unavailable(error) from error
            raise

    @cached_property
    def _mlflow(self) -> ModuleType:
        # late: most services never need it, and it reads its environment when it is imported
        import mlflow

        return mlflow


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
