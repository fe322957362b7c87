"""How all three packages meet an MLflow server: its address, their patience, no password in a text,
no proxy before this machine.

Imports no MLflow, which reads MLFLOW_DISABLE_TELEMETRY when it is imported and the other variables
at each call.
"""

import os
import re
from collections.abc import MutableMapping
from urllib.parse import urlsplit

DEFAULT_TRACKING_URI = "http://127.0.0.1:5000"  # where `devopsgpt up` starts one
OWN_ADDRESSES = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def limit_patience(timeout_s: int, retries: int = 1) -> None:
    """Have MLflow's client give up within seconds, in place of 4 minutes, and keep it quiet.

    timeout_s: silence after which a try has failed. Values that the operator set stay.
    """
    limits = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
    }
    for name, value in (limits | QUIET).items():
        os.environ.setdefault(name, value)


def hide_password(text: str, url: str) -> str:
    """A text without the password that a URL carries."""
    password = urlsplit(url).password
    return text.replace(f":{password}@", ":***@") if password else text


def without_login(url: str) -> str:
    """A URL for people to follow: a user and a password that it carries are left out."""
    return re.sub(r"//[^/@]*@", "//", url, count=1)


def bypass_proxies(environment: MutableMapping[str, str] = os.environ) -> None:
    """Where the environment names a proxy, add this machine's own addresses to NO_PROXY, for this
    process and those that it starts.

    Both spellings are read: which one wins differs between libraries.
    """
    if not any(environment.get(name) or environment.get(name.upper()) for name in PROXIES):
        return
    for name in ("no_proxy", "NO_PROXY"):
        given = [part.strip() for part in environment.get(name, "").split(",") if part.strip()]
        missing = [address for address in OWN_ADDRESSES if address not in given]
        if "*" not in given:
            environment[name] = ",".join([*given, *missing])
