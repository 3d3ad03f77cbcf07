"""The code blocks of the documentation: commands exist, scripts parse, and none is left out."""

import ast
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.deployment.names import parsed
from tests.support.deployment.texts import documents
from tests.support.documents import Block, blocks, is_complete, shell_commands

REPOSITORY = Path(__file__).parents[3]
DOCUMENTS = {str(file.relative_to(REPOSITORY)): file for file in documents(REPOSITORY)}
# Programs other than `plaudit` that the documentation names, and where they come from.
PROGRAMS = {
    *("uv", "make", "curl", "export", "prometheus", "docker", "kubectl"),
    *("mkdir", "scp", "srun", "CUDA_VISIBLE_DEVICES"),
}
LANGUAGES = {"bash", "python", "json", "text"}


def of(language: str) -> list[pytest.param]:  # type: ignore[valid-type]
    return [
        pytest.param(block, id=f"{name}:{block.line}")
        for name, file in DOCUMENTS.items()
        for block in blocks(file)
        if block.language == language
    ]


def test_every_block_names_a_language_that_is_checked() -> None:
    found = {block.language for file in DOCUMENTS.values() for block in blocks(file)}
    assert found <= LANGUAGES


@pytest.mark.parametrize("block", of("bash"))
def test_commands_and_options_exist(block: Block) -> None:
    for command in shell_commands(block.text):
        words = shlex.split(command)
        assert words[0].split("=")[0] in PROGRAMS, command
        if words[0] == "make":
            assert all(has_target(target) for target in words[1:])
        if "plaudit" in words:
            parsed(words[words.index("plaudit") + 1 :])


@pytest.mark.parametrize("block", of("bash"))
def test_scripts_have_no_syntax_error(block: Block) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    assert subprocess.run([bash, "-n", "-c", block.text], check=False).returncode == 0


@pytest.mark.parametrize("block", of("python"))
def test_python_parses(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", of("json"))
def test_json_parses(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_modules_that_are_run_exist(name: str) -> None:
    words = DOCUMENTS[name].read_text().split()
    modules = [words[i + 2] for i in range(len(words) - 2) if words[i : i + 2] == ["python", "-m"]]
    for module in modules:
        path = module.strip("`).,;:").replace(".", "/")
        assert (REPOSITORY / f"{path}.py").is_file(), module


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_in_code_spans_exist(name: str) -> None:
    for path in paths_named(DOCUMENTS[name].read_text()):
        assert (REPOSITORY / path).exists(), f"{name} names {path}"


def paths_named(text: str) -> list[str]:
    """Return the paths of our folders that a text has in code spans."""
    folders = ("protos", "feedback", "serving", "learner", "deploy", "tests", "bench", "docs")
    spans = [span for part in text.split("```")[::2] for span in part.split("`")[1::2]]
    return [s for s in spans if s.startswith(tuple(f"{f}/" for f in folders)) and " " not in s]


def has_target(target: str) -> bool:
    return f"\n{target}:" in (REPOSITORY / "Makefile").read_text()


def test_an_open_quote_goes_on_to_the_next_line() -> None:
    script = "curl -d '{\n  \"a\": 1}' URL  # a comment\n\nuv run plaudit \\\n  up\n"
    assert list(shell_commands(script)) == ["curl -d '{\n  \"a\": 1}' URL", "uv run plaudit up"]
    assert not is_complete("curl -d '{")


def test_a_command_that_does_not_exist_is_found() -> None:
    with pytest.raises(ValueError, match="no command 'plaudit fly'"):
        test_commands_and_options_exist(Block("bash", "uv run plaudit fly\n", 1))
    with pytest.raises(ValueError, match="--wings"):
        test_commands_and_options_exist(Block("bash", "uv run plaudit up --wings 2\n", 1))
