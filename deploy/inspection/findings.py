"""The result of a check of `plaudit doctor`."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        level: `ok`, `warning` or `problem`.
        check: Name of the check.
        text: What the check found.
        advice: What to do about it; empty if nothing needs to be done.

    """

    level: Level
    check: str
    text: str
    advice: str = ""

    def line(self) -> str:
        """Return the finding as a line, followed by a line with the advice, if any."""
        text = f"{self.level:8} {self.check:10} {self.text}"
        return f"{text}\n{'':20}→ {self.advice}" if self.advice else text
