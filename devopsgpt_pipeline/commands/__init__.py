"""The command line's commands, a file for each group; cli.py gathers them.

A command imports what loads torch, MLflow or Dagster when it runs: `devopsgpt --help` does not wait
seconds for them.
"""
