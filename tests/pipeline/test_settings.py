"""Settings come from the environment, and a wrong one is told in one sentence."""

import pytest
from click.testing import CliRunner

from devopsgpt_pipeline.cli import main
from devopsgpt_pipeline.profiles import chosen_profile
from devopsgpt_pipeline.settings import Settings, read_settings, variable_of


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for field in Settings.model_fields:
        monkeypatch.delenv(variable_of(field), raising=False)


def test_an_empty_value_counts_as_unset(monkeypatch):
    unset = read_settings()
    for field in Settings.model_fields:
        monkeypatch.setenv(variable_of(field), "")
    assert read_settings() == unset


def test_a_home_is_where_the_process_was_started(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert read_settings().home == tmp_path / ".devopsgpt"
    monkeypatch.setenv("DEVOPSGPT_HOME", "mine")
    assert read_settings().home == tmp_path / "mine"


def test_a_value_that_is_given_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert read_settings().tracking_server == "http://elsewhere:5000"
    assert Settings(tracking_uri="http://here:5000").tracking_server == "http://here:5000"


def test_no_env_file_is_read(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text("DEVOPSGPT_PROFILE=sre")
    monkeypatch.chdir(tmp_path)
    assert read_settings().profile == "sample"


def test_only_postgres_is_a_database_to_back_up(monkeypatch):
    address = "postgresql+psycopg2://someone:secret@host/dagster"
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", address)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "sqlite:///mlflow.db")
    settings = read_settings()
    assert settings.postgres_urls == {"dagster": address}
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("DEVOPSGPT_PROCESSES", "all", "must be a number, 0 for every visible GPU, got 'all'"),
        ("DEVOPSGPT_PROCESSES", "-1", "must be a number, 0 for every visible GPU, got '-1'"),
        ("DEVOPSGPT_LAUNCHER", "slurm", "must be local or kubernetes, got 'slurm'"),
    ],
)
def test_a_wrong_value_is_told_in_one_sentence(variable, value, told, tmp_path):
    environment = {"DEVOPSGPT_HOME": str(tmp_path), variable: value}
    answer = CliRunner().invoke(main, ["run"], env=environment)
    assert answer.exit_code == 1
    assert answer.output == f"Error: {variable} {told}\n"


def test_an_unknown_profile_is_told_with_the_known_ones(monkeypatch):
    monkeypatch.setenv("DEVOPSGPT_PROFILE", "prod")
    with pytest.raises(
        ValueError,
        match="unknown profile 'prod' in DEVOPSGPT_PROFILE; the profiles are sample, sre",
    ):
        chosen_profile(read_settings())
