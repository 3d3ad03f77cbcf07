"""Publishing a candidate is finished after a crash, and another learner's version is not taken."""

from pathlib import Path

import pytest

from feedback.control.policies import append_policy_event, current_state
from feedback.log.sqlite_log import SqliteLog
from feedback.registry import open_registry
from learner.cycle.publishing import Publisher
from learner.cycle.state import CycleState
from learner.errors import LeadershipLost
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.policy_pb2 import Published


def write_model(folder: Path, weights: str) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_text(weights)
    return folder


def start_home(home: Path) -> tuple[SqliteLog, FolderRegistry]:
    log, registry = SqliteLog(home / "log.db"), open_registry(home)
    assert isinstance(registry, FolderRegistry)
    registry.publish(write_model(home / "first", "first"), version=1, parent=0, base="tiny")
    append_policy_event(log, Published(version=1))
    return log, registry


@pytest.mark.parametrize("announced", [False, True])
def test_a_version_of_another_learner_is_not_taken_for_the_own(
    tmp_path: Path, announced: bool
) -> None:
    log, registry = start_home(tmp_path)
    publisher = Publisher(tmp_path, log)
    publisher.claim_leadership("a")
    cycle = CycleState(number=1, parent=1, after_seq=0, upto_seq=0, events=0)
    cycle.version = publisher.next_version()
    registry.publish(write_model(tmp_path / "theirs", "theirs"), version=2, parent=1, base="tiny")
    if announced:
        append_policy_event(log, Published(version=2, parent=1))
    with pytest.raises(LeadershipLost, match="another learner published version 2"):
        publisher.publish(write_model(tmp_path / "own", "own"), cycle)
    log.close()


def test_publishing_is_finished_after_a_crash(tmp_path: Path) -> None:
    log, registry = start_home(tmp_path)
    own = write_model(tmp_path / "own", "own")
    registry.publish(own, version=2, parent=1, base="tiny")  # not announced yet
    publisher = Publisher(tmp_path, log)
    publisher.claim_leadership("a")
    cycle = CycleState(number=1, parent=1, after_seq=0, upto_seq=0, events=0)
    cycle.version = 2
    for _ in range(2):  # the second time it is announced already
        publisher.publish(own, cycle)
        assert list(current_state(log).published) == [1, 2]
    log.close()
