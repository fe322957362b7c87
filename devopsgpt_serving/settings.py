"""What an operator can set: every value from the environment, prefix DEVOPSGPT_SERVING_.

Read once, in create_app(); importing this file reads nothing.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from devopsgpt_model.tracking import DEFAULT_TRACKING_URI

PREFIX = "DEVOPSGPT_SERVING_"
LARGEST_MAX_PROMPTS = 2048  # lists are refused by their length before a setting is asked
# what MLflow has other addresses for, and what lies on this machine or on any web server
NO_STORAGE = ("", "file", "http", "https", "models", "runs")
# beginnings of paths that ask for a key, where keys are set; /metrics, too, unless open_metrics
GUARDED = ("/v1/", "/api/generate", "/admin/", "/load", "/tokenize", "/detokenize")


class Settings(BaseSettings):
    """Places, limits and keys of one service."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, populate_by_name=True, frozen=True, env_ignore_empty=True
    )

    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs API keys, or allow_anonymous."""

    port: int = Field(default=8000, ge=0, le=65535)
    """TCP port; 0 takes a free one."""

    tracking_uri: str = Field(
        default=DEFAULT_TRACKING_URI,
        validation_alias=AliasChoices(f"{PREFIX}TRACKING_URI", "MLFLOW_TRACKING_URI"),
    )
    """MLflow server that holds the registry; MLFLOW_TRACKING_URI counts too."""

    model_name: str = Field(default="devopsgpt", min_length=1)
    """Registered model, and the model id of the OpenAI routes."""

    alias: str = Field(default="champion", min_length=1)
    """Alias that is served."""

    poll_interval_s: float = Field(default=15.0, gt=0)
    """Seconds between looks at the alias."""

    poll_jitter: float = Field(default=0.2, ge=0, lt=1)
    """Share by which each wait is shortened or lengthened at random, so that replicas do not ask in
    step."""

    registry_timeout_s: int = Field(default=5, ge=1)
    """Seconds that MLflow may stay silent before a call counts as failed."""

    fetch_timeout_s: float = Field(default=3600.0, gt=0)
    """Seconds that all files of a version may take to arrive."""

    artifact_prefixes: Annotated[tuple[str, ...], NoDecode] = ()
    """Beginnings of addresses, separated by commas, under which a version's files may lie besides
    MLflow itself, as in s3://bucket/mlflow: those are read from the storage directly."""

    home: Path = Field(
        default=Path(".devopsgpt"), validation_alias=AliasChoices(f"{PREFIX}HOME", "DEVOPSGPT_HOME")
    )
    """The project's home; DEVOPSGPT_HOME counts too."""

    cache_dir: Path | None = None
    """Verified model versions on disk; <home>/serving where unset."""

    max_cache_bytes: int = Field(default=20_000_000_000, ge=1)
    """Size that cached versions may reach together; what a service of this cache serves, or served
    last, stays."""

    device: str = "auto"
    """Torch device: "cpu", "cuda", "cuda:N"; "auto" takes CUDA where there is one."""

    engine: Literal["own", "vllm"] = "own"
    """Who computes: this process, or a vLLM server beside it that follows the link
    <cache_dir>/vllm."""

    vllm_url: str = "http://127.0.0.1:8001"
    """Where that vLLM listens."""

    vllm_api_key: SecretStr = SecretStr("")
    """The key that it asks for, where it asks for one."""

    vllm_start_s: float = Field(default=300.0, gt=0)
    """Seconds that it may take to load a version."""

    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """Number format of weights and products; "auto" takes the fastest that device and processor
    have."""

    max_batch_size: int = Field(default=8, ge=1)
    """Sequences that are computed together; the KV cache is allocated for so many."""

    max_queue: int = Field(default=64, ge=0)
    """Sequences that may wait for a place in the batch; more are refused with 429."""

    prefill_chunk: int = Field(default=128, ge=1)
    """Prompt tokens computed between two decode steps of the others."""

    stream_interval_s: float = Field(default=0.05, ge=0)
    """Seconds between two deliveries of streamed text while more than 8 sequences are computed,
    first and last of an answer at once; fewer send token by token, and so does 0."""

    max_tokens: int = Field(default=4096, ge=1)
    """Largest max_tokens that a request may ask for."""

    max_choices: int = Field(default=8, ge=1)
    """Largest number of answers to each prompt of a request: n, or iterations."""

    max_prompts: int = Field(default=128, ge=1, le=LARGEST_MAX_PROMPTS)
    """Largest number of prompts in one request; those that the queue has no room for wait within
    it."""

    parse_special: bool = True
    """Whether <|endoftext|> in a text is the special token on /v1 and /tokenize, as for vLLM and
    llama.cpp; a request's parse_special wins. /api/generate always reads it as text."""

    chat_template: Path | None = None
    """Jinja template of /v1/chat/completions: a file, or "plain" for the one that is shipped; unset
    refuses chats."""

    max_body_bytes: int = Field(default=1_000_000, ge=1)
    """Largest request body; a larger one is refused with 413."""

    max_connections: int = Field(default=1000, ge=1)
    """Open connections; fewer where the limit on file descriptors allows no more. Beyond it, the
    one that is idle for longest makes room."""

    receive_s: float = Field(default=30.0, gt=0)
    """Seconds that a request may take to arrive, headers and body; then it is refused with 408."""

    pre_prompt: str = ""
    """Text put before a prompt of /api/generate that names no pre_prompt of its own."""

    deadline_s: float = Field(default=120.0, gt=0)
    """Seconds from arrival after which a request is given up with 504."""

    drain_s: int = Field(default=15, ge=0)
    """Seconds that running requests get to finish after SIGTERM."""

    shutdown_delay_s: float = Field(default=1.0, ge=0)
    """Seconds of not being ready, on SIGTERM, before new connections are refused."""

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Accepted bearer keys, separated by commas; none leaves the service open."""

    api_keys_file: Path | None = None
    """A file with one accepted key a line, at least one, besides api_keys."""

    open_metrics: bool = False
    """Whether /metrics needs no key where keys are set: for a Prometheus on an inner network."""

    allow_anonymous: bool = False
    """Whether a service without keys may listen beyond loopback."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins, separated by commas, whose pages may call the service."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""

    log_prompts: bool = False
    """Whether prompts are logged; off, no text of a user reaches the log."""

    @field_validator("api_keys", "cors_origins", "artifact_prefixes", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("artifact_prefixes")
    @classmethod
    def _refuse_local_places(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            scheme, _, place = prefix.partition("://")
            if not place.strip("/") or scheme.lower() in NO_STORAGE:
                raise ValueError(
                    "artifact_prefixes must name a bucket or the like, as in s3://bucket/mlflow, "
                    f"and no file: or http: address; got {prefix!r}"
                )
        return prefixes

    @model_validator(mode="after")
    def _refuse_open_doors(self) -> "Settings":
        # read in any case: a file without a key must not pass for "no keys wanted"
        keys = self.accepted_keys()
        if not (is_loopback(self.host) or self.allow_anonymous or keys):
            raise ValueError(
                f"host {self.host} is reachable from elsewhere and no API key is set; set "
                f"{PREFIX}API_KEYS or "
                f"{PREFIX}API_KEYS_FILE, or {PREFIX}ALLOW_ANONYMOUS=true where something in front "
                "checks callers"
            )
        return self

    @model_validator(mode="after")
    def _admit_the_largest_request(self) -> "Settings":
        if self.max_choices > self.max_batch_size + self.max_queue:
            raise ValueError(
                "max_choices must be at most max_batch_size + max_queue, else the largest request "
                f"is never admitted; got {self.max_choices} and {self.max_batch_size} + "
                f"{self.max_queue}"
            )
        return self

    @property
    def cache_folder(self) -> Path:
        return (self.cache_dir or self.home / "serving").resolve()

    @property
    def guarded(self) -> tuple[str, ...]:
        return GUARDED if self.open_metrics else (*GUARDED, "/metrics")

    def accepted_keys(self) -> list[str]:
        """Every accepted key. raises: ValueError where the file of keys cannot be read, or holds
        none"""
        keys = [key.get_secret_value() for key in self.api_keys]
        if self.api_keys_file is not None:
            try:
                lines = self.api_keys_file.read_text().splitlines()
            except OSError as error:
                raise ValueError(
                    f"api_keys_file {self.api_keys_file} cannot be read: {error.strerror}"
                ) from error
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"api_keys_file {self.api_keys_file} must be text in UTF-8, one key a line"
                ) from error
            in_file = [line.strip() for line in lines if line.strip()]
            if not in_file:
                raise ValueError(
                    f"api_keys_file {self.api_keys_file} must hold a key, got only blank lines; "
                    "write one a line, or "
                    f"unset {PREFIX}API_KEYS_FILE"
                )
            keys += in_file
        return keys


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
