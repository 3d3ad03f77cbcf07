"""Code blocks of Markdown pages, and running them as a reader would."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: The word behind the fence: bash, python, json, text.
        text: The lines between the fences.
        line: Number of the block's first line in its file.

    """

    language: str
    text: str
    line: int


def blocks(file: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a Markdown file that name a language."""
    text = file.read_text()
    for found in _BLOCK.finditer(text):
        yield Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)


def shell_commands(script: str) -> Iterator[str]:
    """Yield the commands of a script, one after the other, without comments.

    A command goes on to the next line while a quote is open or the line ends with a backslash.
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
        raise ValueError(f"the command has no end: {pending!r}")


def is_complete(command: str) -> bool:
    """Tell whether no quote is open and the last line does not end with a backslash."""
    if command.rstrip("\n").endswith("\\"):
        return False
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True
