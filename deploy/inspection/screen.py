"""`plaudit status` as one screen of text."""

import datetime
import math
import time
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy.inspection.observe import Status

_VERSIONS: Final = 6  # the latest shown
_WIDEST: Final = 160  # characters of an error


def screen(status: Status, now: float | None = None) -> RenderableType:
    """Return what to show; `now` in Unix seconds."""
    now = time.time() if now is None else now
    learning = status.learning
    parts: list[RenderableType] = [Text.assemble((f"{status.url} ", "bold"), status.answer)]
    if learning is None:
        parts.append(Text("How it learns cannot be seen from here: give --url, or --home."))
        parts.append(_table(_cycle(status), _lag(status)))
    else:
        parts += [
            _live(learning),
            _table(
                _loop(learning["loop"], now),
                _cycle(status),
                _votes(learning["votes"]),
                _lag(status),
            ),
            _versions(learning),
            *_refused(learning, now),
        ]
    parts += [Text(line, style="yellow") for line in status.unreadable]
    if status.errors:
        parts.append(Text("Last errors in the logs", style="bold"))
        parts += [
            Text(f"  {e.part} {e.when} {e.text}"[:_WIDEST], style="red") for e in status.errors
        ]
    return Group(*parts)


def _live(learning: dict[str, Any]) -> Text:
    live = learning["live"]
    text = Text(f"Version {live} is live" if live else "Nothing is live", style="bold green")
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


def _loop(loop: dict[str, Any], now: float) -> tuple[str, str]:
    if loop["stage"] == "unknown":
        return "learner", "has not said where it is"
    text = loop["stage"]
    if loop["cycle"]:
        text = f"cycle {loop['cycle']}, {text}"
    if loop["iterations"]:
        text += f" {loop['iteration']}/{loop['iterations']}"
    return "learner", f"{text}, for {_ago(now - loop['since'])}"


def _cycle(status: Status) -> tuple[str, str] | None:
    if status.cycle is None:
        return None
    cycle = status.cycle
    told = cycle["outcome"] or f"under way ({cycle['stage']})"
    why = f": {'; '.join(cycle['reasons'])}" if cycle["reasons"] else ""
    took = sum(cycle["seconds"].values())
    return "last cycle", f"{cycle['number']}: {told}{why}; {_ago(took)} of work"


def _votes(votes: dict[str, Any] | None) -> tuple[str, str] | None:
    if votes is None:
        return None
    kinds = ", ".join(f"{kind} {count}" for kind, count in votes["kinds"].items())
    told = f"{votes['total']} that count ({kinds})" if kinds else "none yet"
    return "votes", f"{told}; {votes['waiting']} not learned from yet"


def _lag(status: Status) -> tuple[str, str] | None:
    if status.lag is None:
        return None
    return "lag", f"{status.lag} records of the log are not in the ledger"


def _versions(learning: dict[str, Any]) -> Table:
    table = Table(box=None, header_style="bold")
    for column in ("version", "parent", "state", "votes", "wins", "over 1", "perplexity", "on"):
        table.add_column(column)
    for one in learning["versions"][-_VERSIONS:]:
        figures = one["figures"]
        nll = figures.get("text_nll")
        serving = [name for name, v in learning["replicas"].items() if v == one["version"]]
        table.add_row(
            str(one["version"]),
            str(one["parent"] or ""),
            one["state"].replace("_", " "),
            str(one["votes"] or ""),
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
    ago, why = _ago(now - last["created"]), "; ".join(last["reasons"])
    return [Text(f"Last refused: a candidate made from version {last['parent']}, {ago} ago: {why}")]


def _share(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.2f}"


def _ago(seconds: float) -> str:
    return str(datetime.timedelta(seconds=max(0, round(seconds))))
