"""`make env`: the file .env that docker-compose.yml asks for, with a strong random value for each
secret.

Needs nothing but Python, so a machine that only runs containers can make it: `python3
deploy/make_env.py`.
"""

import os
import secrets
import sys
from pathlib import Path

SECRETS = (
    "POSTGRES_PASSWORD",
    "DAGSTER_DB_PASSWORD",
    "MLFLOW_DB_PASSWORD",
    "DEVOPSGPT_API_KEY",
    "PROXY_PASSWORD",
)
SECRET_BYTES = 32  # 256 bits; hex, so that it may stand in a URL as it is


def write_env(path: Path) -> None:
    """Write a new .env that only its owner may read.

    raises: FileExistsError where there is one: existing databases use its passwords
    """
    lines = ["# Made by `make env`. Never commit it; keep a copy where the backups are.\n"]
    lines += [f"{name}={secrets.token_hex(SECRET_BYTES)}\n" for name in SECRETS]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.writelines(lines)


def main() -> None:
    """Write .env in the working folder."""
    try:
        write_env(Path(".env"))
    except FileExistsError:
        sys.exit(
            ".env exists and stays as it is; its passwords belong to the databases that were "
            "made with it"
        )
    print("wrote .env")


if __name__ == "__main__":
    main()
