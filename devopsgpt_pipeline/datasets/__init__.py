"""Datasets: texts to token bins. Knows no Dagster and no web."""
