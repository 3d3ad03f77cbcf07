"""`plaudit keys`, `plaudit status`, and the refusal to serve others without keys."""

import io
import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from deploy.commands.main import app
from deploy.inspection.observe import LoggedError, Observer, Status, last_errors, ledger_lag
from deploy.inspection.screen import screen
from deploy.local.up import needs_key, up
from deploy.settings import UpSettings
from feedback.control.history import History
from feedback.control.keys import KeyRing, key_create_command, no_valid_key_message
from feedback.control.policies import append_policy_event
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.policy_pb2 import Hold, KeyMade, Published
from serving.errors import ServingError
from serving.services import check_keys
from tests.support.feedback_samples import completion, put, rating
from tests.support.servers import free_port


def run(*command: str) -> str:
    result = CliRunner().invoke(app, list(command))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path / "home")]
    made = run("keys", "create", "--role", "annotator", "--name", "anna", "--quota", "50", *home)
    assert "From now on every request needs a key." in made
    assert str(tmp_path / "home" / "log.db") in made.replace("\n", "")
    token = made.split()[-1]
    assert token.startswith("plk-")
    assert "From now on" not in run("keys", "create", "--role", "operator", *home)
    listed = run("keys", "list", *home)
    assert token not in listed
    anna, key = listed.splitlines()[1:]
    assert anna.split()[1:3] == ["anna", "annotator"]
    assert anna.strip().endswith("0 of 50 today")
    assert key.split()[2] == "operator"
    assert len(key.split()) == 4, "no limits, and not revoked"
    assert "opens nothing" in run("keys", "revoke", "anna", *home)
    today = key.split()[3]
    assert run("keys", "list", *home).count(today) == 3
    log = SqliteLog(tmp_path / "home" / "log.db")
    history = History(log)
    history.poll()
    assert history.keys.find(token) is None
    assert history.keys.usable
    log.close()


def test_others_are_not_served_without_keys(tmp_path: Path) -> None:
    said: list[str] = []
    ports = {"port": free_port(), "learner_port": free_port()}
    settings = UpSettings(home=tmp_path, host="0.0.0.0", **ports)
    with pytest.raises(ServingError, match="no API key yet") as refused:
        up(settings, said.append)
    assert f"plaudit keys create --role operator --home {tmp_path}" in str(refused.value)
    assert said == [], "nothing was trained"
    log = SqliteLog(tmp_path / "log.db")
    history = History(log)
    history.poll()
    with pytest.raises(ServingError, match="plaudit keys create"):
        check_keys("0.0.0.0", history, tmp_path)
    check_keys("127.0.0.1", history, tmp_path)
    run("keys", "create", "--role", "operator", "--name", "root", "--home", str(tmp_path))
    history.poll()
    check_keys("0.0.0.0", history, tmp_path)
    run("keys", "revoke", "root", "--home", str(tmp_path))
    history.poll()
    with pytest.raises(ServingError, match="every API key is revoked"):
        check_keys("0.0.0.0", history, tmp_path)
    log.close()


def test_the_advice_makes_the_key_where_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "two words"
    told = (
        no_valid_key_message(KeyRing(), "0.0.0.0", home)
        .splitlines()[1]
        .partition("make a key: ")[2]
    )
    run(*shlex.split(told)[1:])
    log = SqliteLog(home / "log.db")
    history = History(log)
    history.poll()
    check_keys("0.0.0.0", history, home)
    log.close()
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", "k1:9092,k2:9092")
    assert key_create_command(home).endswith("two words' --kafka k1:9092,k2:9092")


