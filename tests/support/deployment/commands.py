"""Run a `plaudit` command inside a test."""

from typer.testing import CliRunner

from deploy.commands.main import app


def run_command(*command: str) -> str:
    """Run a `plaudit` command that must succeed, and return its output."""
    result = CliRunner().invoke(app, list(command))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output
