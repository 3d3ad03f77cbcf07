"""Schemathesis finds no contradiction between `/openapi.json` and what our routes answer.

It sends what the schema allows and what it does not, and checks statuses, bodies and headers. There
are no keys, so that it reaches the routes; the tests of the roles have keys.
`PLAUDIT_FUZZ_EXAMPLES=50` searches longer.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import free_port

CONFIG = Path(__file__).parents[3] / "data" / "schemathesis.toml"
EXAMPLES = os.environ.get("PLAUDIT_FUZZ_EXAMPLES", "3")
STREAM = "/v1/learning/events"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    module = "tests.support.own_server"
    command = [sys.executable, "-m", module, str(tmp_path / "home"), str(port)]
    with subprocess.Popen(command) as server:
        yield f"http://127.0.0.1:{port}"
        server.terminate()


def test_every_route_answers_as_its_schema_says(url: str, tmp_path: Path) -> None:
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(CONFIG)),
        *("run", f"{url}/openapi.json"),
        *("--wait-for-schema", "60", "--request-timeout", "10", "--exclude-path", STREAM),
        *("--checks", "all", "--max-examples", EXAMPLES, "--continue-on-failure"),
        *("--generation-deterministic", "--no-color"),
    ]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-20_000:] + found.stderr[-2000:]
