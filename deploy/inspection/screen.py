"""`plaudit status` as one screen of text."""

import datetime
import math
import time
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy.inspection.observe import Status

_MAX_VERSIONS: Final = 6
_MAX_ERROR_CHARACTERS: Final = 160


def screen(status: Status, now: float | None = None) -> RenderableType:
    """Return the screen for a status; `now` is in Unix seconds."""
    now = time.time() if now is None else now
    learning = status.learning
    parts: list[RenderableType] = [Text.assemble((f"{status.url} ", "bold"), status.answer)]
    if learning is None:
        parts.append(Text("The learning state is not available; use --url or --home."))
        parts.append(_table(_cycle(status), _lag(status), _storage(status)))
    else:
        parts += [
            _live(learning),
            _table(
                _learner(learning["loop"], now),
                _cycle(status),
                _votes(learning["votes"]),
                _lag(status),
                _storage(status),
            ),
            _versions(learning),
            *_refused(learning, now),
        ]
    parts += [Text(line, style="yellow") for line in status.unreadable]
    if status.errors:
        parts.append(Text("Last errors in the log files", style="bold"))
        parts += [
            Text(f"  {e.process} {e.time} {e.text}"[:_MAX_ERROR_CHARACTERS], style="red")
            for e in status.errors
        ]
    return Group(*parts)


def _live(learning: dict[str, Any]) -> Text:
    live = learning["live"]
    text = Text(f"Version {live} is live" if live else "No version is live", style="bold green")
    if learning["on_trial"]:
        text.append(f"; version {learning['on_trial']} is on trial", style="yellow")
    if learning["held"]:
        text.append("; publishing is held ('plaudit policies resume')", style="bold red")
    return text


def _table(*rows: tuple[str, str] | None) -> Table:
    table = Table.grid(padding=(0, 2))
    for row in rows:
        if row is not None:
            table.add_row(*row)
    return table


def _learner(state: dict[str, Any], now: float) -> tuple[str, str]:
    if state["stage"] == "unknown":
        return "learner", "has not reported its stage yet"
    text = state["stage"]
    if state["cycle"]:
        text = f"cycle {state['cycle']}, {text}"
    if state["iterations"]:
        text += f" {state['iteration']}/{state['iterations']}"
    return "learner", f"{text}, for {_duration(now - state['since'])}"


def _cycle(status: Status) -> tuple[str, str] | None:
    if status.cycle is None:
        return None
    cycle = status.cycle
    outcome = cycle["outcome"] or f"in progress ({cycle['stage']})"
    reasons = f": {'; '.join(cycle['reasons'])}" if cycle["reasons"] else ""
    seconds = sum(cycle["seconds"].values())
    return "last cycle", f"{cycle['number']}: {outcome}{reasons}; took {_duration(seconds)}"


def _votes(votes: dict[str, Any] | None) -> tuple[str, str] | None:
    if votes is None:
        return None
    kinds = ", ".join(f"{kind} {count}" for kind, count in votes["kinds"].items())
    effective = f"{votes['total']} ({kinds})" if kinds else "none yet"
    return "votes", f"{effective}; {votes['waiting']} not learned from yet"


def _lag(status: Status) -> tuple[str, str] | None:
    if status.lag is None:
        return None
    return "lag", f"{status.lag} log records are not in the ledger yet"


def _storage(status: Status) -> tuple[str, str] | None:
    if status.disk_free is None:
        return None
    sizes = ", ".join(f"{name} {_bytes(size)}" for name, size in status.storage.items())
    free = f"{_bytes(status.disk_free)} of the disk are free"
    return "storage", f"{sizes}; {free}" if sizes else free


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _versions(learning: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("version", "parent", "state", "votes", "win rate", "over 1", "perplexity", "on"):
        table.add_column(column)
    for version in learning["versions"][-_MAX_VERSIONS:]:
        figures = version["figures"]
        nll = figures.get("text_nll")
        serving = [name for name, v in learning["replicas"].items() if v == version["version"]]
        table.add_row(
            str(version["version"]),
            str(version["parent"] or ""),
            version["state"].replace("_", " "),
            str(version["votes"] or ""),
            _share(figures.get("win_rate")),
            _share(figures.get("win_rate_over_first")),
            "" if nll is None else f"{math.exp(min(nll, 30)):.1f}",
            ", ".join(serving),
        )
    return table


def _refused(learning: dict[str, Any], now: float) -> list[Text]:
    if not learning["refused"]:
        return []
    last = learning["refused"][-1]
    age, reasons = _duration(now - last["created"]), "; ".join(last["reasons"])
    return [Text(f"Last refused: a candidate from version {last['parent']}, {age} ago: {reasons}")]


def _share(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.2f}"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=max(0, round(seconds))))
