"""The command line: settings, errors and the first policy."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from deploy.commands.main import app
from deploy.settings import UpSettings
from feedback.control.policies import current_state
from feedback.log.sqlite_log import SqliteLog
from protos.checkpoints.folder_registry import FolderRegistry


def test_unknown_settings_fail() -> None:
    with pytest.raises(ValidationError):
        UpSettings(colour="red")  # type: ignore[call-arg]


def test_settings_load_neither_torch_nor_vllm() -> None:
    code = (
        "import sys, deploy.commands.main, deploy.settings, serving.settings, learner.settings;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'vllm', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_help_ends_with_the_next_steps() -> None:
    lines = [
        line.strip() for line in CliRunner().invoke(app, []).output.splitlines() if line.strip()
    ]
    steps = " ".join(lines[lines.index("Next steps:") :])
    places = [steps.index(step) for step in ("'plaudit up'", "127.0.0.1:8000/ ", "'plaudit chat'")]
    assert places == sorted(places)


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and group of commands."""
    group = group or typer.main.get_command(app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_help_texts_lose_nothing_to_markup(path: tuple[str, ...]) -> None:
    """Typer reads [words] as markup, which leaves a full stop alone."""
    output = CliRunner().invoke(app, [*path, "--help"]).output
    assert "Usage" in output
    assert not re.search(r"\S \.( |$)", output, re.MULTILINE), output


@pytest.mark.parametrize("words", [("policies", "list"), ("feedback", "import", "votes.jsonl")])
def test_errors_say_what_to_do_without_a_traceback(tmp_path: Path, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "deploy.commands.main", *words]
    command += ["--home", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "plaudit up" in result.stdout.replace("\n", " ")
    assert "Traceback" not in result.stdout + result.stderr


def test_init_publishes_the_first_policy_once(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    home = tmp_path / "home"
    FolderRegistry(home / "registry").publish(
        model, version=1, parent=0, base="own"
    )  # then it crashed
    for _ in range(2):
        done = CliRunner().invoke(app, ["init", "--home", str(home)])
        assert done.exit_code == 0, done.output
    log = SqliteLog(home / "log.db")
    assert current_state(log).live == 1
    assert log.ends("policies") == {0: 1}
    log.close()
