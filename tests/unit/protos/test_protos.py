"""The contracts: generated code is current, old bytes decode, checkpoints are whole or absent."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from protos.checkpoints.folder_registry import FolderRegistry
from protos.checkpoints.registry import CheckpointInvalid, VersionTaken
from protos.generate import ROOT, generate
from protos.plaudit.v1.checkpoint_pb2 import Manifest
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import DeadLetter, FeedbackEvent
from protos.plaudit.v1.policy_pb2 import PolicyEvent


def test_regenerating_gives_the_same_bytes(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*_pb2.py*"))
    assert len(fresh) == 8
    for file in fresh:
        assert (tmp_path / file).read_bytes() == (ROOT / file).read_bytes(), file


MESSAGES = {
    message.DESCRIPTOR.full_name: message
    for message in (CompletionRecord, DeadLetter, FeedbackEvent, Manifest, PolicyEvent)
}
GOLDEN = json.loads((ROOT / "tests" / "golden" / "v0.1.json").read_text())


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_bytes_of_version_0_1_still_decode(name: str) -> None:
    golden = GOLDEN[name]
    decoded = MESSAGES[golden["type"]].FromString(bytes.fromhex(golden["bytes"]))
    assert MessageToDict(decoded, preserving_proto_field_name=True) == golden["message"]


def test_every_kind_of_message_has_golden_bytes() -> None:
    kinds = {
        f.name
        for event in (FeedbackEvent, PolicyEvent)
        for f in event.DESCRIPTOR.oneofs_by_name["kind"].fields
    }
    shown = {name.partition("-with-")[0].replace("-", "_") for name in GOLDEN}
    assert kinds | {"completion", "dead_letter", "manifest"} == shown


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(4096))
    return folder


def test_a_published_checkpoint_verifies(tmp_path: Path, source: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    registry.publish(source, version=1, parent=0, base="tiny", gate={"win_rate": 0.7})
    assert registry.versions() == [1]
    manifest = registry.verify(1)
    assert [f.path for f in manifest.files] == ["config.json", "model.safetensors"]
    assert manifest.gate["win_rate"] == 0.7


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["delete", "truncate", "alter"])
def test_damage_is_found(tmp_path: Path, source: Path, name: str, damage: str) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    registry.publish(source, version=1, parent=0, base="tiny")
    file = registry.path(1) / name
    data = bytearray(file.read_bytes())
    if damage == "delete":
        file.unlink()
    elif damage == "truncate":
        file.write_bytes(data[:-1])
    else:
        data[0] ^= 255
        file.write_bytes(data)
    with pytest.raises(CheckpointInvalid, match=name):
        registry.verify(1)


def test_a_version_is_published_once(tmp_path: Path, source: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    registry.publish(source, version=1, parent=0, base="tiny")
    with pytest.raises(VersionTaken):
        registry.publish(source, version=1, parent=0, base="tiny")


def test_a_version_without_a_manifest_does_not_exist(tmp_path: Path, source: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    registry.publish(source, version=1, parent=0, base="tiny")
    (registry.path(1) / "manifest.json").unlink()
    assert registry.versions() == []
    with pytest.raises(CheckpointInvalid):
        registry.verify(1)
    registry.publish(source, version=1, parent=0, base="tiny")  # replaces what a crash left
    registry.verify(1)


def test_a_publisher_killed_at_any_moment_leaves_whole_checkpoints_only(
    tmp_path: Path, source: Path
) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from protos.checkpoints.folder_registry import FolderRegistry\n"
        "r = FolderRegistry(Path(sys.argv[1])); s = Path(sys.argv[2])\n"
        "for v in range(1, 10000): r.publish(s, version=v, parent=v - 1, base='tiny')\n"
    )
    registry = FolderRegistry(tmp_path / "registry")
    process = subprocess.Popen([sys.executable, "-c", code, str(registry.root), str(source)])
    while len(registry.versions()) < 20:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    for version in registry.versions():
        registry.verify(version)
    following = registry.versions()[-1] + 1
    registry.publish(source, version=following, parent=following - 1, base="tiny")
    registry.verify(following)
