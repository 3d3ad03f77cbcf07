"""`plaudit policies list` and `prune`."""

from pathlib import Path

from deploy.administration.policies import list_policies, operations, prune
from feedback.control.policies import append_policy_event
from feedback.log.sqlite_log import SqliteLog
from protos.checkpoints.folder_registry import FolderRegistry
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
