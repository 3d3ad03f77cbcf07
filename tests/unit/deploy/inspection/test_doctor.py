"""The checks of `plaudit doctor` on the machine, the ports, the model and the keys."""

import socket
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.commands.main import app
from deploy.errors import DeployError
from deploy.inspection.doctor import (
    available_memory,
    check_disk,
    check_keys,
    check_memory,
    check_model,
    check_packages,
    check_port,
    check_processor,
    examine,
    is_learner,
    is_plaudit,
    packages_for_another_python,
)
from deploy.inspection.findings import Finding
from deploy.settings import UpSettings
from deploy.sizing.machine import default_shape, this_machine
from deploy.sizing.plan import GIB, Machine, Plan, plan
from feedback.control.keys import KeyRing, milliseconds_now
from feedback.log.event_log import LogUnavailable
from feedback.log.sqlite_log import SqliteLog
from learner.settings import LearnerSettings
from protos.plaudit.v1.policy_pb2 import KeyMade, KeyRevoked
from tests.support.deployment.inspection import http_server, levels
from tests.support.models import tiny_chat_model
from tests.support.servers import free_port


def test_a_finding_is_one_line_and_its_advice_another() -> None:
    assert Finding("ok", "disk", "9 GiB").line() == "ok       disk       9 GiB"
    lines = Finding("problem", "disk", "0 GiB", "make room").line().splitlines()
    assert lines == ["problem  disk       0 GiB", "                    → make room"]


def test_processor() -> None:
    native, without = frozenset({"avx512_bf16"}), frozenset({"avx2"})
    assert levels(
        check_processor("auto", native, 2),
        check_processor("auto", without, 2),
        check_processor("bfloat16", native, 2),
        check_processor("bfloat16", without, 2),
        check_processor("auto", without, 1),
    ) == ["ok", "ok", "ok", "warning", "warning"]


def install(site: Path, name: str, *tags: str) -> None:
    """Install a package without code that has these tags."""
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = ["Wheel-Version: 1.0", "Generator: test", *(f"Tag: {tag}" for tag in tags)]
    (folder / "WHEEL").write_text("\n".join(lines) + "\n")


def test_packages_that_uv_reinstalls_at_every_call_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"cp{sys.version_info.major}{sys.version_info.minor}"
    install(tmp_path, "pure", "py3-none-any")
    install(tmp_path, "stable", "cp38-abi3-manylinux_2_28_x86_64")
    install(tmp_path, "native", f"{own}-{own}-linux_x86_64")
    install(tmp_path, "several", "cp39-cp39-linux_x86_64", f"{own}-{own}-linux_x86_64")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert check_packages(packages_for_another_python()).level == "ok"
    install(tmp_path, "foreign", "cp39-cp39-linux_x86_64")
    found = check_packages(packages_for_another_python())
    assert found.level == "warning"
    assert "uv reinstalls foreign at every" in found.text
    assert "UV_NO_SYNC=1" in found.advice


def planned() -> Plan:
    machine = Machine(cores=2, memory=16 * GIB, gpus=())
    return plan(
        default_shape(),
        machine,
        tune="full",
        dtype="float32",
        settings=LearnerSettings(),
        cache=GIB // 2,
    )


def too_large() -> Plan:
    raise DeployError("Model: 70 billion parameters.\nIt does not fit: it needs 900 GiB")


def test_memory() -> None:
    found = check_memory(too_large, None)
    assert levels(
        check_memory(planned, 16 * GIB), check_memory(planned, None), check_memory(planned, GIB)
    ) == ["ok", "ok", "warning"]
    assert (found.level, found.text) == ("problem", "It does not fit: it needs 900 GiB")
    assert 0 < available_memory() < this_machine().memory


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for free in (100 * GIB, 10 * GIB, 2 * GIB, GIB // 2):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: Usage(free))
        found.append(check_disk(tmp_path / "not" / "made", GIB))
    assert levels(*found) == ["ok", "warning", "problem", "problem"]


class Usage:
    def __init__(self, free: int) -> None:
        self.free = free


class PlauditHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        bodies = {"/livez": b'{"status": "alive"}', "/metrics": b"plaudit_learner_lag_events 0.0"}
        self.wfile.write(bodies.get(self.path, b""))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def running() -> Iterator[int]:
    """Return the port of a server that answers like Plaudit's serving and learner."""
    with http_server(PlauditHandler) as server:
        yield server.server_port


def test_a_server_that_can_record_nothing_is_recognised() -> None:
    class Failed(PlauditHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "no", "code": "write_path_failed"}}')

    class Other(PlauditHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b'{"error": "no such page"}')

    for handler, expected in ((Failed, True), (Other, False)):
        with http_server(handler) as server:
            assert is_plaudit("127.0.0.1", server.server_port) == expected


