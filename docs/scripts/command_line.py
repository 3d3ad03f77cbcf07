"""The page of the command line: every command with its arguments and options."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
import typer

from deploy.commands.main import app
from docs.scripts.kinds import type_text
from docs.scripts.markdown import code, sentence, table


def command_sections() -> str:
    """Return a section for each command."""
    parts = []
    for words, command in commands(typer.main.get_command(app)):
        parts.append(f"## plaudit {' '.join(words)}\n")
        parts.append(_help(command))
        parts.append(f"```text\nplaudit {' '.join([*words, *_usage(command)])}\n```\n")
        rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            parts.append(table(("argument or option", "type", "default", "meaning"), rows))
    return "\n".join(parts)


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that runs something, with the words that name it."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, member in below.items():
        yield from commands(member, (*path, name))


def _help(command: Any) -> str:
    return re.sub(r"\n\s*\n", "\n\n", (command.help or "").strip()) + "\n"


def _usage(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name = _argument_name(parameter)
            yield name if parameter.required else f"[{name}]"
        elif parameter.required:
            yield f"{parameter.opts[0]} {_argument_name(parameter)}"
    if any(p.param_type_name == "option" and not p.required for p in command.params):
        yield "[OPTIONS]"


def _argument_name(parameter: Any) -> str:
    return str(parameter.name).upper().replace("_", "-")


def _row(parameter: Any) -> tuple[str, str, str, str]:
    if parameter.param_type_name == "argument":
        name = code(_argument_name(parameter))
    else:
        name = ", ".join(code(option) for option in (*parameter.opts, *parameter.secondary_opts))
    meaning = sentence(getattr(parameter, "help", None) or "")
    if parameter.envvar:
        meaning += f" Environment variable: {code(parameter.envvar)}."
    if parameter.multiple and "repeat" not in meaning:
        meaning += " May be repeated."
    return name, _type(parameter), _default(parameter), meaning


def _type(parameter: Any) -> str:
    if parameter.is_flag if parameter.param_type_name == "option" else False:
        return "flag"
    bounds = []
    if parameter.min is not None:
        bounds.append(annotated_types.Ge(parameter.min))
    if parameter.max is not None:
        bounds.append(annotated_types.Le(parameter.max))
    return type_text(parameter.type_descriptor.annotation, bounds)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if isinstance(value, bool):
        return "off" if not value else "on"
    return code(value) if isinstance(value, str | int | float | Path) else ""
