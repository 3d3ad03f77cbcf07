"""What a check of `plaudit doctor` gives."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        advice: What to do about it; empty where nothing is to be done.

    """

    level: Level
    check: str
    text: str
    advice: str = ""

    def line(self) -> str:
        """Return it as a line; a second one says what to do."""
        told = f"{self.level:8} {self.check:10} {self.text}"
        return f"{told}\n{'':20}→ {self.advice}" if self.advice else told