def test_names_are_listed_as_they_are(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    append_policy_event(log, KeyMade(id="key-1", name="bob[/x]:cat:", role="user", digest=b"d"))
    log.close()
    assert "bob[/x]:cat:" in run("keys", "list", "--home", str(tmp_path))


def text_of(status: Status, now: float = 1000.0) -> str:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(screen(status, now))
    return console.export_text()


LEARNING: dict[str, Any] = {
    "live": 3,
    "on_trial": 4,
    "held": True,
    "loop": {"stage": "ppo", "cycle": 5, "since": 910.0, "iteration": 3, "iterations": 14},
    "votes": {"total": 12, "waiting": 5, "kinds": {"comparison": 10, "rating": 2}},
    "versions": [
        {
            "version": 3,
            "parent": 2,
            "state": "live",
            "votes": 7,
            "figures": {"win_rate": 0.81, "win_rate_over_first": 0.93, "text_nll": 2.302585},
        },
        {"version": 4, "parent": 3, "state": "on_trial", "votes": 5, "figures": {}},
    ],
    "refused": [{"parent": 2, "created": 400.0, "reasons": ["kl", "text"]}],
    "replicas": {"replica-0": 3, "replica-1": 3},
}


def test_the_screen_says_it_all() -> None:
    shown = text_of(
        Status(
            url="http://here",
            answer="is ready",
            learning=LEARNING,
            lag=2,
            cycle={
                "number": 4,
                "outcome": "refused",
                "stage": "done",
                "reasons": ["too far"],
                "seconds": {"reward": 30.0, "ppo": 60.0},
            },
            errors=(LoggedError("serving", "2026-01-01 10:00:00,000", "the disk is full"),),
        )
    )
    for line in (
        "http://here is ready",
        "Version 3 is live; version 4 is on trial; publishing is held",
        "cycle 5, ppo 3/14, for 0:01:30",
        "4: refused: too far; 0:01:30 of work",
        "12 that count (comparison 10, rating 2); 5 not learned from yet",
        "2 records of the log are not in the ledger",
        "replica-0, replica-1",
        "Last refused: a candidate made from version 2, 0:10:00 ago: kl; text",
        "serving 2026-01-01 10:00:00,000 the disk is full",
    ):
        assert line in shown, shown
    (row,) = [line.split() for line in shown.splitlines() if line.strip().startswith("3 ")]
    assert row[:7] == ["3", "2", "live", "7", "0.81", "0.93", "10.0"]


def test_the_last_errors_are_found_in_logs(tmp_path: Path) -> None:
    serving, learner = tmp_path / "serving.log", tmp_path / "learner.log"
    serving.write_text(
        "2026-01-01 10:00:01,000 INFO a: fine\n"
        "2026-01-01 10:00:03,000 ERROR plaudit.serving: second\n"
        + "x" * 200_000
        + "\n2026-01-01 10:00:05,000 CRITICAL b: fourth\n"
    )
    learner.write_text(
        "2026-01-01 10:00:02,000 WARNING c: ERROR is a word\n"
        "2026-01-01 10:00:04,000 ERROR c: third\n"
    )
    found = last_errors([learner, serving], 3)
    assert [(one.part, one.text) for one in found] == [
        ("learner", "c: third"),
        ("serving", "b: fourth"),
    ], "an old one is too far from the end to be looked for"


class Asked(BaseHTTPRequestHandler):
    """Answers as a server does that wants the key 'right'."""

    def do_GET(self) -> None:
        wanted = self.path == "/readyz" or self.headers["Authorization"] == "Bearer right"
        self.send_response(200 if wanted else 401)
        self.end_headers()
        self.wfile.write(json.dumps(LEARNING if wanted else {}).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    opened = HTTPServer(("127.0.0.1", 0), Asked)
    thread = threading.Thread(target=opened.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{opened.server_port}"
    opened.shutdown()
    opened.server_close()
    thread.join()


class Slow(Asked):
    """Is ready, but breaks off before it says who one is."""

    def do_GET(self) -> None:
        if self.path == "/readyz":
            super().do_GET()


def test_up_asks_again_where_an_answer_breaks_off() -> None:
    opened = HTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=opened.serve_forever)
    thread.start()
    settings = UpSettings(port=opened.server_port)
    assert needs_key(settings) is None
    opened.RequestHandlerClass = Asked
    assert needs_key(settings) is True
    opened.shutdown()
    opened.server_close()
    thread.join()
    assert needs_key(settings) is None


def collect_status(url: str, key: str, home: Path | None) -> Status:
    observer = Observer(url, key, home)
    status = observer.collect_status()
    observer.close()
    return status


def test_a_server_elsewhere_is_asked(server: str, tmp_path: Path) -> None:
    told = collect_status(server, "right", tmp_path)
    assert (told.answer, told.learning, told.lag) == ("is ready", LEARNING, None)
    refused = collect_status(server, "wrong", tmp_path)
    assert "PLAUDIT_API_KEY" in refused.answer
    assert refused.learning is None
    assert "give --url" in text_of(refused)


def test_a_home_tells_what_it_can_where_no_server_answers(tmp_path: Path) -> None:
    log, ledger = SqliteLog(tmp_path / "log.db"), Ledger(tmp_path / "ledger.db")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    FolderRegistry(tmp_path / "registry").publish(
        tmp_path / "model", version=1, parent=0, base="tiny", gate={"win_rate": 0.75}
    )
    append_policy_event(log, Published(version=1))
    append_policy_event(log, Hold(held=True))
    put(log, completion(), rating("r"))
    assert ledger_lag(tmp_path / "ledger.db", log) == 2
    ledger.follow(log)
    put(log, rating("s", 1))
    cycles = tmp_path / "learner" / "cycles"
    for number in (9, 10):
        (cycles / f"{number:03d}").mkdir(parents=True)
        (cycles / f"{number:03d}" / "state.json").write_text(
            json.dumps(
                {"number": number, "outcome": None, "stage": "ppo", "reasons": [], "seconds": {}}
            )
        )
    status = collect_status(f"http://127.0.0.1:{free_port()}", "none", tmp_path)
    ledger.close()
    log.close()
    assert status.answer == "does not answer (ConnectError)"
    assert status.lag == 1
    assert status.learning is not None
    assert (status.learning["live"], status.learning["held"]) == (1, True)
    shown = text_of(status)
    assert "0.75" in shown
    assert "10: under way (ppo)" in shown
    assert "has not said where it is" in shown


def test_status_is_one_command(server: str, tmp_path: Path) -> None:
    out = run("status", "--url", server, "--api-key", "right", "--home", str(tmp_path))
    assert "Version 3 is live" in out


def test_a_log_that_is_away_hides_neither_the_server_nor_the_home(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("PLAUDIT_KAFKA_CONNECT_SECONDS", "0.3")
    assert collect_status(server, "right", tmp_path).unreadable == (), (
        "without a ledger it takes no log"
    )
    Ledger(tmp_path / "ledger.db").close()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "learner.log").write_text("2026-01-01 10:00:04,000 ERROR c: it broke\n")
    told = collect_status(server, "right", tmp_path)
    assert (told.answer, told.learning, told.lag) == ("is ready", LEARNING, None)
    assert len(told.unreadable) == 1
    refused = text_of(collect_status(server, "wrong", tmp_path))
    for shown in (text_of(told), refused):
        assert "The log cannot be seen: cannot reach Kafka" in shown
        assert "it broke" in shown


def test_a_ledger_that_is_being_made_is_a_line(server: str, tmp_path: Path) -> None:
    SqliteLog(tmp_path / "log.db").close()
    (tmp_path / "ledger.db").touch()
    told = collect_status(server, "right", tmp_path)
    assert (told.answer, told.lag) == ("is ready", None)
    assert told.unreadable == ("The learner's lag cannot be seen: no such table: positions",)


def test_what_is_no_plaudit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "httpx.Client.get", lambda _, url: httpx.Response(200, text="<html>a page</html>")
    )
    assert (
        collect_status("http://there", "none", tmp_path).answer
        == "answers, but not as Plaudit does"
    )


def test_another_machine_s_server_is_not_mixed_with_this_folder_s_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLAUDIT_HOME", raising=False)
    logs = tmp_path / ".plaudit" / "logs"
    logs.mkdir(parents=True)
    (logs / "learner.log").write_text("2026-01-01 10:00:04,000 ERROR c: it broke here\n")
    monkeypatch.setattr("httpx.Client.get", lambda _, url: httpx.Response(200, json=LEARNING))
    assert "it broke here" not in run("status", "--url", "http://prod:8000")
    assert "it broke here" in run("status", "--url", "http://prod:8000", "--home", ".plaudit")
    assert "it broke here" in run("status", "--url", "http://localhost:8000")
