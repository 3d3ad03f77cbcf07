"""`plaudit simulate` and `plaudit kafka`: simulated raters and a local Kafka, for development."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.commands.options import ApiKey, echo
from deploy.errors import DeployError
from deploy.local.processes import stop_on_signals
from deploy.settings import DEFAULT_HOME


def simulate(
    preference: Annotated[str, typer.Option(help="One of concise, polite, detailed, questions.")],
    comparisons: Annotated[int, typer.Option(min=1, help="Number of comparisons to send.")] = 400,
    raters: Annotated[int, typer.Option(min=1, help="Number of concurrent raters.")] = 8,
    url: Annotated[
        list[str] | None,
        typer.Option(
            help="URL of a replica; repeat it for several (default: http://127.0.0.1:8000)."
        ),
    ] = None,
    noise: Annotated[float, typer.Option(min=0.01, help="Noise of the raters' judgement.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer.")] = 96,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for a new version after the last vote.")
    ] = 900,
    api_key: ApiKey = "none",
) -> None:
    """Simulate people with a hidden preference who chat and vote over the HTTP API."""
    from deploy.simulation.simulate import Plan
    from deploy.simulation.simulate import simulate as run_simulate

    progress = run_simulate(
        Plan(
            urls=tuple(u.rstrip("/") for u in url or ["http://127.0.0.1:8000"]),
            preference=preference,
            comparisons=comparisons,
            raters=raters,
            noise=noise,
            seed=seed,
            max_tokens=max_tokens,
            wait_seconds=wait,
            api_key=api_key,
        )
    )
    if progress.version == progress.first_version:
        raise DeployError(
            "no later version went live in time; see the learner's log for the reason"
        )


def kafka(
    folder: Annotated[Path, typer.Option(help="Folder of the broker's data.")] = DEFAULT_HOME
    / "kafka",
    port: Annotated[int, typer.Option(help="Port for clients.")] = 9092,
    controller_port: Annotated[int, typer.Option(help="Port of the controller.")] = 9093,
) -> None:
    """Run a single-node Apache Kafka for development; needs JDK 17 and Maven."""
    from deploy.local.broker import Broker

    broker = Broker(folder, port, controller_port)
    stop = stop_on_signals()
    broker.start(echo)
    echo(f"Kafka is running. In another terminal: plaudit up --kafka {broker.address}")
    while not stop.wait(0.5):
        if broker.process is None or broker.process.poll() is not None:
            raise DeployError(f"Kafka has stopped; see {folder / 'kafka.log'}")
    broker.stop()
