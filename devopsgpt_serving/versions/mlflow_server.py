"""An MLflow server over HTTP that may be broken or hostile: every answer ends, in bytes and
seconds.

MLflow's own client has a limit for silence only, so that an answer of a byte a second holds it for
ever, keeps any length in memory, and follows redirects to wherever they lead. Of its settings these
count here, too: MLFLOW_TRACKING_USERNAME and _PASSWORD, _TOKEN, _INSECURE_TLS, _SERVER_CERT_PATH,
_CLIENT_CERT_PATH, and MLFLOW_HTTP_REQUEST_TIMEOUT.
"""

import asyncio
import json
import os
import ssl
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from devopsgpt_model.tracking import hide_password
from devopsgpt_serving.errors import DamagedVersion, RegistryUnavailable

MAX_ANSWER_BYTES = 1_000_000  # a version's description with its tags has 2 kB
MAX_REDIRECTS = 3
ANSWER_SILENCES = 4  # an answer that drips may take so many times as long as one byte of it
PATIENCE = "MLFLOW_HTTP_REQUEST_TIMEOUT"


class MlflowServer:
    """One server, asked by GET."""

    def __init__(self, tracking_uri: str, timeout_s: float) -> None:
        """timeout_s: silence after which an answer is given up, where MLFLOW_HTTP_REQUEST_TIMEOUT
        names none

        raises: ValueError for an address that is no web server's
        """
        self._silence_s = float(os.environ.get(PATIENCE, timeout_s))
        self._uri, parts = tracking_uri, urlsplit(tracking_uri)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                "the tracking URI must begin with http:// or https://, got "
                f"{self.address!r:.200}; set DEVOPSGPT_SERVING_TRACKING_URI"
            )
        self.host = parts.netloc.rpartition("@")[2].lower()
        self._base = f"{parts.scheme}://{self.host}{parts.path.rstrip('/')}"
        self._login = (
            (unquote(parts.username), unquote(parts.password or "")) if (parts.username) else None
        )

    @property
    def address(self) -> str:
        """Where it is, for people: without the password that the URL may carry."""
        return hide_password(self._uri, self._uri)

    def ask(self, path: str, **parameters: str) -> dict[str, Any]:
        """What MLflow answers, be it an error with its `error_code`. raises: RegistryUnavailable"""
        said, status = bytearray(), 0
        url = httpx.URL(f"{self._base}/api/2.0/mlflow/{path}", params=parameters)
        try:
            status = self._get(url, said.extend, MAX_ANSWER_BYTES, self._answer_s, refusals=True)
            content = json.loads(bytes(said))
        except DamagedVersion as error:
            raise self.unavailable(error) from error
        except (ValueError, RecursionError) as error:
            told = f"it answered {status}, and no JSON"
            raise self.unavailable(told) from error
        if not isinstance(content, dict) or (status != 200 and "error_code" not in content):
            raise self.unavailable(f"it answered {status}")
        return content

    def download(self, path: str, target: Path, most: int, seconds: float | None = None) -> None:
        """Write an artifact to a file. path: quoted as URLs are; most: bytes that it may have

        raises: RegistryUnavailable, DamagedVersion for a longer one, OSError where the disk has no
        room
        """
        url = httpx.URL(f"{self._base}/api/2.0/mlflow-artifacts/artifacts/{path}")
        with target.open("wb") as file:
            self._get(url, file.write, most, self._answer_s if seconds is None else seconds)

    def unavailable(self, error: Exception | str) -> RegistryUnavailable:
        """The error to raise for whatever happened."""
        text = " ".join(str(error).split()) or repr(error)
        return RegistryUnavailable(
            f"MLflow at {self.address} did not answer as it should: "
            f"{hide_password(text, self._uri)[:300]}; start it, or set "
            "DEVOPSGPT_SERVING_TRACKING_URI"
        )

    def _get(
        self,
        url: httpx.URL,
        take: Callable[[bytes], object],
        most: int,
        seconds: float,
        refusals: bool = False,
    ) -> int:
        try:
            return asyncio.run(self._receive(url, take, most, seconds, refusals))
        except httpx.TimeoutException as error:
            raise self.unavailable(f"it was silent for {self._silence_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self.unavailable(error) from error
        except TimeoutError as error:
            raise self.unavailable(f"an answer took longer than {seconds:.0f} s") from error

    async def _receive(
        self,
        url: httpx.URL,
        take: Callable[[bytes], object],
        most: int,
        seconds: float,
        refusals: bool,
    ) -> int:
        """An answer's status, its body handed on as it comes. refusals: of errors, too"""
        client = httpx.AsyncClient(verify=self._tls, timeout=self._silence_s, headers=self._headers)
        async with asyncio.timeout(seconds), client:
            for _ in range(MAX_REDIRECTS + 1):
                async with client.stream("GET", url, auth=self._credentials) as answer:
                    if answer.has_redirect_location:
                        url = self._same_server(answer)
                        continue
                    if answer.status_code != 200 and not refusals:
                        raise self.unavailable(f"it answered {answer.status_code} for {url.path}")
                    await _hand_on(answer, take, most)
                    return answer.status_code
        raise self.unavailable(f"it redirects more than {MAX_REDIRECTS} times")

    def _same_server(self, answer: httpx.Response) -> httpx.URL:
        """Where a redirect leads. raises: RegistryUnavailable for another server, which would be
        given our password"""
        url = answer.url.join(answer.headers["location"])
        if (url.scheme, url.host, url.port) != (
            answer.url.scheme,
            answer.url.host,
            answer.url.port,
        ):
            raise self.unavailable(
                f"it redirects to another server, {url.scheme}://{url.netloc.decode()!r:.100}, "
                "which is not followed"
            )
        return url

    @property
    def _answer_s(self) -> float:
        return ANSWER_SILENCES * self._silence_s

    @property
    def _credentials(self) -> tuple[str, str] | None:
        if self._login:
            return self._login
        user, password = (os.environ.get(f"MLFLOW_TRACKING_{n}") for n in ("USERNAME", "PASSWORD"))
        return (user, password) if user and password else None

    @property
    def _headers(self) -> dict[str, str]:
        # compressed, a small answer could become any size
        headers = {"Accept-Encoding": "identity", "User-Agent": "devopsgpt-serving"}
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"  # where no user and password are set
        return headers

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
            context = httpx.create_ssl_context(verify=False)
        else:
            own = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or os.environ.get(
                "REQUESTS_CA_BUNDLE"
            )
            context = ssl.create_default_context(cafile=own) if own else httpx.create_ssl_context()
        if client := os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
            context.load_cert_chain(client)
        return context


async def _hand_on(answer: httpx.Response, take: Callable[[bytes], object], most: int) -> None:
    """Take an answer's body. raises: DamagedVersion where it has more than so many bytes"""
    name, size = answer.url.path.rpartition("/")[2], 0
    declared = answer.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:19]) > most:
        raise DamagedVersion(f"{name} should have at most {most} bytes and has {declared[:19]}")
    async for part in answer.aiter_raw():
        size += len(part)
        if size > most:
            raise DamagedVersion(f"{name} should have at most {most} bytes and has more")
        take(part)
