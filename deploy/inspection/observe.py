"""What `plaudit status` and `plaudit watch` look at: a server, and the home where it is here.

Each part that cannot be seen from here is left out, and why it cannot is told.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
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
from protos.checkpoints.registry import RegistryError
from protos.checkpoints.shared_registry import open_registry

_TAIL_BYTES: Final = 65_536
_ERRORS: Final = 5
_ERROR: Final = re.compile(r"^(?:(?P<when>\S+ [\d:,]+) )?(?:ERROR|CRITICAL|plaudit:) ?(?P<text>.*)")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class LoggedError:
    """An error that a part wrote into its log."""

    part: str
    when: str
    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """What was seen.

    Attributes:
        url: Of the server asked.
        answer: What it said of itself, in words.
        learning: GET /v1/learning, or the same from the home; None: neither is there.
        lag: Log records that the learner's ledger here has not; None: it is not here.
        cycle: The last learning cycle here, as it is saved; None: there is none.
        errors: The last ones in the logs here, the latest last.
        unseen: What is here and could not be read, and why.

    """

    url: str
    answer: str
    learning: dict[str, Any] | None
    lag: int | None
    cycle: dict[str, Any] | None
    errors: tuple[LoggedError, ...]
    unreadable: tuple[str, ...] = ()


class Observer:
    """Looks at one installation, again and again."""

    def __init__(self, url: str, api_key: str, home: Path | None) -> None:
        """Ask the server at `url`; look into `home` where it holds the server's installation."""
        self._url = url.rstrip("/")
        self._http = httpx.Client(headers={"Authorization": f"Bearer {api_key}"}, timeout=5)
        self._home = home
        self._log: EventLog | None = None
        self._local: tuple[History, Learning] | None = None

    def close(self) -> None:
        """Let go of connections and files."""
        self._http.close()
        if self._log is not None:
            self._log.close()

    def collect_status(self) -> Status:
        """Look now."""
        answer, learning = self._query_server()
        home, unreadable = self._home, list[str]()
        if home is None:
            return Status(self._url, answer, learning, lag=None, cycle=None, errors=())

        def seen(what: str, read: Callable[[], _T]) -> _T | None:
            try:
                return read()
            except (FeedbackError, RegistryError, sqlite3.Error, OSError, ValueError) as error:
                unreadable.append(f"{what} cannot be seen: {error}")
                return None

        ledger = home / "ledger.db"
        log = None
        if learning is None or ledger.is_file():
            log = seen("The log", lambda: self._open_log(home))
        if learning is None and log is not None:
            learning = seen("How it learns", lambda: self._from_log(home, log))
        lag = None
        if log is not None and ledger.is_file():
            lag = seen("The learner's lag", lambda: ledger_lag(ledger, log))
        return Status(
            url=self._url,
            answer=answer,
            learning=learning,
            lag=lag,
            cycle=seen("The last cycle", lambda: last_cycle(home)),
            errors=seen("Errors", lambda: last_errors(sorted((home / "logs").glob("*.log")))) or (),
            unreadable=tuple(unreadable),
        )

    def _query_server(self) -> tuple[str, dict[str, Any] | None]:
        try:
            ready = self._http.get(f"{self._url}/readyz")
            asked = self._http.get(f"{self._url}/v1/learning")
            told = asked.json() if asked.status_code == 200 else None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"does not answer ({type(error).__name__})", None
        except ValueError:
            return "answers, but not as Plaudit does", None
        answer = "is ready" if ready.status_code == 200 else f"is not ready ({ready.status_code})"
        if told is not None:
            return answer, told
        if asked.status_code == 401:
            return f"{answer}, and wants a key (--api-key or PLAUDIT_API_KEY)", None
        return f"{answer}, and does not tell how it learns ({asked.status_code})", None

    def _open_log(self, home: Path) -> EventLog | None:
        here = (home / "log.db").is_file() or bool(KafkaSettings().servers)
        if here and self._log is None:
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
    """Count the log records that a ledger has not taken in.

    Raises:
        LogUnavailable: The log does not say where it ends.
        sqlite3.OperationalError: The ledger is being made, or locked.

    """
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=5)) as db:
        rows = db.execute("SELECT topic, partition, next FROM positions").fetchall()
    taken: dict[tuple[str, int], int] = {(topic, number): offset for topic, number, offset in rows}
    ends = {
        (topic, number): end for topic in FOLLOWED_TOPICS for number, end in log.ends(topic).items()
    }
    return sum(max(0, end - taken.get(which, 0)) for which, end in ends.items())


def last_cycle(home: Path) -> dict[str, Any] | None:
    """Return the last cycle's state, as the learner saved it; None where there is none here."""
    found = list((home / "learner" / "cycles").glob("*/state.json"))
    if not found:
        return None
    latest = max(found, key=lambda path: int(path.parent.name))
    state: dict[str, Any] = json.loads(latest.read_text())
    return state


def last_errors(files: Sequence[Path], count: int = _ERRORS) -> tuple[LoggedError, ...]:
    """Return the last errors of each file's end, the latest last where they have times."""
    found = []
    for file in files:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            lines = stream.read().decode(errors="replace").splitlines()
        matches = [match for line in lines if (match := _ERROR.match(line))]
        found += [LoggedError(file.stem, m["when"] or "", m["text"].strip()) for m in matches]
    return tuple(sorted(found, key=lambda one: one.when)[-count:])
