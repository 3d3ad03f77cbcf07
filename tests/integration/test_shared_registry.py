"""The shared registry on a real S3 server: publish, fetch, corruption and dropped connections."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from protos.checkpoints.registry import (
    MANIFEST,
    CheckpointInvalid,
    RegistryUnavailable,
    VersionTaken,
)
from protos.checkpoints.shared_registry import SharedRegistry
from tests.support.servers import free_port


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Run moto's S3 server; yield its address."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            httpx.get(url, timeout=2)
            break
        except httpx.HTTPError:
            time.sleep(0.2)
    yield url
    server.send_signal(signal.SIGTERM)
    server.wait(20)


class CuttingProxy(threading.Thread):
    """Forward bytes to a server; drop the first `cuts` connections after `limit` response bytes."""

    def __init__(self, target: str) -> None:
        super().__init__(daemon=True)
        self.target = int(target.rpartition(":")[2])
        self.limit = 0
        self.cuts = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def run(self) -> None:
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_response: bool) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                passed += len(data)
                if is_response and self.cuts > 0 and passed > self.limit:
                    self.cuts -= 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> CuttingProxy:
    """Return a proxy in front of the S3 server, and point the AWS client at it."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    cutting = CuttingProxy(s3)
    cutting.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", cutting.url)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    return cutting


@pytest.fixture
def url(proxy: CuttingProxy) -> str:
    import s3fs

    bucket = f"b{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/policies"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(3_000_000))
    return folder


def registry_at(url: str, folder: Path, machine: str) -> SharedRegistry:
    return SharedRegistry(url, folder / machine, claimant=machine)


def test_a_replica_fetches_and_verifies_what_the_learner_published(
    url: str, tmp_path: Path, source: Path
) -> None:
    learner, replica = registry_at(url, tmp_path, "learner"), registry_at(url, tmp_path, "replica")
    assert replica.versions() == []
    learner.publish(source, version=1, parent=0, base="tiny", gate={"win_rate": 0.7})
    assert replica.versions() == [1]
    assert replica.manifest(1).gate["win_rate"] == 0.7
    replica.verify(1)
    for name in ("config.json", "model.safetensors"):
        assert (replica.path(1) / name).read_bytes() == (source / name).read_bytes()


def test_a_dropped_connection_is_retried(
    url: str, tmp_path: Path, source: Path, proxy: CuttingProxy
) -> None:
    registry_at(url, tmp_path, "learner").publish(source, version=1, parent=0, base="tiny")
    proxy.limit, proxy.cuts = 1_000_000, 2
    replica = registry_at(url, tmp_path, "replica")
    replica.verify(1)
    assert proxy.cuts < 2
    assert (replica.path(1) / "model.safetensors").read_bytes() == (
        source / "model.safetensors"
    ).read_bytes()


def test_an_unreachable_registry_raises_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("protos.checkpoints.outages._RETRY_DELAYS", (0.01,))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RegistryUnavailable, match="is unavailable"):
        registry_at(url, tmp_path, "replica").versions()


def test_a_version_without_a_manifest_does_not_exist(
    url: str, tmp_path: Path, source: Path
) -> None:
    learner, replica = registry_at(url, tmp_path, "learner"), registry_at(url, tmp_path, "replica")
    learner.publish(source, version=1, parent=0, base="tiny")
    learner._fs.rm(learner._remote_path(1, MANIFEST))
    assert replica.versions() == []
    with pytest.raises(CheckpointInvalid, match="no manifest"):
        replica.verify(1)


def test_two_threads_can_verify_the_same_version(url: str, tmp_path: Path, source: Path) -> None:
    registry_at(url, tmp_path, "learner").publish(source, version=1, parent=0, base="tiny")
    replica = registry_at(url, tmp_path, "replica")
    with ThreadPoolExecutor(2) as threads:
        for future in [threads.submit(replica.verify, 1) for _ in range(2)]:
            assert future.result().version == 1


