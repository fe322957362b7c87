"""Attacks on Dagster, MLflow and the deployment in front of a browser."""
