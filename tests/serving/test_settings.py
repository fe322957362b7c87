"""What an operator can set, and what is refused."""

import pytest
from pydantic import ValidationError

from devopsgpt_serving.settings import Settings


def test_an_open_service_beyond_loopback_must_be_meant(monkeypatch):
    with pytest.raises(ValidationError, match="no API key is set"):
        Settings(host="0.0.0.0")
    assert Settings(host="0.0.0.0", api_keys="k").accepted_keys() == ["k"]
    assert Settings(host="0.0.0.0", allow_anonymous=True).host == "0.0.0.0"
    assert Settings(host="::1").host == "::1"


def test_settings_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("DEVOPSGPT_HOME", str(tmp_path))
    monkeypatch.setenv("DEVOPSGPT_SERVING_API_KEYS", "a, b")
    settings = Settings()
    assert settings.tracking_uri == "http://mlflow:5000"
    assert settings.cache_folder == tmp_path / "serving"
    assert settings.accepted_keys() == ["a", "b"]
    assert "a, b" not in repr(settings)
    monkeypatch.setenv("DEVOPSGPT_SERVING_TRACKING_URI", "http://other:5000")
    assert Settings().tracking_uri == "http://other:5000"


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"poll_interval_s": 0},
        {"max_choices": 100},
        {"max_prompts": 5000},
        {"log_level": "x"},
        {"model_name": ""},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_a_missing_file_of_keys_is_an_error():
    with pytest.raises(ValueError, match="api_keys_file /nowhere cannot be read: No such file"):
        Settings(api_keys_file="/nowhere").accepted_keys()


def test_a_file_of_keys_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="must be text in UTF-8, one key a line"):
        Settings(api_keys_file=tmp_path / "keys").accepted_keys()


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_a_file_of_keys_without_a_key_does_not_open_the_service(tmp_path, content):
    keys = tmp_path / "keys"
    keys.write_text(content)
    for others in ({}, {"api_keys": "k"}, {"host": "0.0.0.0", "allow_anonymous": True}):
        with pytest.raises(
            ValidationError, match="must hold a key, got only blank lines; write one a line"
        ):
            Settings(api_keys_file=keys, **others)
    keys.write_text(f"{content}second")
    assert Settings(api_keys_file=keys, api_keys="first").accepted_keys() == ["first", "second"]
