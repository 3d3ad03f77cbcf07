"""`plaudit chat` in a real terminal: single keys, answers that stream, Ctrl-C and Ctrl-D."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.browser.stand_in import StandIn

SECONDS = 60
# Ctrl-C reaches only the processes whose controlling terminal it is pressed in.
_PROGRAM = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from deploy.commands.main import main
main()
"""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Screen:
    """A process in a pseudo-terminal, and what it has printed."""

    process: "subprocess.Popen[bytes]"
    descriptor: int
    text: str = ""

    def wait_for(self, text: str) -> None:
        """Read until a text appears after the last one that was waited for."""
        deadline = time.monotonic() + SECONDS
        while text not in self.text:
            waiting, _, _ = select.select([self.descriptor], [], [], deadline - time.monotonic())
            assert waiting, self.text
            try:
                self.text += _CONTROL.sub("", os.read(self.descriptor, 65_536).decode())
            except OSError as error:  # the process has ended
                raise AssertionError(self.text) from error
        self.text = self.text.partition(text)[2]

    def press(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())


@pytest.fixture
def screen(server: StandIn) -> Iterator[Screen]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, "chat", "--url", server.url],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        start_new_session=True,
    )
    os.close(theirs)
    yield Screen(process, ours)
    process.kill()
    process.wait()
    os.close(ours)


def test_keys_vote_without_enter_and_ctrl_d_ends(screen: Screen, server: StandIn) -> None:
    screen.wait_for("You: ")
    screen.press("Tea?\r")
    screen.wait_for("quit] ")
    screen.press("\x1b[A")  # an arrow has no meaning
    screen.wait_for("This key has no meaning here.")
    screen.wait_for("quit] ")
    screen.press("b")
    screen.wait_for("Thank you. Version 1 answered")
    screen.wait_for("You: ")
    screen.press("\x04")
    screen.wait_for("Goodbye.")
    assert screen.process.wait(SECONDS) == 0
    assert [vote["feedback"]["verdict"] for vote in server.feedback.values()] == ["right"]


def test_ctrl_c_stops_an_answer_and_then_the_chat(screen: Screen, server: StandIn) -> None:
    server.answers = ["word " * 10_000]
    server.tokens_per_second = 20
    screen.wait_for("You: ")
    screen.press("Tea?\r")
    screen.wait_for("word word")
    screen.press("b")  # too early to be a vote
    screen.press("\x03")
    screen.wait_for("quit] ")
    screen.press("a")
    screen.wait_for("Thank you.")
    screen.wait_for("You: ")
    time.sleep(1)  # readline misses a signal between the prompt and its wait for input
    screen.press("\x03")
    screen.wait_for("Goodbye.")
    assert screen.process.wait(SECONDS) == 0
    assert [vote["feedback"]["verdict"] for vote in server.feedback.values()] == ["left"]
