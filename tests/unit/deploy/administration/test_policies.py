"""`plaudit policies list`, `prune` and `sign`."""

from pathlib import Path

import pytest

from deploy.administration.policies import list_policies, operations, prune, sign
from deploy.errors import DeployError
from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import load_or_create_secret
from feedback.registry import open_registry
from protos.checkpoints.folder_registry import FolderRegistry
from protos.checkpoints.signatures import ManifestUntrusted
from protos.plaudit.v1.policy_pb2 import Activated, Published, Swapped


def test_pruning_keeps_what_is_still_needed(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    registry, log = FolderRegistry(tmp_path / "registry"), SqliteLog(tmp_path / "log.db")
    for version in range(1, 9):
        registry.publish(model, version=version, parent=version - 1, base="tiny")
        append_policy_event(log, Published(version=version, parent=version - 1))
    append_policy_event(log, Swapped(replica="late", version=3))
    append_policy_event(log, Activated(version=5))
    log.close()
    assert prune(tmp_path, keep=1) == "Deleted 2, 6, 7."
    assert registry.versions() == [1, 3, 4, 5, 8]
    assert prune(tmp_path, keep=1) == "Nothing to delete."
    assert list_policies(tmp_path).row_count == 8


def test_a_version_on_trial_is_shown_and_kept_with_the_base_of_what_is_kept(
    tmp_path: Path,
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    registry, log = FolderRegistry(tmp_path / "registry"), SqliteLog(tmp_path / "log.db")
    for version, base in ((1, 0), (2, 0), (3, 2), (4, 2)):
        registry.publish(model, version=version, parent=1, base="tiny", adapter_base=base)
        append_policy_event(log, Published(version=version, parent=1, trial=version == 4))
    log.close()
    status = list(list_policies(tmp_path).columns[5].cells)
    assert status == ["", "", "live", "on trial"]
    assert prune(tmp_path, keep=1) == "Nothing to delete."
    assert "The trial of version 4 ends" in operations(tmp_path).activate(3, "test")
    assert list(list_policies(tmp_path).columns[5].cells) == ["", "", "live", "rolled back"]


def test_a_shared_registry_of_an_earlier_release_is_signed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    shared, home = FolderRegistry(tmp_path / "shared"), tmp_path / "home"
    shared.publish(tmp_path / "model", version=1, parent=0, base="tiny")
    monkeypatch.setenv("PLAUDIT_REGISTRY", (tmp_path / "shared").as_uri())
    lines: list[str] = []
    with pytest.raises(DeployError, match=r"secret\.json is missing"):
        sign(home, lines.append)
    load_or_create_secret(home / "secret.json")
    with pytest.raises(ManifestUntrusted, match="run 'plaudit policies sign'"):
        open_registry(home).verify(1)
    for _ in range(2):
        sign(home, lines.append)
    assert lines == ["Signed versions: 1.", "Nothing to sign."]
    open_registry(home).verify(1)
