"""`plaudit status`, `plaudit watch` and `plaudit doctor`."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from deploy.commands.options import (
    LOCAL_URL,
    ApiKey,
    Kafka,
    RegistryUrl,
    UpHome,
    UpHost,
    UpLearnerPort,
    UpModel,
    UpPort,
    Url,
    console,
    drop_none,
    echo,
)
from deploy.settings import DEFAULT_HOME, UpSettings

LocalHome = Annotated[
    Path | None,
    typer.Option(
        envvar="PLAUDIT_HOME",
        help="Home folder of the server (default: .plaudit, if --url is this machine).",
    ),
]
_WATCH_SECONDS = 1.0


def _home_of(url: str) -> Path | None:
    """Return the default home folder, or None if the server is on another machine."""
    from serving.http.access import is_loopback

    return DEFAULT_HOME if is_loopback(urlsplit(url).hostname or "") else None


def status(
    url: Url = LOCAL_URL,
    api_key: ApiKey = "none",
    home: LocalHome = None,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Show the current state: replicas, versions, lag, last learning cycle, votes, last errors."""
    from deploy.inspection.observe import Observer
    from deploy.inspection.screen import screen

    observer = Observer(url, api_key, home or _home_of(url))
    console.print(screen(observer.collect_status()))
    observer.close()


def watch(
    url: Url = LOCAL_URL,
    api_key: ApiKey = "none",
    home: LocalHome = None,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Show what 'plaudit status' shows, updated every second until Ctrl-C."""
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
    home: UpHome = None,
    host: UpHost = None,
    port: UpPort = None,
    learner_port: UpLearnerPort = None,
    model: UpModel = None,
    kafka: Kafka = None,
    registry: RegistryUrl = None,
) -> None:
    """Check that 'plaudit up' can run here and say what to fix; exit status 1 on a problem."""
    from deploy.inspection.doctor import examine

    options = drop_none(home=home, host=host, port=port, learner_port=learner_port, model=model)
    levels = []
    for finding in examine(UpSettings(**options)):
        echo(finding.line())
        levels.append(finding.level)
    problems, warnings = levels.count("problem"), levels.count("warning")
    echo(f"{len(levels)} checks: {problems} problems, {warnings} warnings.")
    if problems:
        raise typer.Exit(1)
