"""Extract code blocks and shell commands from Markdown pages."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        language: The word after the opening fence: bash, python, json or text.
        text: The lines between the fences.
        line: Line number of the block's first line in its file.

    """

    language: str
    text: str
    line: int


def blocks(file: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a Markdown file that name a language."""
    text = file.read_text()
    for match in _BLOCK.finditer(text):
        yield Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1)


def shell_commands(script: str) -> Iterator[str]:
    """Yield the commands of a script in order, without comments.

    A command continues on the next line while a quote is open or the line ends with a backslash.

    Raises:
        ValueError: The last command is incomplete.

    """
    pending = ""
    for line in script.splitlines():
        pending += line + "\n"
        if not is_complete(pending):
            continue
        if words := shlex.split(pending.replace("\\\n", " "), comments=True):
            yield shlex.join(words)
        pending = ""
    if pending.strip():
        raise ValueError(f"incomplete command: {pending!r}")


def is_complete(command: str) -> bool:
    """Return whether no quote is open and the last line does not end with a backslash."""
    if command.rstrip("\n").endswith("\\"):
        return False
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True
