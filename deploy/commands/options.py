"""Options that several commands share, and how commands print."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

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


def drop_none(**options: Any) -> dict[str, Any]:
    """Return the options that were given, so that settings supply the others."""
    return {name: value for name, value in options.items() if value is not None}


def echo(text: str) -> None:
    """Print a line literally, without wrapping it."""
    console.print(text, soft_wrap=True)
