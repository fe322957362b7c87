"""The MLflow registry: checkpoints become model versions, versions become champions. Knows no
Dagster."""
