"""The first policy: the shipped default model, or one that is trained here from random weights."""

from pathlib import Path

import pytest

from deploy.errors import DeployError
from deploy.local import bootstrap
from deploy.local.bootstrap import ensure_first_policy
from feedback.control.policies import current_state
from feedback.log.sqlite_log import SqliteLog
from protos.checkpoints.folder_registry import FolderRegistry
from tests.support.models import tiny_chat_model


@pytest.fixture
def printed() -> list[str]:
    return []


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record the commands that would train; each writes a tiny model instead."""
    run: list[list[str]] = []

    def record(arguments: list[str]) -> None:
        run.append(arguments)
        tiny_chat_model(Path(arguments[arguments.index("--out") + 1]))

    monkeypatch.setattr(bootstrap, "_run", record)
    return run


def published(home: Path) -> list[int]:
    log = SqliteLog(home / "log.db")
    versions = list(current_state(log).published)
    log.close()
    return versions


def test_the_shipped_model_is_published_without_training(
    tmp_path: Path, printed: list[str], commands: list[list[str]]
) -> None:
    for _ in range(2):
        ensure_first_policy(tmp_path, "default", "float32", printed.append)
    manifest = FolderRegistry(tmp_path / "registry").verify(1)
    assert manifest.keyed_split
    assert manifest.base == "default"
    assert commands == []
    assert published(tmp_path) == [1]
    assert "nothing is trained" in printed[0]


def test_from_scratch_trains_once(
    tmp_path: Path, printed: list[str], commands: list[list[str]]
) -> None:
    for _ in range(2):
        ensure_first_policy(tmp_path, "default", "float32", printed.append, from_scratch=True)
    assert [command[0] for command in commands] == ["pretrain", "sft"]
    assert published(tmp_path) == [1]


def test_from_scratch_is_refused_where_it_would_do_nothing(
    tmp_path: Path, printed: list[str], commands: list[list[str]]
) -> None:
    with pytest.raises(DeployError, match="leave one out"):
        ensure_first_policy(tmp_path, "smollm2", "float32", printed.append, from_scratch=True)
    ensure_first_policy(tmp_path, "default", "float32", printed.append)
    with pytest.raises(DeployError, match=r"has a first policy already.*--home"):
        ensure_first_policy(tmp_path, "default", "float32", printed.append, from_scratch=True)
    assert commands == []
