"""What `plaudit up` checks before it trains, and whether the endpoint requires keys."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.commands.main import app
from deploy.errors import DeployError
from deploy.local.up import needs_key, up
from deploy.settings import VLLM_ARGUMENTS, UpSettings
from feedback.control.history import History
from feedback.log.event_log import LogUnavailable
from feedback.log.sqlite_log import SqliteLog
from serving.errors import ServingError
from serving.services import require_valid_key
from tests.support.deployment.commands import run_command
from tests.support.deployment.inspection import StatusHandler, http_server
from tests.support.servers import free_port


def test_others_are_not_served_without_keys(tmp_path: Path) -> None:
    lines: list[str] = []
    ports = {"port": free_port(), "learner_port": free_port()}
    settings = UpSettings(home=tmp_path, host="0.0.0.0", **ports)
    with pytest.raises(ServingError, match="no API key yet") as refused:
        up(settings, lines.append)
    assert f"plaudit keys create --role operator --home {tmp_path}" in str(refused.value)
    assert lines == [], "nothing was trained"
    log = SqliteLog(tmp_path / "log.db")
    history = History(log)
    history.poll()
    with pytest.raises(ServingError, match="plaudit keys create"):
        require_valid_key("0.0.0.0", history, tmp_path)
    require_valid_key("127.0.0.1", history, tmp_path)
    run_command("keys", "create", "--role", "operator", "--name", "root", "--home", str(tmp_path))
    history.poll()
    require_valid_key("0.0.0.0", history, tmp_path)
    run_command("keys", "revoke", "root", "--home", str(tmp_path))
    history.poll()
    with pytest.raises(ServingError, match="every API key is revoked"):
        require_valid_key("0.0.0.0", history, tmp_path)
    log.close()


def test_a_refused_argument_of_vllm_is_reported_before_anything_is_trained(tmp_path: Path) -> None:
    ports = ["--port", str(free_port()), "--learner-port", str(free_port())]
    vllm = ["--", "--tensor-parallel-size", "2", "--load-format", "dummy"]
    result = CliRunner(env={VLLM_ARGUMENTS: None}).invoke(
        app, ["up", "--home", str(tmp_path), *ports, *vllm]
    )
    assert isinstance(result.exception, ServingError)
    assert "--load-format is refused: a swap loads the safetensors" in str(result.exception)
    assert not (tmp_path / "registry").exists()


class SilentHandler(StatusHandler):
    """Be ready, but close every other connection without an answer."""

    def do_GET(self) -> None:
        if self.path == "/readyz":
            super().do_GET()


def test_up_asks_again_after_an_answer_that_broke_off() -> None:
    with http_server(SilentHandler) as server:
        settings = UpSettings(port=server.server_port)
        assert needs_key(settings) is None
        server.RequestHandlerClass = StatusHandler
        assert needs_key(settings) is True
    assert needs_key(settings) is None


def test_the_costs_of_smollm2_are_printed_before_anything_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    def stop(*_: object, **__: object) -> None:
        raise DeployError("stopped here")

    monkeypatch.setattr("deploy.local.up.ensure_first_policy", stop)
    ports = {"port": free_port(), "learner_port": free_port()}
    with pytest.raises(DeployError, match="stopped here"):
        up(UpSettings(home=tmp_path, model="smollm2", **ports), lines.append)
    assert "What it costs here: nothing to download (its 93 MB" in lines[-1]
    assert "for a learning cycle" in lines[-1]


def test_a_wrong_kafka_address_is_reported_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAUDIT_KAFKA_SERVERS", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("PLAUDIT_KAFKA_CONNECT_SECONDS", "0.3")
    lines: list[str] = []
    settings = UpSettings(home=tmp_path, port=free_port(), learner_port=free_port())
    with pytest.raises(LogUnavailable, match="cannot reach Kafka"):
        up(settings, lines.append)
    assert lines == []


def test_a_closed_readiness_check_means_that_keys_are_needed() -> None:
    class Closed(StatusHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

    with http_server(Closed) as server:
        assert needs_key(UpSettings(port=server.server_port)) is True
