"""Every exception of the service.

    Exception
      ApiError                 an answer other than success: status, code, message
      QueueFull                the engine has no place: 429
      Stopping                 the engine takes nothing in any more: 503
      RuntimeError
        EngineFailure          the model failed while it computed: 500
        LoadsKilled            a version whose loads ended with the process: not tried again unasked
      ValueError
        DamagedVersion         files that are not what the manifest says: the version is refused
      LookupError
        NoModelYet             the registry answers, and has no version under the alias
      OSError
        InterruptedError
          Cancelled            nobody waits for the sequence any more
        TimeoutError
          DeadlinePassed       the sequence did not finish in its time: 504
        ConnectionError
          RegistryUnavailable  the registry does not answer, or not sensibly
          VllmUnavailable      the vLLM server does not answer, or not sensibly

`api/error_answers.py` turns them into HTTP answers. Only `NotCompiled` lives elsewhere, in
compute/native/build.py: that file also runs alone, with nothing but the standard library.
"""

from typing import Any

RETRY_AFTER_S = 1  # where nothing is known of how long it takes

TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable",
    504: "timeout_error",
}


class ApiError(Exception):
    """An answer other than success."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = headers or (
            {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
        )

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error")
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        }


class QueueFull(Exception):
    """More sequences than may wait."""


class Stopping(Exception):
    """An engine that takes nothing in any more."""


class EngineFailure(RuntimeError):
    """A model that failed while it computed; its sequences were given up."""


class LoadsKilled(RuntimeError):
    """A version whose loads ended with their process, twice: none is tried again until a person
    asks."""


class DamagedVersion(ValueError):
    """Files of a model version that are missing, or not what its manifest says."""


class NoModelYet(LookupError):
    """A registry that answers, and has no version under the alias."""


class Cancelled(InterruptedError):
    """A sequence that nobody waits for any more."""


class DeadlinePassed(TimeoutError):
    """A sequence that did not finish in its time."""


class RegistryUnavailable(ConnectionError):
    """A registry that does not answer, or not sensibly."""


class VllmUnavailable(ConnectionError):
    """A vLLM server that does not answer, or not sensibly."""
