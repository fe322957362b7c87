"""What tests/deploy has: secrets as `make env` writes them."""

from deploy.conftest import env_file, variables

__all__ = ["env_file", "variables"]
