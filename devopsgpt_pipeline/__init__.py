"""The asset pipeline: from the web to the registry."""

import os

from devopsgpt_model.tracking import bypass_proxies

# Nobody's use is anybody else's business, as in dagster.yaml. MLflow reads it when it is first
# imported, here or in the server that `devopsgpt up` starts; an operator's own value stays.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

bypass_proxies()
