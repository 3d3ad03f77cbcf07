"""`plaudit status`, `plaudit watch` and `plaudit doctor`."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from deploy.commands.options import Kafka, RegistryUrl, console, echo
from deploy.settings import DEFAULT_HOME, UpSettings

Url = Annotated[str, typer.Option(help="Where Plaudit is.")]
ApiKey = Annotated[str, typer.Option(envvar="PLAUDIT_API_KEY", help="Where it wants one.")]
HomeHere = Annotated[
    Path | None,
    typer.Option(envvar="PLAUDIT_HOME", help="Its folder [.plaudit, where --url is this machine]."),
]
_LOCAL = "http://127.0.0.1:8000"
_WATCH_SECONDS = 1.0


def _home_of(url: str) -> Path | None:
    """Return this folder's installation, unless the server is another machine's."""
    from serving.http.access import is_loopback

    return DEFAULT_HOME if is_loopback(urlsplit(url).hostname or "") else None


def status(
    url: Url = _LOCAL,
    api_key: ApiKey = "none",
    home: HomeHere = None,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Show in one screen how it is: replicas, versions, lag, last cycle, votes, last errors."""
    from deploy.inspection.observe import Observer
    from deploy.inspection.screen import screen

    observer = Observer(url, api_key, home or _home_of(url))
    console.print(screen(observer.collect_status()))
    observer.close()


def watch(
    url: Url = _LOCAL,
    api_key: ApiKey = "none",
    home: HomeHere = None,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Show the same live, until Ctrl-C."""
    import time

    from rich.live import Live

    from deploy.inspection.observe import Observer
    from deploy.inspection.screen import screen

    observer = Observer(url, api_key, home or _home_of(url))
    try:
        with Live(screen(observer.collect_status()), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(_WATCH_SECONDS)
                live.update(screen(observer.collect_status()), refresh=True)
    except KeyboardInterrupt:
        pass
    finally:
        observer.close()


def doctor(
    home: Annotated[Path | None, typer.Option(help="Folder of everything [.plaudit].")] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the endpoint [8000].")] = None,
    learner_port: Annotated[
        int | None, typer.Option(help="Port of learner metrics [8001].")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="default, smollm2, or a Hugging Face folder or id.")
    ] = None,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Check what 'plaudit up' would run on, and say what to do; exit status 1 on a problem."""
    from deploy.inspection.doctor import examine

    given = {
        "home": home,
        "host": host,
        "port": port,
        "learner_port": learner_port,
        "model": model,
    }
    options = {name: value for name, value in given.items() if value is not None}
    found = []
    for finding in examine(UpSettings(**options)):  # type: ignore[arg-type]
        echo(finding.line())
        found.append(finding)
    problems = sum(finding.level == "problem" for finding in found)
    warnings = sum(finding.level == "warning" for finding in found)
    echo(f"{len(found)} checks: {problems} problems, {warnings} warnings.")
    if problems:
        raise typer.Exit(1)
