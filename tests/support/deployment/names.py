"""What files under deploy/ may refer to: commands, options, variables, routes and ports."""

import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from fastapi import FastAPI
from pydantic import BaseModel
from pydantic_settings import BaseSettings
from typer.exceptions import TyperException

from deploy.commands.main import app
from deploy.settings import UpSettings
from feedback.log.kafka_settings import KafkaSettings
from learner.settings import LearnerSettings
from protos.checkpoints.shared_registry import RegistrySettings
from serving.http.routes import ALLOWED_PATHS, health_router
from serving.settings import ServingSettings

_VARIABLE = re.compile(r"PLAUDIT_[A-Z0-9]+(?:_+[A-Z0-9]+)*")
_ONLY_IN_TESTS = {"PLAUDIT_FAILPOINTS"}


def tool(name: str) -> str:
    """Return the path of a program, preferably from the development packages."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found is not None, f"{name} is not installed; run 'uv sync'"
    return found


def parsed(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Parse the arguments of `plaudit` without running it; return the command and its options.

    Raises:
        ValueError: The command or an option does not exist.

    """
    command: Any = typer.main.get_command(app)
    path, rest = [], list(words)
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            raise ValueError(f"no command 'plaudit {' '.join([*path, *rest[:1]])}'")
        command = command.commands[rest[0]]
        path.append(rest.pop(0))
    context = command.context_class(command, info_name=path[-1])
    try:
        options, _, _ = command.make_parser(context).parse_args(rest)
    except TyperException as error:
        raise ValueError(f"plaudit {' '.join(path)}: {error}") from error
    return " ".join(path), options


def command_problems(words: Sequence[str], where: str) -> list[str]:
    """Return the problem of a `plaudit` command that does not exist."""
    try:
        parsed(words)
    except ValueError as error:
        return [f"{where}: {error}"]
    return []


def port_of(words: Sequence[str]) -> int | None:
    """Return the port that a command listens on, or None if it does not listen."""
    command, options = parsed(words)
    listening: dict[str, tuple[type[BaseSettings], str]] = {
        "serve": (ServingSettings, "port"),
        "learn": (LearnerSettings, "metrics_port"),
    }
    if command not in listening or options.get("join"):
        return None
    settings, option = listening[command]
    return int(options.get(option, settings.model_fields[option].default))


def routes_of(words: Sequence[str]) -> frozenset[str]:
    """Return the paths without parameters that a command serves."""
    command, options = parsed(words)
    if command == "learn":
        return frozenset(() if options.get("join") else ("/metrics",))
    if command != "serve":
        return frozenset()
    health = FastAPI()
    health.include_router(health_router(lambda: True, lambda: 1, lambda: None))
    return ALLOWED_PATHS | {getattr(route, "path", "") for route in health.routes}


def variables() -> set[str]:
    """Return all environment variables that settings or options are read from."""
    found = set(_ONLY_IN_TESTS)
    for settings in (UpSettings, ServingSettings, LearnerSettings, KafkaSettings, RegistrySettings):
        config = settings.model_config
        found |= set(_fields(settings, config["env_prefix"] or ""))
    return found | set(_option_variables(typer.main.get_command(app)))


def _fields(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}".upper()
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        if nested and not issubclass(kind, BaseSettings):
            yield from _fields(kind, f"{prefix}{name}__")


def _option_variables(command: Any) -> Iterator[str]:
    for below in getattr(command, "commands", {}).values():
        yield from _option_variables(below)
    yield from (option.envvar for option in command.params if option.envvar)


def variable_problems(text: str, where: str) -> list[str]:
    """Return a problem for each environment variable in a text that nothing reads."""
    unknown = set(_VARIABLE.findall(text)) - variables()
    return [f"{where}: nothing reads {name}" for name in sorted(unknown)]


def commands_in_markdown(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `plaudit` command in code spans and blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M))
    lines = [line for block in blocks for line in block.splitlines()]
    yield from (words for line in [*lines, *spans] if (words := _arguments(line)))


def commands_in_comments(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `plaudit` command in a file's comments."""
    lines = (line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    yield from (words for line in lines if (words := _arguments(line)))


def _arguments(line: str) -> list[str]:
    """Return what follows `plaudit` in a line that runs it, directly, with uv or in a container."""
    if not re.match(r"(uv run|kubectl .* --|docker compose .* run --rm \w+ |plaudit\b)", line):
        return []
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose
        return []
    if words[:2] == ["docker", "compose"]:
        return words[words.index("--rm") + 2 :]
    return words[words.index("plaudit") + 1 :] if "plaudit" in words else []
