"""Each check of `plaudit doctor`: with nothing to find, and with its fault."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.commands.main import app
from deploy.errors import DeployError
from deploy.inspection.doctor import (
    available_memory,
    check_disk,
    check_keys,
    check_memory,
    check_model,
    check_port,
    check_processor,
    examine,
    is_learner,
    is_plaudit,
)
from deploy.inspection.findings import Finding
from deploy.inspection.stores import LogState, check_clock, check_registry, file_system
from deploy.local.addresses import local_url, port_problem, url_of
from deploy.settings import UpSettings
from deploy.sizing.machine import default_shape
from deploy.sizing.plan import GIB, Machine, Plan, plan
from feedback.control.keys import KeyRing
from feedback.control.policies import append_policy_event
from feedback.log.event_log import EventLog, LogUnavailable
from feedback.log.sqlite_log import SqliteLog
from learner.settings import LearnerSettings
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.policy_pb2 import KeyMade, KeyRevoked, Published
from tests.support.models import tiny_chat_model
from tests.support.servers import free_port


def levels(*findings: Finding) -> list[str]:
    for finding in findings:
        assert bool(finding.advice) == (finding.level != "ok"), finding
    return [finding.level for finding in findings]


def test_a_finding_is_a_line_and_what_to_do_another() -> None:
    assert Finding("ok", "disk", "9 GiB").line() == "ok       disk       9 GiB"
    lines = Finding("problem", "disk", "0 GiB", "make room").line().splitlines()
    assert lines == ["problem  disk       0 GiB", "                    → make room"]


def test_processor() -> None:
    native, without = frozenset({"avx512_bf16"}), frozenset({"avx2"})
    assert levels(
        check_processor("auto", native, 2),
        check_processor("auto", without, 2),
        check_processor("bfloat16", native, 2),
        check_processor("bfloat16", without, 2),
        check_processor("auto", without, 1),
    ) == ["ok", "ok", "ok", "warning", "warning"]


def planned() -> Plan:
    machine = Machine(cores=2, memory=16 * GIB, gpus=(), flops=1e11)
    return plan(
        default_shape(),
        machine,
        tune="full",
        dtype="float32",
        settings=LearnerSettings(),
        cache=GIB // 2,
    )


def too_large() -> Plan:
    raise DeployError("Model: 70 billion parameters.\nIt does not fit: it needs 900 GiB")


def test_memory(tmp_path: Path) -> None:
    found = check_memory(too_large, None)
    assert levels(
        check_memory(planned, 16 * GIB), check_memory(planned, None), check_memory(planned, GIB)
    ) == ["ok", "ok", "warning"]
    assert (found.level, found.text) == ("problem", "It does not fit: it needs 900 GiB")
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   2048 kB\n")
    assert available_memory(tmp_path / "meminfo") == 2 * 2**20


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for free in (100 * GIB, 10 * GIB, 2 * GIB, GIB // 2):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: Usage(free))
        found.append(check_disk(tmp_path / "not" / "made", GIB))
    assert levels(*found) == ["ok", "warning", "problem", "problem"]


class Usage:
    def __init__(self, free: int) -> None:
        self.free = free


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        told = {"/livez": b'{"status": "alive"}', "/metrics": b"plaudit_learner_lag_events 0.0"}
        self.wfile.write(told.get(self.path, b""))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def running() -> Iterator[int]:
    """Something that answers as Plaudit does; its port."""
    server = HTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_ports(running: int) -> None:
    free = free_port()
    assert (is_plaudit("127.0.0.1", running), is_learner(running)) == (True, True)
    assert (is_plaudit("127.0.0.1", free), is_learner(free)) == (False, False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        found = check_port("127.0.0.1", taken, "--port", running=False)
    assert levels(
        check_port("127.0.0.1", free, "--port", running=False),
        check_port("127.0.0.1", running, "--port", running=True),
        found,
    ) == ["ok", "ok", "problem"]
    assert "--port" in found.advice


def test_addresses_of_ipv6() -> None:
    assert url_of("::1", 80) == "http://[::1]:80"
    assert local_url("::", 80) == "http://[::1]:80"
    assert local_url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert is_plaudit("::1", free_port()) is False
    assert is_plaudit("no host", 80) is False
    if socket.has_ipv6:
        with socket.socket(socket.AF_INET6) as other:
            try:
                other.bind(("::1", 0))
            except OSError:
                return  # this machine has no such address
            other.listen()
            assert "cannot listen on ::1" in str(port_problem("::1", other.getsockname()[1]))
        assert port_problem("::1", free_port()) is None


def checked_log(home: Path) -> tuple[EventLog | None, Finding]:
    records = LogState()
    finding = records.check(home)
    return records.log, finding


class FreshKafka:
    """As an admin client that finds only some other program's topic."""

    def __init__(self, **_: object) -> None: ...

    def list_topics(self) -> list[str]:
        return ["others"]

    def close(self) -> None: ...


