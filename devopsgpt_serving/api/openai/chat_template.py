"""A conversation as one text: the operator's Jinja template, rendered in Jinja's sandbox.

The template comes from this machine, never from the registry. It sees `messages`, each with a role
and a content, `add_generation_prompt`, `bos_token` and `eos_token`, as Hugging Face's templates do.
A template may `{% set stop = [...] %}` the texts at which an answer ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from devopsgpt_model.tokenizer import END_OF_TEXT
from devopsgpt_serving.errors import ApiError

PLAIN = "plain"
MAX_TEMPLATE_BYTES = 100_000


@dataclass(frozen=True)
class Rendered:
    """What the model reads, and where its answer ends."""

    text: str
    stop: tuple[str, ...]


class ChatTemplate:
    """A compiled template."""

    def __init__(self, template: Template) -> None:
        self._template = template

    def render(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool) -> Rendered:
        """The conversation as text. raises: ApiError 400 where the template refuses it"""
        facts: dict[str, Any] = {
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
        }
        try:
            module = self._template.make_module(facts)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            message = f"messages: the chat template refuses them: {error!s:.300}"
            raise ApiError(400, "chat_template_error", message, "messages") from error
        stop = getattr(module, "stop", ())
        stop = (stop,) if isinstance(stop, str) else stop
        return Rendered(str(module), tuple(str(one) for one in stop if str(one)))


def open_chat_template(place: Path | None) -> ChatTemplate | None:
    """The template of a file, or the shipped one of the name "plain"; None for None.

    raises: ValueError where it cannot be read, is too large, or is no template
    """
    if place is None:
        return None
    try:
        source = _read(place)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise_exception
        return ChatTemplate(environment.from_string(source))
    except (OSError, UnicodeDecodeError, TemplateError) as error:
        raise ValueError(
            f'chat_template {place} must be "{PLAIN}", or a file with a Jinja template: {error}'
        ) from error


def _read(place: Path) -> str:
    if str(place) == PLAIN:
        return files(__package__).joinpath("templates", "plain.jinja").read_text("utf-8")
    if (size := place.stat().st_size) > MAX_TEMPLATE_BYTES:
        raise ValueError(
            f"chat_template {place} may have at most {MAX_TEMPLATE_BYTES} bytes, got {size}"
        )
    return place.read_text("utf-8")


def _raise_exception(message: str) -> NoReturn:
    """What Hugging Face's templates call to refuse a conversation."""
    raise TemplateError(message)
