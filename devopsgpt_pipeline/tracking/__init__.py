"""MLflow: its client, training runs, and model versions. Knows no Dagster."""