def test_kafka_s_topics_are_not_made_by_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", "k:9092")
    monkeypatch.setattr("deploy.inspection.stores.KafkaAdminClient", FreshKafka)
    log, finding = checked_log(tmp_path)
    assert log is None, "opening it would make them"
    assert levels(finding) == ["ok"]
    assert "plaudit.policies" in finding.text


def test_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent, finding = checked_log(tmp_path)
    assert absent is None
    assert not (tmp_path / "log.db").exists(), "looking makes nothing"
    SqliteLog(tmp_path / "log.db").close()
    opened, whole = checked_log(tmp_path)
    assert opened is not None
    opened.close()
    for file in tmp_path.glob("log.db*"):
        file.unlink()
    (tmp_path / "log.db").write_bytes(b"no database at all, and long enough to be seen" * 100)
    _, damaged = checked_log(tmp_path)
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("PLAUDIT_KAFKA_CONNECT_SECONDS", "0.3")
    _, away = checked_log(tmp_path)
    assert levels(finding, whole, damaged, away) == ["ok", "ok", "problem", "problem"]


def test_a_log_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("a / ext4 rw 0 0\nb /data nfs4 rw 0 0\nc /data/local xfs rw 0 0\n")
    kinds = {path: file_system(Path(path), mounts) for path in ("/data/h", "/data/local/h", "/h")}
    assert kinds == {"/data/h": "nfs4", "/data/local/h": "xfs", "/h": "ext4"}
    assert file_system(Path("/database"), mounts) == "ext4"
    monkeypatch.setattr("deploy.inspection.stores.file_system", lambda _: "nfs4")
    log, finding = checked_log(tmp_path)
    assert log is None
    assert levels(finding) == ["problem"]


