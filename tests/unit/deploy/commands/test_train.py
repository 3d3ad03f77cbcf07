"""`plaudit pretrain` and `sft`: shape, tokens, batch and rate from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.commands.main import app
from learner.settings import PretrainSettings, SftSettings

SHAPE = [
    "--vocabulary",
    "300",
    "--hidden",
    "32",
    "--layers",
    "1",
    "--heads",
    "1",
    "--feed-forward",
    "48",
    "--context",
    "64",
]
SMALL = ["--tokens", "2000", "--row", "32", "--batch-tokens", "64", "--learning-rate", "0.01"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.commands.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_of_the_given_shape_is_trained_with_progress_in_lines(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"The number {n} comes after {n - 1}." for n in range(300)))
    data = tmp_path / "data.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    data.write_text(json.dumps({"messages": turns}) + "\n")
    out, chat = tmp_path / "out", tmp_path / "chat"
    pretrained = run("pretrain", "--out", str(out), "--text", str(text), *SHAPE, *SMALL)
    assert pretrained.returncode == 0, pretrained.stdout + pretrained.stderr
    config = json.loads((out / "config.json").read_text())
    assert (config["hidden_size"], config["intermediate_size"]) == (32, 48)
    assert config["num_hidden_layers"] == 1
    assert "Pre-training: 100%" in pretrained.stdout
    tuned = run("sft", "--model", str(out), "--out", str(chat), "--data", str(data), *SMALL)
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    assert "Fine-tuning: 100%" in tuned.stdout
    assert (chat / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "33", "--heads", "2"], "multiple of twice the heads"),
        (["--learning-rate", "0"], "'learning_rate'"),
        (["--tokens", "-5"], "'tokens'"),
    ],
)
def test_impossible_values_are_refused_before_any_training(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run("pretrain", "--out", str(tmp_path / "out"), *arguments)
    assert done.returncode == 2
    assert message in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "settings"), [("pretrain", PretrainSettings), ("sft", SftSettings)]
)
def test_the_help_describes_every_setting(
    command: str, settings: type[PretrainSettings | SftSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    printed = CliRunner().invoke(app, [command, "--help"]).output
    for name, field in settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in printed
        assert (field.description or "?")[:40] in printed
