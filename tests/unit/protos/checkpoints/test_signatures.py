"""Manifests are signed: what another installation or nobody has signed is refused."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protos.checkpoints.folder_registry import FolderRegistry
from protos.checkpoints.registry import MANIFEST, CheckpointInvalid, Registry
from protos.checkpoints.shared_registry import SharedRegistry
from protos.checkpoints.signatures import ManifestSigner, ManifestUntrusted

EVIL = b"evil"
both = pytest.mark.parametrize("kind", ["folder", "shared"])


def open_at(kind: str, root: Path, machine: str = "learner", key: bytes | None = b"k") -> Registry:
    """Open the registry at `root` as a machine; without a key, as an earlier release does."""
    secret = root.parent / f"{machine}.json"
    secret.touch()
    signer = None if key is None else ManifestSigner(secret, lambda _: key)
    if kind == "folder":
        return FolderRegistry(root, signer)
    cache = root.parent / f"cache-{machine}"
    return SharedRegistry(root.as_uri(), cache, claimant=machine, signer=signer)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"good")
    return tmp_path / "model"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def publish(registry: Registry, source: Path, version: int = 1) -> None:
    registry.publish(source, version=version, parent=version - 1, base="b", gate={"kl": 0.1})


def rewrite(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change version 1's manifest as somebody who can write the registry would."""
    file = root / "v000001" / MANIFEST
    fields = json.loads(file.read_bytes())
    change(fields)
    file.write_text(json.dumps(fields))


@both
def test_what_was_published_is_read_by_every_machine_with_the_secret(
    kind: str, root: Path, source: Path
) -> None:
    publish(open_at(kind, root), source)
    rewrite(root, lambda fields: None)  # another layout of the same content
    for machine in ("learner", "replica"):
        registry = open_at(kind, root, machine)
        assert len(registry.verify(1).signature) == 32
        assert registry.manifest(1).gate["kl"] == 0.1
        assert registry.read(1, "model.safetensors") == b"good"
        assert not registry.sign(1)


EVIL_FILE = {"path": "model.safetensors", "sha256": hashlib.sha256(EVIL).hexdigest(), "size": "4"}


@both
@pytest.mark.parametrize(
    "changed",
    [
        {"files": [EVIL_FILE]},
        {"gate": {"kl": 0.2}},
        {"parent": "7"},
        {"base": "c"},
        {"keyedSplit": True},
        {"later": "a field of another release"},
        {"signature": base64.b64encode(bytes(32)).decode()},
    ],
)
def test_a_changed_manifest_is_refused(
    kind: str, root: Path, source: Path, changed: dict[str, Any]
) -> None:
    publish(open_at(kind, root), source)
    (root / "v000001" / "model.safetensors").write_bytes(EVIL)
    rewrite(root, lambda fields: fields.update(changed))
    replica = open_at(kind, root, "replica")
    for use in (replica.manifest, replica.verify, replica.check):
        with pytest.raises(ManifestUntrusted, match=r"altered afterwards.*restore the version"):
            use(1)
    with pytest.raises(ManifestUntrusted):
        replica.read(1, "model.safetensors")
    assert not list(root.parent.glob("cache-replica/*")), "nothing was fetched"


@both
def test_the_manifest_of_another_version_is_refused(kind: str, root: Path, source: Path) -> None:
    publish(open_at(kind, root), source)
    (root / "v000001").rename(root / "v000002")
    replica = open_at(kind, root, "replica")
    with pytest.raises(CheckpointInvalid, match="its manifest is of version 1"):
        replica.verify(2)
    (root / "v000002").rename(root / "v000001")
    rewrite(root, lambda fields: fields.update(version="2"))
    (root / "v000001").rename(root / "v000002")
    with pytest.raises(ManifestUntrusted):
        replica.verify(2)


@both
def test_a_manifest_of_another_installation_is_refused(kind: str, root: Path, source: Path) -> None:
    publish(open_at(kind, root, key=b"another"), source)
    registry = open_at(kind, root, "replica")
    for _ in range(2):
        with pytest.raises(ManifestUntrusted, match=r"replica\.json is not the installation's"):
            registry.verify(1)
        assert not registry.sign(1), "only what has no signature is signed"


@both
def test_a_manifest_without_a_signature_is_refused(kind: str, root: Path, source: Path) -> None:
    publish(open_at(kind, root), source)
    rewrite(root, lambda fields: fields.pop("signature"))
    with pytest.raises(ManifestUntrusted, match="run 'plaudit policies sign'"):
        open_at(kind, root, "replica").verify(1)


@both
def test_without_the_secret_nothing_is_read(kind: str, root: Path, source: Path) -> None:
    publish(open_at(kind, root), source)
    registry = open_at(kind, root, "replica")
    (root.parent / "replica.json").unlink()
    with pytest.raises(ManifestUntrusted, match=r"replica\.json is missing; copy"):
        registry.verify(1)


@both
def test_versions_of_an_earlier_release_are_signed_once(
    kind: str, root: Path, source: Path
) -> None:
    earlier = open_at(kind, root, "replica", key=None)
    publish(open_at(kind, root, key=None), source)
    earlier.verify(1)  # the replica may have a copy without a signature
    learner, replica = open_at(kind, root), open_at(kind, root, "replica")
    with pytest.raises(ManifestUntrusted):
        replica.verify(1)
    assert learner.sign(1)
    assert not learner.sign(1)
    assert replica.verify(1).gate["kl"] == 0.1
    assert (replica.path(1) / "model.safetensors").read_bytes() == b"good"
    assert earlier.verify(1).signature, "an earlier release reads it too"
    publish(learner, source, version=2)
    replica.verify(2)


def test_a_publication_that_an_earlier_release_began_is_finished_with_a_signature(
    root: Path, source: Path
) -> None:
    publish(open_at("shared", root, key=None), source)
    (root / "v000001" / MANIFEST).unlink()  # as if it was killed before it wrote this
    publish(open_at("shared", root), source)
    open_at("shared", root, "replica").verify(1)


def test_a_field_of_a_newer_release_stays_in_the_copy(root: Path, source: Path) -> None:
    publish(open_at("shared", root), source)

    def sign_with_another_field(fields: dict[str, Any]) -> None:
        del fields["signature"]
        fields["later"] = "x"
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        digest = hmac.digest(b"k", text.encode(), "sha256")
        fields["signature"] = base64.b64encode(digest).decode()

    rewrite(root, sign_with_another_field)
    replica = open_at("shared", root, "replica")
    replica.verify(1)
    assert '"later"' in (replica.path(1) / MANIFEST).read_text()
    replica.verify(1)  # of the copy


def test_a_manifest_that_must_not_be_used_is_not_signed(root: Path, source: Path) -> None:
    publish(open_at("folder", root, key=None), source)
    rewrite(root, lambda fields: fields.update(files=[{"path": "../x"}]))
    with pytest.raises(CheckpointInvalid, match="no plain file name"):
        open_at("folder", root).sign(1)
