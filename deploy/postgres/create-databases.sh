#!/bin/bash
# Runs once, when the volume is empty: a database and a user each for Dagster and MLflow, which may not see each other's.
set -euo pipefail
# the passwords come from the environment, so that no process list shows them
psql --set ON_ERROR_STOP=1 --username postgres --dbname postgres <<'SQL'
\getenv dagster_password DAGSTER_DB_PASSWORD
\getenv mlflow_password MLFLOW_DB_PASSWORD
CREATE ROLE dagster LOGIN PASSWORD :'dagster_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE dagster OWNER dagster;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE dagster FROM PUBLIC;
REVOKE CONNECT ON DATABASE mlflow FROM PUBLIC;
SQL
