"""The contracts: generated code is current, old bytes decode, checkpoints are whole or absent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protos.generate import ROOT, generate
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.feedback_pb2 import FeedbackEvent
from protos.registry import CheckpointInvalid, Registry, VersionTaken


def test_regenerating_gives_the_same_bytes(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*_pb2.py*"))
    assert len(fresh) == 8
    for file in fresh:
        assert (tmp_path / file).read_bytes() == (ROOT / file).read_bytes(), file


def test_golden_bytes_decode() -> None:
    """Bytes written by version 0.1: they must decode for ever."""
    event = FeedbackEvent.FromString(GOLDEN_EVENT)
    assert event.event_id == "fb-1"
    assert event.comparison.verdict == 1
    assert event.comparison.right.choice == 1
    record = CompletionRecord.FromString(GOLDEN_RECORD)
    assert record.choices[0].text == "hi"
    assert list(record.choices[0].token_ids) == [5, 300]
    assert record.choices[0].versions[0].policy_version == 3


GOLDEN_EVENT = bytes.fromhex(
    "0a0466622d31120a63686174636d706c2d311a056c6f63616c2201732880d8c1a28c343002420201"
    "0048e610b201200a0c0a0a63686174636d706c2d31120e0a0a63686174636d706c2d3110011801"
)
GOLDEN_RECORD = bytes.fromhex(
    "0a0a63686174636d706c2d3112056c6f63616c2080d8c1a28c342a07706c6175646974320d0a0475"
    "736572120568656c6c6f42030102034a1609000000000000f03f11000000000000f03f4810600152"
    "1f120268691a0305ac022208000000bf0000a0bf2a0408031802320473746f70"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(4096))
    return folder


def test_a_published_checkpoint_verifies(tmp_path: Path, source: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.publish(source, version=1, parent=0, base="tiny", gate={"win_rate": 0.7})
    assert registry.versions() == [1]
    manifest = registry.verify(1)
    assert [f.path for f in manifest.files] == ["config.json", "model.safetensors"]
    assert manifest.gate["win_rate"] == 0.7


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["delete", "truncate", "alter"])
def test_damage_is_found(tmp_path: Path, source: Path, name: str, damage: str) -> None:
    registry = Registry(tmp_path / "registry")
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
    registry = Registry(tmp_path / "registry")
    registry.publish(source, version=1, parent=0, base="tiny")
    with pytest.raises(VersionTaken):
        registry.publish(source, version=1, parent=0, base="tiny")


def test_no_manifest_no_checkpoint(tmp_path: Path, source: Path) -> None:
    registry = Registry(tmp_path / "registry")
    registry.publish(source, version=1, parent=0, base="tiny")
    (registry.path(1) / "manifest.json").unlink()
    assert registry.versions() == []
    with pytest.raises(CheckpointInvalid):
        registry.verify(1)
    registry.publish(source, version=1, parent=0, base="tiny")  # what a crash left is replaced
    registry.verify(1)


def test_a_publisher_killed_at_any_moment_leaves_whole_checkpoints_only(
    tmp_path: Path, source: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from protos.registry import Registry\n"
        "r = Registry(Path(sys.argv[1])); s = Path(sys.argv[2])\n"
        "for v in range(1, 10000): r.publish(s, version=v, parent=v - 1, base='tiny')\n"
    )
    registry = Registry(tmp_path / "registry")
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