def test_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    registry = FolderRegistry(tmp_path / "registry")
    registry.publish(tmp_path / "model", version=1, parent=0, base="tiny")
    whole, nothing_live = check_registry(tmp_path, 1), check_registry(tmp_path, 0)
    absent = check_registry(tmp_path / "home", 0)
    assert not (tmp_path / "home").exists(), "looking makes nothing"
    assert list(registry.root.iterdir()) == [registry.path(1)], "the probe is gone"
    (registry.path(1) / "config.json").write_text("{ }")
    altered = check_registry(tmp_path, 1)
    monkeypatch.setenv("PLAUDIT_REGISTRY", "gopher://nowhere/plaudit")
    no_driver = check_registry(tmp_path, 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLAUDIT_REGISTRY", f"file://{tmp_path}/file/registry")
    monkeypatch.setattr("protos.checkpoints.shared_registry._RETRY_DELAYS", (0.0,))
    no_folder = check_registry(tmp_path, 0)
    monkeypatch.delenv("PLAUDIT_REGISTRY")
    no_home = check_registry(tmp_path / "file" / "home", 0)
    found = levels(whole, nothing_live, absent, altered, no_driver, no_folder, no_home)
    assert found == ["ok", "ok", "ok", "problem", "problem", "problem", "problem"]


def test_clock(tmp_path: Path) -> None:
    import time

    log = SqliteLog(tmp_path / "log.db")
    empty = check_clock(tmp_path, log)
    append_policy_event(log, Published(version=1))
    right = check_clock(tmp_path, log)
    slow = check_clock(tmp_path, log, now=lambda: time.time() - 3600)
    log.close()
    absent = check_clock(tmp_path / "not made", None)
    assert levels(empty, right, slow, absent) == ["ok", "ok", "problem", "ok"]
    assert "file system" in slow.text
    assert not list(tmp_path.glob(".clock*"))


def test_a_log_from_another_machine_s_future(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteLog(tmp_path / "log.db")
    append_policy_event(log, Published(version=1))
    read = log.read
    late = [replace(r, timestamp_ms=r.timestamp_ms + 60_000) for r in read("policies", {})]
    monkeypatch.setattr(log, "read", lambda topic, _: late if topic == "policies" else [])
    found = check_clock(tmp_path, log)
    log.close()
    assert levels(found) == ["problem"]
    assert "future" in found.text


def test_model(tmp_path: Path) -> None:
    folder = tiny_chat_model(tmp_path / "tiny", 1)
    served = check_model("default", folder)
    brought = check_model(str(folder), None)
    (tmp_path / "empty").mkdir()
    found = levels(
        check_model("default", None),
        served,
        brought,
        check_model("somebody/model", None),
        check_model(str(tmp_path / "empty"), None),
    )
    assert found == ["ok", "ok", "ok", "warning", "problem"]
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("LlamaForCausalLM", "NobodyForCausalLM"))
    unknown = check_model("default", folder)
    assert levels(unknown) == ["problem"]
    assert "NobodyForCausalLM" in unknown.text


def ring(*roles: str, revoked: int = 0) -> KeyRing:
    made = KeyRing()
    for number, role in enumerate(roles):
        made = made.add_key(KeyMade(id=str(number), role=role, digest=bytes([number])), 0)
    for number in range(revoked):
        made = made.revoke(KeyRevoked(id=str(number)), 1)
    return made


def test_keys(tmp_path: Path) -> None:
    assert levels(
        check_keys("127.0.0.1", ring(), tmp_path),
        check_keys("0.0.0.0", ring(), tmp_path),
        check_keys("0.0.0.0", ring("operator"), tmp_path),
        check_keys("0.0.0.0", ring("user", "annotator"), tmp_path),
        check_keys("0.0.0.0", ring("operator", revoked=1), tmp_path),
        check_keys("127.0.0.1", ring("operator", "operator", revoked=1), tmp_path),
        check_keys("127.0.0.1", None, tmp_path),
    ) == ["ok", "problem", "ok", "warning", "problem", "ok", "warning"]


def test_the_command_ends_with_1_where_there_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.inspection.doctor._plan", lambda *_: planned())
    given = ["doctor", "--home", str(tmp_path / "home")]
    given += ["--port", str(free_port()), "--learner-port", str(free_port())]
    well = CliRunner().invoke(app, given)
    assert well.exit_code == 0, well.output
    assert "problem  " not in well.output
    assert not (tmp_path / "home").exists(), "looking makes nothing"
    unserved = CliRunner().invoke(app, [*given, "--model", str(tmp_path)])
    assert "problem  model" in unserved.output
    exposed = CliRunner().invoke(app, [*given, "--host", "0.0.0.0"])
    assert exposed.exit_code == 1
    assert "plaudit keys create --role operator" in exposed.output.replace("\n", " ")
    assert "10 checks: 1 problems" in exposed.output


def test_a_check_that_fails_is_a_problem_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    def away(*_: object) -> None:
        raise LogUnavailable("the log went away")

    monkeypatch.setattr("deploy.inspection.doctor._plan", lambda *_: planned())
    monkeypatch.setattr("tempfile.NamedTemporaryFile", unreadable)
    monkeypatch.setattr("feedback.log.sqlite_log.SqliteLog.read", away)
    SqliteLog(tmp_path / "log.db").close()
    settings = UpSettings(
        home=tmp_path, host="::1", port=free_port(), learner_port=free_port(), model="default"
    )
    found = {finding.check: finding for finding in examine(settings)}
    assert list(found)[-5:] == ["log", "registry", "clock", "model", "keys"]
    assert {check for check, one in found.items() if one.level == "problem"} - {"port"} == {
        "log",
        "clock",
    }
    assert found["log"].text == "the log went away"
    assert "PermissionError" in found["clock"].text
    assert "not known" in found["keys"].text
    levels(*found.values())
