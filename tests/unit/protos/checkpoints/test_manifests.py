"""A manifest may name plain files of its checkpoint only; otherwise nothing is written."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import json_format

from protos.checkpoints.folder_registry import FolderRegistry
from protos.checkpoints.manifests import MAX_FILES, MAX_MANIFEST_BYTES, parse_manifest
from protos.checkpoints.registry import MANIFEST, CheckpointInvalid
from protos.checkpoints.shared_registry import SharedRegistry
from protos.plaudit.v1.checkpoint_pb2 import FileDigest, Manifest

EVIL = b"evil"
SHA256 = hashlib.sha256(EVIL).hexdigest()
LEADING_OUT = [
    "../evil",
    "../../evil",
    "sub/../../evil",
    "sub/../evil",
    "/tmp/evil",
    "..",
    ".",
    "",
    "./evil",
    "sub//evil",
    "evil/",
    "..\\evil",
    "C:evil",
    "evil\0",
    "evil\n",
    "x" * 256,
    MANIFEST,
]


def manifest_of(*paths: str, size: int = len(EVIL), sha256: str = SHA256) -> Manifest:
    files = [FileDigest(path=path, sha256=sha256, size=size) for path in paths]
    return Manifest(version=2, parent=1, base="tiny", files=files)


def parse(manifest: Manifest, version: int = 2) -> Manifest:
    return parse_manifest(json_format.MessageToJson(manifest).encode(), version)


@pytest.mark.parametrize("path", LEADING_OUT)
def test_names_that_are_not_plain_are_refused(path: str) -> None:
    with pytest.raises(CheckpointInvalid, match="no plain file name"):
        parse(manifest_of("config.json", path))


@pytest.mark.parametrize("path", ["model.safetensors", ".gitattributes", "a b.txt", "sub/é.json"])
def test_plain_names_are_accepted_also_in_subfolders(path: str) -> None:
    assert [digest.path for digest in parse(manifest_of(path)).files] == [path]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (manifest_of(*map(str, range(MAX_FILES + 1))), "names 1001 files"),
        (manifest_of("a", "b", size=2**39 + 1), "bytes in all"),
        (manifest_of("a", "a"), "names a file twice"),
        (manifest_of("a", sha256="../x"), "no plain file name with a SHA-256"),
        (Manifest(version=3), "its manifest is of version 3"),
        (Manifest(version=2, base="x" * MAX_MANIFEST_BYTES), "more than 1048576 bytes"),
    ],
)
def test_counts_sizes_and_versions_are_checked(manifest: Manifest, message: str) -> None:
    with pytest.raises(CheckpointInvalid, match=message):
        parse(manifest)


@pytest.mark.parametrize("data", [b"", b"[", b"\xff", b'{"files":' * 20_000])
def test_what_is_no_manifest_is_unreadable(data: bytes) -> None:
    with pytest.raises(CheckpointInvalid, match="is unreadable"):
        parse_manifest(data, 2)


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """Return the folder of version 2 in a shared registry, to which somebody else writes."""
    folder = tmp_path / "remote" / "v000002"
    folder.mkdir(parents=True)
    return folder


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("call", [SharedRegistry.verify, SharedRegistry.check])
@pytest.mark.parametrize("path", ["../../../outside/evil", "../v000001/evil", "{tmp_path}/evil"])
def test_a_shared_registry_writes_nothing_for_a_manifest_that_leads_out(
    tmp_path: Path, remote: Path, path: str, call: Callable[[SharedRegistry, int], object]
) -> None:
    path = path.format(tmp_path=tmp_path)
    (remote / path).parent.mkdir(parents=True, exist_ok=True)
    (remote / path).write_bytes(EVIL)
    (remote / MANIFEST).write_text(json_format.MessageToJson(manifest_of(path)))
    before = files_below(tmp_path)
    registry = SharedRegistry((tmp_path / "remote").as_uri(), tmp_path / "cache", claimant="a")
    with pytest.raises(CheckpointInvalid, match="no plain file name"):
        call(registry, 2)
    assert files_below(tmp_path) == before


def test_a_file_that_is_larger_than_its_manifest_says_is_not_fetched(
    tmp_path: Path, remote: Path
) -> None:
    (remote / "model.safetensors").write_bytes(EVIL * 2)
    (remote / MANIFEST).write_text(json_format.MessageToJson(manifest_of("model.safetensors")))
    registry = SharedRegistry((tmp_path / "remote").as_uri(), tmp_path / "cache", claimant="a")
    with pytest.raises(CheckpointInvalid, match="has 8 bytes, its manifest says 4"):
        registry.verify(2)
    assert not files_below(tmp_path / "cache")


def test_a_folder_reads_no_file_outside_of_the_checkpoint(tmp_path: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    (tmp_path / "evil").write_bytes(EVIL)
    registry.path(2).mkdir()
    (registry.path(2) / MANIFEST).write_text(json_format.MessageToJson(manifest_of("../../evil")))
    for read in (lambda: registry.verify(2), lambda: registry.read(2, "../../evil")):
        with pytest.raises(CheckpointInvalid, match="no plain file name"):
            read()


def test_a_model_with_a_name_that_would_be_refused_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a:b").write_bytes(EVIL)
    registry = FolderRegistry(tmp_path / "registry")
    with pytest.raises(CheckpointInvalid, match="must be renamed"):
        registry.publish(tmp_path / "model", version=2, parent=1, base="tiny")
    assert registry.versions() == []
