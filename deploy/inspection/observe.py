"""Collect what `plaudit status` and `plaudit watch` show, from a server and from a home folder.

What cannot be read is left out and listed with the reason.
"""

import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from deploy.administration.policies import open_log
from feedback.control.history import History
from feedback.control.learning import Learning
from feedback.errors import FeedbackError
from feedback.ledger.store import FOLLOWED_TOPICS
from feedback.log.event_log import EventLog
from feedback.log.kafka_settings import KafkaSettings
from feedback.metrics import database_sizes
from feedback.registry import open_registry
from protos.checkpoints.registry import RegistryError

_TAIL_BYTES: Final = 65_536
_ERRORS: Final = 5
_ERROR: Final = re.compile(r"^(?:(?P<time>\S+ [\d:,]+) )?(?:ERROR|CRITICAL|plaudit:) ?(?P<text>.*)")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class LoggedError:
    """An error in the log file of a process."""

    process: str
    time: str
    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """The state of an installation, as far as it can be seen from this machine.

    Attributes:
        url: URL of the server.
        answer: Whether the server answers and is ready, as the end of a sentence.
        learning: Response of GET /v1/learning, or the same computed from the home folder; None if
            neither is available.
        lag: Log records that the ledger in the home folder does not have; None without a ledger.
        cycle: Saved state of the last learning cycle in the home folder; None without one.
        errors: Last errors in the log files of the home folder, the latest last.
        storage: Sizes of the databases in the home folder, in bytes, by name.
        disk_free: Free space on its disk, in bytes; None without a home folder.
        unreadable: A line for each part of the home folder that cannot be read, with the reason.

    """

    url: str
    answer: str
    learning: dict[str, Any] | None
    lag: int | None
    cycle: dict[str, Any] | None
    errors: tuple[LoggedError, ...]
    storage: Mapping[str, int] = field(default_factory=dict)
    disk_free: int | None = None
    unreadable: tuple[str, ...] = ()


class Observer:
    """Collects the state of one installation, repeatedly."""

    def __init__(self, url: str, api_key: str, home: Path | None) -> None:
        """Observe the server at `url` and, if not None, its home folder."""
        self._url = url.rstrip("/")
        self._http = httpx.Client(headers={"Authorization": f"Bearer {api_key}"}, timeout=5)
        self._home = home
        self._log: EventLog | None = None
        self._local: tuple[History, Learning] | None = None

    def close(self) -> None:
        """Close connections and files."""
        self._http.close()
        if self._log is not None:
            self._log.close()

    def collect_status(self) -> Status:
        """Return the current state."""
        answer, learning = self._query_server()
        home, unreadable = self._home, list[str]()
        if home is None:
            return Status(self._url, answer, learning, lag=None, cycle=None, errors=())

        def read_part(name: str, read: Callable[[], _T]) -> _T | None:
            try:
                return read()
            except (FeedbackError, RegistryError, sqlite3.Error, OSError, ValueError) as error:
                unreadable.append(f"Cannot read {name}: {error}")
                return None

        ledger = home / "ledger.db"
        log = None
        if learning is None or ledger.is_file():
            log = read_part("the log", lambda: self._open_log(home))
        if learning is None and log is not None:
            learning = read_part("the learning state", lambda: self._from_log(home, log))
        lag = None
        if log is not None and ledger.is_file():
            lag = read_part("the learner's lag", lambda: ledger_lag(ledger, log))
        return Status(
            url=self._url,
            answer=answer,
            learning=learning,
            lag=lag,
            cycle=read_part("the last learning cycle", lambda: last_cycle(home)),
            errors=read_part(
                "the log files", lambda: last_errors(sorted((home / "logs").glob("*.log")))
            )
            or (),
            storage=read_part("the sizes of the databases", lambda: database_sizes(home)) or {},
            disk_free=read_part("the disk", lambda: shutil.disk_usage(home).free),
            unreadable=tuple(unreadable),
        )

    def _query_server(self) -> tuple[str, dict[str, Any] | None]:
        try:
            ready = self._http.get(f"{self._url}/readyz")
            response = self._http.get(f"{self._url}/v1/learning")
            learning = response.json() if response.status_code == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"does not answer ({type(error).__name__})", None
        except ValueError:
            return "answers, but is not a Plaudit server", None
        answer = "is ready" if ready.status_code == 200 else f"is not ready ({ready.status_code})"
        if learning is not None:
            return answer, learning
        if response.status_code == 401:
            return f"{answer}, but requires an API key (--api-key or PLAUDIT_API_KEY)", None
        return f"{answer}, but GET /v1/learning failed ({response.status_code})", None

    def _open_log(self, home: Path) -> EventLog | None:
        exists = (home / "log.db").is_file() or bool(KafkaSettings().servers)
        if exists and self._log is None:
            self._log = open_log(home)
        return self._log

    def _from_log(self, home: Path, log: EventLog) -> dict[str, Any]:
        if self._local is None:
            history = History(log)
            self._local = history, Learning(history, open_registry(home), None)
        history, learning = self._local
        history.poll()
        return learning.snapshot()


def ledger_lag(ledger: Path, log: EventLog) -> int:
    """Return the number of log records that a ledger has not read yet.

    Raises:
        LogUnavailable: The log's end offsets cannot be read.
        sqlite3.OperationalError: The ledger is being created, or locked.

    """
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=5)) as db:
        rows = db.execute("SELECT topic, partition, next FROM positions").fetchall()
    positions: dict[tuple[str, int], int] = {
        (topic, number): offset for topic, number, offset in rows
    }
    ends = {
        (topic, number): end for topic in FOLLOWED_TOPICS for number, end in log.ends(topic).items()
    }
    return sum(max(0, end - positions.get(partition, 0)) for partition, end in ends.items())


def last_cycle(home: Path) -> dict[str, Any] | None:
    """Return the saved state of the last learning cycle, or None if there is none."""
    files = list((home / "learner" / "cycles").glob("*/state.json"))
    if not files:
        return None
    latest = max(files, key=lambda path: int(path.parent.name))
    state: dict[str, Any] = json.loads(latest.read_text())
    return state


def last_errors(files: Sequence[Path], count: int = _ERRORS) -> tuple[LoggedError, ...]:
    """Return the last errors at the ends of log files, ordered by time."""
    errors = []
    for file in files:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
        matches = [match for line in lines if (match := _ERROR.match(line))]
        errors += [LoggedError(file.stem, m["time"] or "", m["text"].strip()) for m in matches]
    return tuple(sorted(errors, key=lambda error: error.time)[-count:])
