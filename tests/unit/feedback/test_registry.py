"""A home's registry is signed with its secret, and what an earlier release left is signed once."""

import logging
from pathlib import Path

import pytest

from feedback.privacy.identity import load_or_create_secret
from feedback.registry import SIGNED, home_registry, open_registry
from protos.checkpoints.folder_registry import FolderRegistry
from protos.checkpoints.registry import MANIFEST, RegistryUnavailable
from protos.checkpoints.signatures import ManifestUntrusted


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def publish_unsigned(home: Path, model: Path, version: int) -> None:
    registry = FolderRegistry(home / "registry")
    registry.publish(model, version=version, parent=version - 1, base="b")


def test_a_home_of_an_earlier_release_is_signed_when_it_is_opened(
    home: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for version in (1, 2):
        publish_unsigned(home, model, version)
    (home / "registry" / "v000003").mkdir()
    (home / "registry" / "v000003" / MANIFEST).write_text("[")
    with caplog.at_level(logging.INFO):
        registry = open_registry(home)
    assert "Signed versions of an earlier release: 1, 2" in caplog.text
    assert "version 3: manifest.json is unreadable; it is not signed" in caplog.text
    for version in (1, 2):
        assert registry.verify(version).signature
    assert (home / "secret.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("upgraded", [True, False])
def test_what_somebody_adds_to_a_home_later_is_refused(
    home: Path, model: Path, upgraded: bool
) -> None:
    if upgraded:
        publish_unsigned(home, model, 1)
    open_registry(home)
    publish_unsigned(home, model, 2)
    with pytest.raises(ManifestUntrusted, match="version 2: its manifest is not signed"):
        open_registry(home).verify(2)


def test_two_installations_do_not_trust_each_other(tmp_path: Path, home: Path, model: Path) -> None:
    home_registry(home).publish(model, version=1, parent=0, base="b")
    other = tmp_path / "other"
    load_or_create_secret(other / "secret.json")
    home_registry(other)
    (home / "registry" / "v000001").rename(other / "registry" / "v000001")
    with pytest.raises(ManifestUntrusted, match="was not signed by this installation"):
        home_registry(other).verify(1)


def test_a_home_that_cannot_be_written_says_so(
    home: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_unsigned(home, model, 1)

    def full(*_: object) -> bool:
        raise OSError("disk full")

    monkeypatch.setattr(FolderRegistry, "sign", full)
    with pytest.raises(RegistryUnavailable, match="cannot be signed: disk full; make"):
        open_registry(home)
    assert not (home / SIGNED).exists()
