"""What several commands share: their options, and how they speak."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

# Names and reasons are printed as they are: a bracket in one is no markup.
console = Console(highlight=False, markup=False, emoji=False)

Home = Annotated[
    Path, typer.Option(envvar="PLAUDIT_HOME", help="Folder of models, log, registry and secret.")
]
TuneOption = Annotated[
    Literal["full", "lora"] | None,
    typer.Option(help="Train all weights, or adapters [adapters for large models]."),
]
DtypeOption = Annotated[str, typer.Option(help="auto, float32 or bfloat16.")]


def _use_kafka(servers: str | None) -> None:
    """Let this process, and those that it starts, find Kafka."""
    if servers:
        os.environ["PLAUDIT_KAFKA_SERVERS"] = servers


def _use_registry(url: str | None) -> None:
    """Let this process, and those that it starts, find the registry."""
    if url:
        os.environ["PLAUDIT_REGISTRY"] = url


RegistryUrl = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="PLAUDIT_REGISTRY",
        callback=_use_registry,
        help="fsspec URL of the checkpoints (s3://bucket/prefix); none: a folder in the home.",
    ),
]
Kafka = Annotated[
    str | None,
    typer.Option(
        envvar="PLAUDIT_KAFKA_SERVERS",
        callback=_use_kafka,
        help="HOST:PORT of Kafka brokers, with commas; none: SQLite in the home folder.",
    ),
]


def echo(text: str) -> None:
    """Print a line as it is."""
    console.print(text, soft_wrap=True)