def test_ports(running: int) -> None:
    free = free_port()
    assert (is_plaudit("127.0.0.1", running), is_learner(running)) == (True, True)
    assert (is_plaudit("127.0.0.1", free), is_learner(free)) == (False, False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        found = check_port("127.0.0.1", taken, "--port", running=False)
    assert levels(
        check_port("127.0.0.1", free, "--port", running=False),
        check_port("127.0.0.1", running, "--port", running=True),
        found,
    ) == ["ok", "ok", "problem"]
    assert "--port" in found.advice


def test_model(tmp_path: Path) -> None:
    folder = tiny_chat_model(tmp_path / "tiny", 1)
    served = check_model("default", folder)
    brought = check_model(str(folder), None)
    (tmp_path / "empty").mkdir()
    found = levels(
        check_model("default", None),
        served,
        brought,
        check_model("somebody/model", None),
        check_model(str(tmp_path / "empty"), None),
    )
    assert found == ["ok", "ok", "ok", "warning", "problem"]
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace("LlamaForCausalLM", "NobodyForCausalLM"))
    unknown = check_model("default", folder)
    assert levels(unknown) == ["problem"]
    assert "NobodyForCausalLM" in unknown.text


def ring(*roles: str, revoked: int = 0) -> KeyRing:
    made = KeyRing()
    for number, role in enumerate(roles):
        made = made.add_key(KeyMade(id=str(number), role=role, digest=bytes([number])), 0)
    for number in range(revoked):
        made = made.revoke(KeyRevoked(id=str(number)), 1)
    return made


def test_keys(tmp_path: Path) -> None:
    assert levels(
        check_keys("127.0.0.1", ring(), tmp_path),
        check_keys("0.0.0.0", ring(), tmp_path),
        check_keys("0.0.0.0", ring("operator"), tmp_path),
        check_keys("0.0.0.0", ring("user", "annotator"), tmp_path),
        check_keys("0.0.0.0", ring("operator", revoked=1), tmp_path),
        check_keys("127.0.0.1", ring("operator", "operator", revoked=1), tmp_path),
        check_keys("127.0.0.1", None, tmp_path),
    ) == ["ok", "problem", "ok", "warning", "problem", "ok", "warning"]


def expiring(role: str, days: float, key_id: str = "a") -> KeyMade:
    expires_ms = milliseconds_now() + int(days * 86_400_000)
    return KeyMade(
        id=key_id, name=f"name-{key_id}", role=role, digest=key_id.encode(), expires_ms=expires_ms
    )


def test_keys_that_expire_soon_or_have_expired(tmp_path: Path) -> None:
    operator = ring("operator")
    late = check_keys("0.0.0.0", operator.add_key(expiring("user", 7.1), 0), tmp_path)
    soon_ring = operator.add_key(expiring("user", 6.9), 0)
    soon = check_keys("0.0.0.0", soon_ring, tmp_path)
    rotated = KeyMade(id="b", role="user", digest=b"b", replaces="a", grace_ms=10**12)
    renewed = check_keys("0.0.0.0", soon_ring.add_key(rotated, 0), tmp_path)
    without = check_keys("0.0.0.0", ring("user").add_key(expiring("operator", -1), 0), tmp_path)
    nobody = check_keys("0.0.0.0", KeyRing().add_key(expiring("operator", -1), 0), tmp_path)
    found = levels(late, soon, renewed, without, nobody)
    assert found == ["ok", "warning", "ok", "warning", "problem"]
    assert "within 7 days: name-a (" in soon.text
    assert "plaudit keys rotate" in soon.advice
    assert "expired: name-a (" in without.text


def test_the_command_exits_with_1_on_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.inspection.doctor._plan", lambda *_: planned())
    given = ["doctor", "--home", str(tmp_path / "home")]
    given += ["--port", str(free_port()), "--learner-port", str(free_port())]
    well = CliRunner().invoke(app, given)
    assert well.exit_code == 0, well.output
    assert "problem  " not in well.output
    assert not (tmp_path / "home").exists(), "the check creates nothing"
    unserved = CliRunner().invoke(app, [*given, "--model", str(tmp_path)])
    assert "problem  model" in unserved.output
    exposed = CliRunner().invoke(app, [*given, "--host", "0.0.0.0"])
    assert exposed.exit_code == 1
    assert "plaudit keys create --role operator" in exposed.output.replace("\n", " ")
    assert "11 checks: 1 problems" in exposed.output


def test_a_check_that_fails_is_a_problem_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    def away(*_: object) -> None:
        raise LogUnavailable("the log went away")

    monkeypatch.setattr("deploy.inspection.doctor._plan", lambda *_: planned())
    monkeypatch.setattr("tempfile.NamedTemporaryFile", unreadable)
    monkeypatch.setattr("feedback.log.sqlite_log.SqliteLog.read", away)
    SqliteLog(tmp_path / "log.db").close()
    settings = UpSettings(
        home=tmp_path, host="::1", port=free_port(), learner_port=free_port(), model="default"
    )
    found = {finding.check: finding for finding in examine(settings)}
    assert list(found)[-5:] == ["log", "registry", "clock", "model", "keys"]
    assert {check for check, one in found.items() if one.level == "problem"} - {"port"} == {
        "log",
        "clock",
    }
    assert found["log"].text == "the log went away"
    assert "PermissionError" in found["clock"].text
    assert "unknown" in found["keys"].text
    levels(*found.values())
