"""The learner samples with vLLM's engine, but never imports its server."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import learner

FOLDER = Path(learner.__path__[0])
FORBIDDEN = "vllm.entrypoints"


def imported(source: str) -> Iterator[str]:
    """Yield the dotted name of every import, also of those within functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def server_imports(source: str) -> list[str]:
    return [name for name in imported(source) if f"{name}.".startswith(f"{FORBIDDEN}.")]


def test_the_learner_imports_nothing_of_vllms_server() -> None:
    files = sorted(FOLDER.rglob("*.py"))
    assert len(files) > 40
    found = {str(file): server_imports(file.read_text(encoding="utf-8")) for file in files}
    assert not {file: names for file, names in found.items() if names}


@pytest.mark.parametrize(
    "source",
    [
        "import vllm.entrypoints.openai.api_server",
        "from vllm import entrypoints",
        "from vllm.entrypoints import openai",
        "def start():\n    from vllm.entrypoints.openai.api_server import run_server",
    ],
)
def test_an_import_of_the_server_is_found(source: str) -> None:
    assert server_imports(source)


def test_imports_of_the_engine_are_allowed() -> None:
    assert not server_imports("from vllm import LLM, SamplingParams\nimport vllm.config")
