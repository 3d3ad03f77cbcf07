"""Two real vLLM servers for the serving tests: one with full weights, one with adapters."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.servers import Plaudit, running_server

# A model with random weights would fill the room between the tokens of JSON with blanks.
TOOL_ARGUMENTS: Final = (
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    *(
        "--structured-outputs-config",
        json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
    ),
)


@pytest.fixture(scope="session")
def plaudit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaudit]:
    home: Path = tmp_path_factory.mktemp("home")
    environment = {
        "PLAUDIT_FAILPOINTS": str(home / "failpoints"),
        "PLAUDIT_SERVING_POLL_SECONDS": ".1",
    }
    with running_server(home, environment, keys=True) as server:
        yield server


@pytest.fixture(scope="session")
def adapter_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plaudit]:
    """Serve adapters up to rank 8, and calls of tools.

    During a trial every request for two choices is a duel.
    """
    home: Path = tmp_path_factory.mktemp("adapted")
    environment = {
        "PLAUDIT_FAILPOINTS": str(home / "failpoints"),
        "PLAUDIT_SERVING_POLL_SECONDS": ".1",
        "PLAUDIT_SERVING_ENFORCE_EAGER": "1",
        "PLAUDIT_SERVING_LORA_RANK": "8",
        "PLAUDIT_SERVING_DUEL_SHARE": "1",
        "PLAUDIT_SERVING_VLLM_ARGUMENTS": shlex.join(TOOL_ARGUMENTS),
    }
    with running_server(home, environment) as server:
        yield server


@pytest.fixture
def next_version(adapter_server: Plaudit) -> int:
    return max(adapter_server.registry.versions()) + 1
