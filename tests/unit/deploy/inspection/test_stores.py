"""The checks of `plaudit doctor` on the log, the registry and the clock."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy.inspection.findings import Finding
from deploy.inspection.stores import LogState, check_clock, check_registry, file_system
from feedback.control.policies import append_policy_event
from feedback.log.event_log import EventLog
from feedback.log.sqlite_log import SqliteLog
from feedback.registry import home_registry
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.policy_pb2 import Published
from tests.support.deployment.inspection import levels
from tests.support.servers import free_port


def checked_log(home: Path) -> tuple[EventLog | None, Finding]:
    log_state = LogState()
    finding = log_state.check(home)
    return log_state.log, finding


class FreshKafka:
    """An admin client that finds only another program's topic."""

    def __init__(self, **_: object) -> None: ...

    def list_topics(self) -> list[str]:
        return ["others"]

    def close(self) -> None: ...


def test_the_check_does_not_create_kafka_s_topics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", "k:9092")
    monkeypatch.setattr("deploy.inspection.stores.KafkaAdminClient", FreshKafka)
    log, finding = checked_log(tmp_path)
    assert log is None, "opening the log would create them"
    assert levels(finding) == ["ok"]
    assert "plaudit.policies" in finding.text


def test_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent, finding = checked_log(tmp_path)
    assert absent is None
    assert not (tmp_path / "log.db").exists(), "the check creates nothing"
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
    mounts = [
        SimpleNamespace(mountpoint=point, fstype=kind)
        for point, kind in (("/", "ext4"), ("/data", "nfs4"), ("/data/local", "xfs"))
    ]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: mounts)
    kinds = {path: file_system(Path(path)) for path in ("/data/h", "/data/local/h", "/h")}
    assert kinds == {"/data/h": "nfs4", "/data/local/h": "xfs", "/h": "ext4"}
    assert file_system(Path("/database")) == "ext4"
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
    assert not (tmp_path / "home").exists(), "the check creates nothing"
    assert list(registry.root.iterdir()) == [registry.path(1)], "the probe is gone"
    (registry.path(1) / "config.json").write_text("{ }")
    altered = check_registry(tmp_path, 1)
    monkeypatch.setenv("PLAUDIT_REGISTRY", "gopher://nowhere/plaudit")
    no_driver = check_registry(tmp_path, 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLAUDIT_REGISTRY", f"file://{tmp_path}/file/registry")
    monkeypatch.setattr("protos.checkpoints.outages._RETRY_DELAYS", (0.0,))
    no_folder = check_registry(tmp_path, 0)
    monkeypatch.delenv("PLAUDIT_REGISTRY")
    no_home = check_registry(tmp_path / "file" / "home", 0)
    found = levels(whole, nothing_live, absent, altered, no_driver, no_folder, no_home)
    assert found == ["ok", "ok", "ok", "problem", "problem", "problem", "problem"]


def test_a_version_that_nobody_signed_is_a_problem_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    home_registry(tmp_path)
    unsigned = FolderRegistry(tmp_path / "registry")
    unsigned.publish(tmp_path / "model", version=1, parent=0, base="tiny")
    finding = check_registry(tmp_path, 1)
    assert levels(finding) == ["problem"]
    assert "run 'plaudit policies sign' once" in finding.text


def test_clock(tmp_path: Path) -> None:
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
