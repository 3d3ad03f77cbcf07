"""The terminal of a chat; a file or pipe may take the place of its input and of its output."""

import os
import sys
import termios
import tty
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deploy.chat.client import Answers
from deploy.chat.keys import LABELS
from deploy.errors import DeployError

_REFRESHES_PER_SECOND: Final = 12
_KEY_BYTES: Final = 32  # more than any key sends
_END_OF_INPUT: Final = ("", "\x04")  # closed, or Ctrl-D


class Terminal:
    """Reads lines and keys, and shows answers."""

    def __init__(self, console: Console) -> None:
        """Print on `console`."""
        self._console = console

    def echo(self, text: str) -> None:
        """Print a line without wrapping it."""
        self._console.print(text, soft_wrap=True)

    def problem(self, error: DeployError) -> None:
        """Print an error."""
        self._console.print(f"plaudit: {error}", style="red", soft_wrap=True)

    def line(self, prompt: str) -> str:
        """Return the next line; where the input is no terminal, print it too.

        Raises:
            EOFError: The input has ended.

        """
        typed = sys.stdin.isatty()
        if typed and sys.stdout.isatty():
            import readline  # noqa: F401 (input() edits lines and has a history with it)
        line = input(prompt)
        if not typed:
            self.echo(line)
        return line

    def key(self, prompt: str) -> str:
        """Return the next key, empty for Enter; where the input is no terminal, the next line.

        Raises:
            EOFError: The input has ended.

        """
        if not sys.stdin.isatty():
            return self.line(prompt).strip()
        descriptor = sys.stdin.fileno()
        with _single_keys(descriptor):  # before the prompt, so that no key after it is lost
            self._console.print(prompt, end="", style="dim", soft_wrap=True)
            key = _read_key(descriptor)
        self.echo(key if key.isprintable() else "")
        return key

    def show(self, answers: Answers, stream: Generator[Answers]) -> None:
        """Show answers while they stream; where the output is no terminal, when they are complete.

        Ctrl-C stops the stream; what has arrived stays in `answers`.

        Raises:
            RequestError: The server does not answer, or refuses the request.

        """
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            _drain(stream)
            for line in plain_lines(answers):
                self.echo(line)
            return
        with Live(
            console=self._console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            get_renderable=lambda: answers_table(answers),
        ):
            _drain(stream)


def answers_table(answers: Answers) -> Table:
    """Return the answers one under the other, with their labels if there are several."""
    table = Table.grid(padding=(0, 1))
    several = len(answers.texts) > 1
    for label, text in zip(LABELS, answers.texts, strict=False):
        cells = [Text(label, style="bold cyan")] if several else []
        table.add_row(*cells, Text(printable(text) or "…"))
    return table


def plain_lines(answers: Answers) -> list[str]:
    """Return the answers that have begun as plain text, with their labels if there are several."""
    prefixes = [f"{label}: " for label in LABELS] if len(answers.texts) > 1 else [""]
    return [prefixes[choice] + printable(answers.texts[choice]) for choice in answers.shown()]


def printable(text: str) -> str:
    """Return an answer without control characters, which could change the terminal's state."""
    return "".join(c for c in text if c in "\n\t" or c.isprintable()).strip()


def _drain(stream: Generator[Answers]) -> None:
    """Read a stream to its end, or close it at Ctrl-C."""
    with suppress(KeyboardInterrupt), closing(stream):
        for _ in stream:
            pass


@contextmanager
def _single_keys(descriptor: int) -> Iterator[None]:
    """Deliver keys without Enter and echo, and drop those pressed while the answers streamed."""
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSAFLUSH)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read_key(descriptor: int) -> str:
    """Return the next key, empty for Enter.

    Raises:
        EOFError: Ctrl-D, or the terminal was closed.

    """
    pressed = os.read(descriptor, _KEY_BYTES).decode(errors="replace")[:1]
    if pressed in _END_OF_INPUT:
        raise EOFError
    return "" if pressed in "\r\n" else pressed
