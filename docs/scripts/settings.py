"""The settings page: every field of the settings classes, as the code defines them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from deploy.commands.main import app
from deploy.settings import UpSettings
from docs.scripts.command_line import commands
from docs.scripts.kinds import type_text
from docs.scripts.markdown import code, sentence, table
from feedback.log.kafka_settings import KafkaSettings
from learner.settings import LARGE_MODEL_PARAMETERS, LearnerSettings
from protos.checkpoints.shared_registry import RegistrySettings
from serving.settings import ServingSettings

# Heading, class, and who reads it.
SECTIONS: Final[tuple[tuple[str, type[BaseSettings], str], ...]] = (
    ("plaudit up", UpSettings, "`plaudit up` and `plaudit doctor`"),
    ("Serving", ServingSettings, "each replica (`plaudit serve`)"),
    ("Learner", LearnerSettings, "the learner (`plaudit learn`)"),
    ("Kafka", KafkaSettings, "every process that opens the event log"),
    ("Registry", RegistrySettings, "every process that opens the checkpoint registry"),
)


@dataclass(frozen=True)
class Setting:
    """One setting, as the page shows it."""

    variable: str
    kind: str
    default: str
    description: str


def settings_tables() -> str:
    """Return a table for each settings class and each section of it."""
    parts = []
    for heading, settings, reader in SECTIONS:
        parts.append(f"## {heading}\n\nRead by {reader}.\n")
        parts.append(_table(_direct(settings, prefix_of(settings))))
        for name, section in sections(settings):
            parts.append(f"### {heading}: {name}\n\n{_class_summary(section)}\n")
            parts.append(_table(_direct(section, f"{prefix_of(settings)}{name}__")))
    return "\n".join(parts)


def prefix_of(settings: type[BaseSettings]) -> str:
    """Return the prefix of a class's environment variables."""
    return str(settings.model_config.get("env_prefix") or "")


def _table(settings: Iterator[Setting]) -> str:
    rows = [(code(s.variable), s.kind, s.default, s.description) for s in settings]
    return table(("environment variable", "type", "default", "meaning"), rows)


def _direct(model: type[BaseModel], prefix: str) -> Iterator[Setting]:
    attributes = attribute_docs(model)
    for name, field in model.model_fields.items():
        if not _is_section(field.annotation):
            description = field.description or attributes.get(name, "")
            yield Setting(
                variable=f"{prefix}{name}".upper(),
                kind=type_text(field.annotation, field.metadata),
                default=default_text(field),
                description=sentence(description),
            )


def sections(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield the sections of a settings class with their names."""
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            yield name, field.annotation  # type: ignore[misc]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _class_summary(model: type[BaseModel]) -> str:
    return sentence((model.__doc__ or "").strip().split("\n\n")[0])


def attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """Return the entries of the `Attributes:` section of a class's docstring."""
    _, _, section = (model.__doc__ or "").partition("Attributes:")
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def default_text(field: FieldInfo) -> str:
    """Return a field's default as one would write it in the environment."""
    value = field.get_default(call_default_factory=False)
    if value is PydanticUndefined:
        return "required"
    if value is None or value == "":
        return "not set"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, tuple):
        return code("[]") if not value else code(list(value))
    return code(value)


def large_model_defaults() -> str:
    """Return the defaults that the learner replaces for large models."""
    usual = LearnerSettings.model_construct()
    temperature = usual.ppo.temperature
    small = _flat(usual.for_model(1, temperature))
    large = _flat(usual.for_model(LARGE_MODEL_PARAMETERS + 1, temperature))
    prefix = prefix_of(LearnerSettings)
    rows = [
        (f"{prefix}{name}".upper(), str(small[name]).lower(), str(value).lower())
        for name, value in large.items()
        if value != small[name]
    ]
    header = ("environment variable", "small model", "large model")
    return table(header, [[code(cell) for cell in row] for row in rows])


def _flat(model: BaseModel, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in model:
        if isinstance(value, BaseModel):
            found |= _flat(value, f"{prefix}{name}__")
        else:
            found[prefix + name] = value
    return found


def option_variables() -> str:
    """Return the environment variables of command-line options."""
    readers: dict[str, list[str]] = {}
    for words, command in commands(typer.main.get_command(app)):
        for option in command.params:
            if option.envvar:
                readers.setdefault(option.envvar, []).append(code(" ".join(words)))
    rows = [(code(name), ", ".join(found)) for name, found in sorted(readers.items())]
    return table(("environment variable", "commands"), rows)