def test_a_version_is_checked_without_fetching_it(url: str, tmp_path: Path, source: Path) -> None:
    learner, replica = registry_at(url, tmp_path, "learner"), registry_at(url, tmp_path, "replica")
    learner.publish(source, version=1, parent=0, base="tiny")
    replica.check(1)
    assert not replica.path(1).exists()
    learner._fs.pipe_file(learner._remote_path(1, "config.json"), b"{")
    with pytest.raises(CheckpointInvalid, match="its manifest says 2"):
        replica.check(1)
    learner._fs.rm(learner._remote_path(1, "config.json"))
    with pytest.raises(CheckpointInvalid, match=r"config\.json is missing"):
        replica.check(1)
    with pytest.raises(CheckpointInvalid, match="no manifest"):
        replica.check(2)


def test_old_cached_copies_are_evicted_and_fetched_again_on_demand(
    url: str, tmp_path: Path, source: Path
) -> None:
    registry = registry_at(url, tmp_path, "replica")
    for version in range(1, 6):
        registry.publish(source, version=version, parent=version - 1, base="tiny")
    registry.evict_cached(4, {1, 3})
    assert [v for v in range(1, 6) if registry.path(v).exists()] == [1, 3, 4, 5]
    assert registry.versions() == [1, 2, 3, 4, 5]
    registry.verify(2)
    assert registry.path(2).exists()


@pytest.mark.parametrize("damage", ["alter", "delete"])
def test_corruption_in_the_registry_is_found(
    url: str, tmp_path: Path, source: Path, damage: str
) -> None:
    learner, replica = registry_at(url, tmp_path, "learner"), registry_at(url, tmp_path, "replica")
    learner.publish(source, version=1, parent=0, base="tiny")
    file = learner._remote_path(1, "model.safetensors")
    if damage == "delete":
        learner._fs.rm(file)
    else:
        learner._fs.pipe_file(file, os.urandom(3_000_000))
    with pytest.raises(CheckpointInvalid, match=r"model\.safetensors"):
        replica.verify(1)


def test_a_corrupt_cached_copy_is_fetched_again(url: str, tmp_path: Path, source: Path) -> None:
    registry_at(url, tmp_path, "learner").publish(source, version=1, parent=0, base="tiny")
    replica = registry_at(url, tmp_path, "replica")
    replica.verify(1)
    (replica.path(1) / "model.safetensors").write_bytes(b"no")
    replica.verify(1)
    assert (replica.path(1) / "model.safetensors").stat().st_size == 3_000_000


def test_only_one_claimant_publishes_a_version(url: str, tmp_path: Path, source: Path) -> None:
    first, second = registry_at(url, tmp_path, "a"), registry_at(url, tmp_path, "b")
    first._claim(2)  # and then dies
    with pytest.raises(VersionTaken, match="claimed by another"):
        second.publish(source, version=2, parent=1, base="tiny")
    first.publish(source, version=2, parent=1, base="tiny")
    for registry in (first, second):
        with pytest.raises(VersionTaken):
            registry.publish(source, version=2, parent=1, base="tiny")


def test_an_interrupted_publication_is_completed(url: str, tmp_path: Path, source: Path) -> None:
    learner = registry_at(url, tmp_path, "learner")
    learner.publish(source, version=1, parent=0, base="tiny")
    learner._fs.rm(learner._remote_path(1, MANIFEST))  # as if killed before the manifest
    again = registry_at(url, tmp_path, "learner")
    again.publish(source, version=1, parent=0, base="tiny")
    registry_at(url, tmp_path, "replica").verify(1)


def test_a_deleted_version_is_removed_from_registry_and_cache(
    url: str, tmp_path: Path, source: Path
) -> None:
    learner = registry_at(url, tmp_path, "learner")
    learner.publish(source, version=1, parent=0, base="tiny")
    learner.delete(1)
    assert registry_at(url, tmp_path, "replica").versions() == []
    assert not learner.path(1).exists()


def test_an_unknown_url_scheme_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnavailable, match="nosuch"):
        registry_at("nosuch://bucket", tmp_path, "a")
