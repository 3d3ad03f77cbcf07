"""`plaudit backup` and `plaudit restore`, on real homes that are written meanwhile."""

import json
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from deploy.administration import backup as backup_module
from deploy.administration import backup_files
from deploy.administration.backup import backup
from deploy.administration.backup_files import BackupManifest, read_backup_manifest
from deploy.administration.restore import restore
from deploy.errors import DeployError
from feedback.control.policies import append_policy_event, current_state
from feedback.ledger.store import Ledger
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import load_or_create_secret
from feedback.registry import home_registry
from feedback.view.feedback_view import View
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.policy_pb2 import Published
from tests.support.deployment.commands import run_command
from tests.support.feedback_samples import completion, put, rating


def vote(log: SqliteLog, name: str) -> None:
    """Append an answer and a vote on it."""
    put(log, completion(f"c-{name}"), rating(f"e-{name}", completion_id=f"c-{name}"))


def event_keys(home: Path) -> list[str]:
    log = SqliteLog(home / "log.db")
    keys = [record.key for record in log.read("feedback", {}, limit=1_000_000)]
    log.close()
    return keys


def make_model(folder: Path, size: int = 100_000) -> Path:
    (folder / "part").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "part" / "weights.safetensors").write_bytes(bytes(range(256)) * (size // 256))
    return folder


def make_home(home: Path) -> Path:
    log, ledger = SqliteLog(home / "log.db"), Ledger(home / "ledger.db")
    view = View(home / "view-replica-0.db")
    load_or_create_secret(home / "secret.json")
    model = make_model(home / "models" / "sft")
    home_registry(home).publish(model, version=1, parent=0, base="own")
    append_policy_event(log, Published(version=1, parent=0))
    vote(log, "first")
    ledger.follow(log)
    view.follow(log)
    for store in (log, ledger, view):
        store.close()
    for number, stage in (("001", "done"), ("002", "ppo")):
        cycle = home / "learner" / "cycles" / number
        cycle.mkdir(parents=True)
        (cycle / "state.json").write_text(json.dumps({"stage": stage}))
        (cycle / "report.md").write_text("A report")
        (cycle / "reward.pt").write_bytes(b"state")
    (home / "models" / ".sft.work").mkdir()
    (home / "models" / ".sft.work" / "state.pt").write_bytes(b"state")
    (home / "logs").mkdir()
    (home / "logs" / "serving.log").write_text("a line")
    return home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home")


@contextmanager
def voting(home: Path) -> Iterator[list[str]]:
    """Vote and follow the log without pause; yield the events that were acknowledged so far."""
    acknowledged: list[str] = []
    stop = threading.Event()

    def run() -> None:
        log, ledger = SqliteLog(home / "log.db"), Ledger(home / "ledger.db")
        view = View(home / "view-replica-0.db")
        while not stop.is_set():
            name = str(len(acknowledged))
            vote(log, name)
            acknowledged.append(f"e-{name}")
            ledger.follow(log)
            view.follow(log)
        for store in (log, ledger, view):
            store.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        while len(acknowledged) < 20:
            stop.wait(0.01)
        yield acknowledged
    finally:
        stop.set()
        thread.join()


def test_a_backup_under_load_has_every_vote_acknowledged_before(tmp_path: Path, home: Path) -> None:
    with voting(home) as acknowledged:
        before = list(acknowledged)
        run_command("backup", str(tmp_path / "copy"), "--home", str(home))
        during = len(acknowledged) - len(before)
    assert during > 0, "votes did not wait for the backup"
    run_command("restore", str(tmp_path / "copy"), "--home", str(tmp_path / "new"))
    keys = event_keys(tmp_path / "new")
    assert set(before) <= set(keys)
    assert event_keys(home)[: len(keys)] == keys
    ledger = Ledger(tmp_path / "new" / "ledger.db")
    log = SqliteLog(tmp_path / "new" / "log.db")
    while ledger.follow(log):
        pass
    assert ledger.event_ids() == keys
    ledger.close()
    log.close()


def test_a_restored_ledger_and_view_miss_no_vote(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vote and follow between any two copies, as busy replicas and learners do."""
    log, ledger = SqliteLog(home / "log.db"), Ledger(home / "ledger.db")
    view = View(home / "view-replica-0.db")
    copy_database = backup_module._copy_database

    def copy_then_vote(source: Path, target: Path) -> None:
        copy_database(source, target)
        vote(log, f"after-{source.name}")
        ledger.follow(log)
        view.follow(log)

    monkeypatch.setattr(backup_module, "_copy_database", copy_then_vote)
    backup(home, tmp_path / "copy", lambda _: None)
    for store in (log, ledger, view):
        store.close()
    new = tmp_path / "new"
    restore(tmp_path / "copy", new, lambda _: None)
    log, ledger = SqliteLog(new / "log.db"), Ledger(new / "ledger.db")
    view = View(new / "view-replica-0.db")
    vote(log, "restored")
    ledger.follow(log)
    view.follow(log)
    assert "e-restored" in ledger.event_ids()
    assert view.event("e-restored") is not None
    assert sorted(ledger.event_ids()) == sorted(r.key for r in log.read("feedback", {}))
    for store in (log, ledger, view):
        store.close()


def test_a_backup_contains_what_an_installation_needs(tmp_path: Path, home: Path) -> None:
    lines: list[str] = []
    copy, new = tmp_path / "copy", tmp_path / "new"
    backup(home, copy, lines.append)
    manifest = read_backup_manifest(copy)
    assert manifest.plaudit == "0.1.0"
    assert {file.path for file in manifest.files} == {
        *("log.db", "ledger.db", "view-replica-0.db", "secret.json"),
        *("learner/cycles/001/state.json", "learner/cycles/001/report.md"),
        *("models/sft/config.json", "models/sft/part/weights.safetensors"),
        *("registry/v000001/config.json", "registry/v000001/part/weights.safetensors"),
        *("registry/v000001/manifest.json", "registry-signed"),
    }
    assert manifest.not_included == ()
    assert any(line.split()[0] == "log.db" and line.endswith("kB  intact") for line in lines)
    assert any("registry/v000001" in line for line in lines)
    restore(copy, new, lines.append)
    assert (new / "secret.json").read_bytes() == (home / "secret.json").read_bytes()
    home_registry(new).verify(1)
    log = SqliteLog(new / "log.db")
    assert current_state(log).live == 1
    log.close()
    for folder in (copy, new):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name in ("log.db", "ledger.db", "secret.json"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["log.db", "secret.json", "registry/v000001/config.json"])
def test_a_flipped_byte_is_refused_before_anything_is_written(
    tmp_path: Path, home: Path, name: str
) -> None:
    backup(home, tmp_path / "copy", lambda _: None)
    file = tmp_path / "copy" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DeployError, match=rf"damaged: {name} has been altered"):
        restore(tmp_path / "copy", tmp_path / "new", lambda _: None)
    file.unlink()
    with pytest.raises(DeployError, match=rf"damaged: {name} is missing"):
        restore(tmp_path / "copy", tmp_path / "new", lambda _: None)
    assert not (tmp_path / "new").exists()


def test_a_damaged_database_is_no_backup(tmp_path: Path, home: Path) -> None:
    file = home / "ledger.db"
    with closing(sqlite3.connect(file)) as db:
        db.execute("PRAGMA writable_schema=ON")
        db.execute("UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'needs'")
        db.commit()
    with pytest.raises(DeployError, match=r"ledger\.db (is damaged|cannot be copied)"):
        backup(home, tmp_path / "copy", lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_a_damaged_version_is_no_backup(tmp_path: Path, home: Path) -> None:
    weights = home / "registry" / "v000001" / "part" / "weights.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    with pytest.raises(DeployError, match=r"weights\.safetensors has been altered; restore"):
        backup(home, tmp_path / "copy", lambda _: None)
    assert not (tmp_path / "copy").exists()


def test_a_version_that_is_pruned_meanwhile_is_left_out(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = FolderRegistry(home / "registry")
    registry.publish(home / "models" / "sft", version=2, parent=1, base="own")
    monkeypatch.setattr(FolderRegistry, "versions", lambda self: [1, 2])
    registry.delete(2)
    backup(home, tmp_path / "copy", lambda _: None)
    assert [p.name for p in (tmp_path / "copy" / "registry").iterdir()] == ["v000001"]


def test_folders_in_use_are_refused(tmp_path: Path, home: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "file").touch()
    for target in (used, used / "file"):
        with pytest.raises(DeployError, match="exists and is not an empty folder"):
            backup(home, target, lambda _: None)
    with pytest.raises(DeployError, match="no installation"):
        backup(tmp_path / "nowhere", tmp_path / "copy", lambda _: None)
    with pytest.raises(DeployError, match="is no backup"):
        restore(used, tmp_path / "new", lambda _: None)
    backup(home, tmp_path / "copy", lambda _: None)
    with pytest.raises(DeployError, match="is not empty"):
        restore(tmp_path / "copy", home, lambda _: None)
    assert list(used.iterdir()) == [used / "file"]


def test_a_home_where_up_runs_is_refused(tmp_path: Path, home: Path) -> None:
    backup(home, tmp_path / "copy", lambda _: None)
    new = tmp_path / "new"
    new.mkdir()
    with (
        FileLock(new / "up.lock"),
        pytest.raises(DeployError, match="'plaudit up' is running"),
    ):
        restore(tmp_path / "copy", new, lambda _: None)
    assert [path.name for path in new.iterdir()] == ["up.lock"]


def test_an_empty_folder_is_filled_in_place(tmp_path: Path, home: Path) -> None:
    """Restore into the folder of a volume, which cannot be replaced."""
    backup(home, tmp_path / "copy", lambda _: None)
    new = tmp_path / "new"
    new.mkdir()
    (new / "lost+found").mkdir()
    (new / ".restore.partial").mkdir()
    inode = new.stat().st_ino
    restore(tmp_path / "copy", new, lambda _: None)
    assert new.stat().st_ino == inode
    assert event_keys(new) == ["e-first"]
    assert not (new / ".restore.partial").exists()


def test_a_full_disk_is_noticed_first(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(home, tmp_path / "copy", lambda _: None)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(backup_files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DeployError, match=r"1\.0 kB free, but .* needed"):
        backup(home, tmp_path / "second", lambda _: None)
    with pytest.raises(DeployError, match=r"1\.0 kB free, but .* needed"):
        restore(tmp_path / "copy", tmp_path / "new", lambda _: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "home"]


def test_a_backup_says_what_is_elsewhere(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", "kafka:9092")
    monkeypatch.setenv("PLAUDIT_REGISTRY", "s3://bucket/plaudit")
    lines: list[str] = []
    backup(home, tmp_path / "copy", lines.append)
    log, registry = lines[-2:]
    assert log.startswith("Not in the backup: the event log, which is on Kafka")
    assert registry.startswith("Not in the backup: the shared registry s3://bucket/plaudit:")
    assert not (tmp_path / "copy" / "registry").exists()
    restore(tmp_path / "copy", tmp_path / "new", lines.append)
    assert lines[-1].startswith("Was not in the backup: the shared registry")


def test_a_manifest_cannot_lead_out_of_the_home(tmp_path: Path, home: Path) -> None:
    backup(home, tmp_path / "copy", lambda _: None)
    file = tmp_path / "copy" / "backup.json"
    manifest = BackupManifest.model_validate_json(file.read_bytes())
    for path in ("../outside", "/outside"):
        bad = manifest.model_dump(mode="json")
        bad["files"][0]["path"] = path
        file.write_text(json.dumps(bad))
        with pytest.raises(DeployError, match="leads out of the backup"):
            restore(tmp_path / "copy", tmp_path / "new", lambda _: None)
