"""Fields that a client sends and this service does not know.

As in vLLM, an unknown field is ignored, and named once in the log and in the header
`X-Ignored-Fields`. A field that would change what the answer means is refused.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import Request

from devopsgpt_serving.api.service import Service
from devopsgpt_serving.errors import ApiError

log = logging.getLogger(__name__)

MEANINGFUL = {
    *("allowed_token_ids", "audio", "bad_words", "chat_template"),
    *("continue_final_message", "documents", "function_call", "functions"),
    *("guided_choice", "guided_grammar", "guided_json", "guided_regex"),
    *("include_stop_str_in_output", "modalities", "prompt_embeds", "prompt_logprobs"),
    *("response_format", "structured_outputs", "tool_choice", "tools"),
    *("use_beam_search"),
}
"""Fields of OpenAI's and vLLM's whose effect a caller would miss."""
NO_EFFECT: tuple[object, ...] = (
    None,
    False,
    "",
    [],
    {},
    {"type": "text"},
    ["text"],
    "none",
    "auto",
)

MOST_NAMES = 20  # in a header, and of one request in the log
MOST_CHARACTERS = 40  # of each name
MOST_LOGGED = 1000  # names in all, so that nobody fills the log


def ignore_unknown(request: Request, service: Service, unknown: Mapping[str, Any]) -> None:
    """Name the fields that are ignored. raises: ApiError 422 for one that changes the answer"""
    for name, value in unknown.items():
        if name in MEANINGFUL and value not in NO_EFFECT:
            raise ApiError(
                422,
                "unsupported_field",
                f"{name}: not supported, and the answer would not be what it asks for; leave it "
                "out",
                name,
            )
    if unknown:
        names = [escaped(name) for name in list(unknown)[:MOST_NAMES]]
        request.state.ignored_fields = ", ".join(names)
        _log_once(names, service.ignored_fields)


def _log_once(names: Iterable[str], logged: set[str]) -> None:
    new = [name for name in names if name not in logged]
    if new and len(logged) < MOST_LOGGED:
        logged.update(new)
        log.info("unknown fields are ignored", extra={"fields": new})


def escaped(name: str) -> str:
    """A field's name as a header can carry it: visible ASCII without commas, not too long."""
    shown = "".join(
        character if "!" <= character <= "~" and character != "," else f"\\u{ord(character):04x}"
        for character in name[:MOST_CHARACTERS]
    )
    return shown or '""'
