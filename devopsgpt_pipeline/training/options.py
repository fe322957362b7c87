"""Training settings on the command line: NAME=VALUE, checked against the dataclass that declares
them."""

import dataclasses
from collections.abc import Sequence

from devopsgpt_model.config import TrainingConfig, field_docs, preset, training_config


def changed(preset_name: str, changes: Sequence[str]) -> TrainingConfig:
    """A preset with some settings changed. raises: ValueError for a setting that is unknown or out
    of range"""
    types = {field.name: field.type for field in dataclasses.fields(TrainingConfig)}
    values = dataclasses.asdict(preset(preset_name))
    for change in changes:
        name, _, text = change.partition("=")
        if name not in types:
            raise ValueError(
                f"unknown training setting {name!r} in {change!r}; --list-settings shows them all"
            )
        values[name] = _parse(name, text, types[name])
    return training_config(values)


def _parse(name: str, text: str, kind: object) -> object:
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)  # type: ignore[operator]
    except (KeyError, ValueError):
        wanted = "true or false" if kind is bool else getattr(kind, "__name__", kind)
        raise ValueError(f"{name} must be {wanted}, got {text!r}") from None


def describe(config: TrainingConfig) -> str:
    """Every setting with its value and its docstring."""
    docs = field_docs(TrainingConfig)
    lines = [
        f"{name} = {value}\n    {docs[name]}" for name, value in dataclasses.asdict(config).items()
    ]
    return "\n".join(lines)
