"""Small helpers that write Markdown."""

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [_row(header), _row(["---"] * len(header)), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def code(text: object) -> str:
    """Return a code span; an empty string for an empty text."""
    return f"`{text}`" if str(text) else ""


def sentence(text: str) -> str:
    """Return a text in one line, with a full stop at its end."""
    text = " ".join(text.split())
    return text if not text or text[-1] in ".!?…" else text + "."
