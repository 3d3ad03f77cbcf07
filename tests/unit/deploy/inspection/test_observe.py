"""What `plaudit status` collects from a server and a home folder."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.inspection.observe import Observer, Status, last_errors, ledger_lag
from feedback.control.policies import append_policy_event
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.policy_pb2 import Hold, Published
from tests.support.deployment.commands import run_command
from tests.support.deployment.inspection import LEARNING, StatusHandler, http_server, screen_text
from tests.support.feedback_samples import completion, put, rating
from tests.support.servers import free_port


@pytest.fixture
def server() -> Iterator[str]:
    """Return the URL of a server that requires the API key 'right'."""
    with http_server(StatusHandler) as server:
        yield f"http://127.0.0.1:{server.server_port}"


def collect_status(url: str, key: str, home: Path | None) -> Status:
    observer = Observer(url, key, home)
    status = observer.collect_status()
    observer.close()
    return status


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
    assert [(error.process, error.text) for error in found] == [
        ("learner", "c: third"),
        ("serving", "b: fourth"),
    ], "only the end of a file is searched"


def test_a_server_is_queried_over_http(server: str, tmp_path: Path) -> None:
    status = collect_status(server, "right", tmp_path)
    assert (status.answer, status.learning, status.lag) == ("is ready", LEARNING, None)
    unauthorised = collect_status(server, "wrong", tmp_path)
    assert "PLAUDIT_API_KEY" in unauthorised.answer
    assert unauthorised.learning is None
    assert "use --url or --home" in screen_text(unauthorised)


def test_a_home_is_read_if_no_server_answers(tmp_path: Path) -> None:
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
    assert set(status.storage) == {"ledger.db", "log.db"}
    assert min(status.storage.values()) > 0
    assert status.disk_free is not None
    assert status.learning is not None
    assert (status.learning["live"], status.learning["held"]) == (1, True)
    shown = screen_text(status)
    assert "0.75" in shown
    assert "10: in progress (ppo)" in shown
    assert "has not reported its stage yet" in shown


def test_status_is_one_command(server: str, tmp_path: Path) -> None:
    out = run_command("status", "--url", server, "--api-key", "right", "--home", str(tmp_path))
    assert "Version 3 is live" in out


def test_an_unreachable_log_hides_neither_the_server_nor_the_home(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("PLAUDIT_KAFKA_CONNECT_SECONDS", "0.3")
    assert collect_status(server, "right", tmp_path).unreadable == (), (
        "without a ledger the log is not needed"
    )
    Ledger(tmp_path / "ledger.db").close()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "learner.log").write_text("2026-01-01 10:00:04,000 ERROR c: it broke\n")
    status = collect_status(server, "right", tmp_path)
    assert (status.answer, status.learning, status.lag) == ("is ready", LEARNING, None)
    assert len(status.unreadable) == 1
    unauthorised = screen_text(collect_status(server, "wrong", tmp_path))
    for shown in (screen_text(status), unauthorised):
        assert "Cannot read the log: cannot reach Kafka" in shown
        assert "it broke" in shown


def test_a_ledger_without_tables_yet_is_reported(server: str, tmp_path: Path) -> None:
    SqliteLog(tmp_path / "log.db").close()
    (tmp_path / "ledger.db").touch()
    status = collect_status(server, "right", tmp_path)
    assert (status.answer, status.lag) == ("is ready", None)
    assert status.unreadable == ("Cannot read the learner's lag: no such table: positions",)


def test_another_server_is_not_taken_for_plaudit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "httpx.Client.get", lambda _, url: httpx.Response(200, text="<html>a page</html>")
    )
    assert (
        collect_status("http://there", "none", tmp_path).answer
        == "answers, but is not a Plaudit server"
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
    assert "it broke here" not in run_command("status", "--url", "http://prod:8000")
    assert "it broke here" in run_command(
        "status", "--url", "http://prod:8000", "--home", ".plaudit"
    )
    assert "it broke here" in run_command("status", "--url", "http://localhost:8000")
