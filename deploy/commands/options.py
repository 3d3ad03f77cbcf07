"""Options that several commands share, and how commands print."""

import functools
import inspect
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel
from rich.console import Console

from deploy.settings import VLLM_ARGUMENTS

# Text is printed literally: a name or an error message may contain brackets, which are not markup.
console = Console(highlight=False, markup=False, emoji=False)

# Help texts give defaults in parentheses, because Typer reads brackets in them as markup.
Home = Annotated[
    Path,
    typer.Option(
        envvar="PLAUDIT_HOME",
        help="Home folder of the installation: models, log, registry and secret.",
    ),
]
ApiKey = Annotated[
    str, typer.Option(envvar="PLAUDIT_API_KEY", help="API key, if the server requires one.")
]
LOCAL_URL = "http://127.0.0.1:8000"
Url = Annotated[str, typer.Option(help="URL of a Plaudit server.")]
FromScratch = Annotated[
    bool,
    typer.Option(
        "--from-scratch",
        help="Train a small model from random weights instead of using the shipped default model.",
    ),
]
TuneOption = Annotated[
    Literal["full", "lora"] | None,
    typer.Option(
        help="Train all weights (full) or LoRA adapters (lora). Default: adapters for large models."
    ),
]
DtypeOption = Annotated[str, typer.Option(help="Number format: auto, float32 or bfloat16.")]

# Options of `plaudit up`, which `plaudit doctor` checks. None stands for UpSettings' value.
UpHome = Annotated[
    Path | None,
    typer.Option(help="Home folder of the installation (default: .plaudit)."),
]
UpHost = Annotated[
    str | None, typer.Option(help="Address that the endpoint binds to (default: 127.0.0.1).")
]
UpPort = Annotated[int | None, typer.Option(help="Port of the endpoint (default: 8000).")]
UpLearnerPort = Annotated[
    int | None, typer.Option(help="Port of the learner's metrics (default: 8001).")
]
UpModel = Annotated[
    str | None,
    typer.Option(
        help="First policy: 'default', 'smollm2', or the folder or id of a Hugging Face model."
    ),
]


def _use_kafka(servers: str | None) -> None:
    """Set the Kafka brokers for this process and its children."""
    if servers:
        os.environ["PLAUDIT_KAFKA_SERVERS"] = servers


def _use_registry(url: str | None) -> None:
    """Set the registry's URL for this process and its children."""
    if url:
        os.environ["PLAUDIT_REGISTRY"] = url


RegistryUrl = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="PLAUDIT_REGISTRY",
        callback=_use_registry,
        help="fsspec URL of a shared registry, such as s3://bucket/prefix. "
        "Default: a folder in the home.",
    ),
]
Kafka = Annotated[
    str | None,
    typer.Option(
        envvar="PLAUDIT_KAFKA_SERVERS",
        callback=_use_kafka,
        help="Kafka brokers as HOST:PORT, separated by commas. Default: SQLite in the home folder.",
    ),
]


def _use_vllm_arguments(arguments: list[str] | None) -> list[str] | None:
    """Set vLLM's arguments for this process and its children."""
    if arguments:
        os.environ[VLLM_ARGUMENTS] = shlex.join(arguments)
    return arguments


VllmArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[-- VLLM_ARGUMENTS]",
        callback=_use_vllm_arguments,
        help="Arguments of vLLM's server, after '--', such as --tensor-parallel-size 2. Those "
        "that would break recording or swapping are refused.",
    ),
]


def drop_none(**options: Any) -> dict[str, Any]:
    """Return the options that were given, so that settings supply the others."""
    return {name: value for name, value in options.items() if value is not None}


def echo(text: str) -> None:
    """Print a line literally, without wrapping it."""
    console.print(text, soft_wrap=True)


def settings_options(
    settings: type[BaseModel], parameter: str = "settings"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds one option per field of a settings model to a command.

    Names, help texts and defaults are those of the fields. The command gets the settings as one
    argument.

    Args:
        settings: Settings model; all fields have defaults.
        parameter: Name of the command's argument for the settings.

    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            values = {name: given.pop(name) for name in settings.model_fields}
            command(**given, **{parameter: settings(**values)})

        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != parameter]
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[field.annotation, typer.Option(help=field.description)],
            )
            for name, field in settings.model_fields.items()
        ]
        run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return run

    return decorate
