"""Dagster's storage in SQLite for a home whose path needs escaping; its dagster.yaml names it."""

from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

from devopsgpt_pipeline.local.databases import sqlite_address


class EscapingStorage(DagsterSqliteStorage):
    """Dagster's own storage in SQLite; its three parts take their addresses from here."""

    def __init__(self, *arguments: object, **named: object) -> None:
        for part in (sqlite_run_storage, sqlite_event_log, sqlite_schedule_storage):
            part.create_db_conn_string = sqlite_address  # type: ignore[attr-defined]
        super().__init__(*arguments, **named)  # type: ignore[arg-type]

    @classmethod
    def from_config_value(cls, inst_data, config_value):  # type: ignore[no-untyped-def]
        """As Dagster's, which names its own class here."""
        return cls.from_local(inst_data=inst_data, **config_value)
