"""The progress of a simulation, and the table that shows it."""

import time
from dataclasses import dataclass, field

from rich.table import Table


@dataclass
class Score:
    """Result of a version on the evaluation prompts, compared with the first version."""

    version: int
    win_rate: float
    mean_words: float
    at_seconds: float
    votes: int


@dataclass
class Progress:
    """State of a simulation, as the table shows it."""

    started: float
    first_version: int
    version: int
    first_vote: float | None = None
    comparisons: int = 0
    other_votes: int = 0
    refused: int = 0
    scores: list[Score] = field(default_factory=list)
    note: str = ""

    @property
    def votes(self) -> int:
        """Number of votes of all kinds."""
        return self.comparisons + self.other_votes

    def since_first_vote(self) -> float:
        """Return the seconds since the first vote; 0 before it."""
        return 0.0 if self.first_vote is None else time.monotonic() - self.first_vote


def results_table(heading: str, progress: Progress) -> Table:
    """Return the table of the results so far, titled `heading` and the seconds elapsed."""
    seconds = time.monotonic() - progress.started
    view = Table(
        title=f"{heading}, {seconds:.0f} s",
        caption=progress.note,
    )
    columns = (
        "version",
        f"win rate over v{progress.first_version}",
        "mean words",
        "votes",
        "live after",
    )
    for column in columns:
        view.add_column(column, justify="right")
    view.add_row(f"v{progress.first_version}", "0.50", "", "0", "")
    for score in progress.scores:
        view.add_row(
            f"v{score.version}",
            f"{score.win_rate:.2f}",
            f"{score.mean_words:.0f}",
            str(score.votes),
            f"{score.at_seconds:.0f} s",
        )
    view.add_section()
    view.add_row(f"v{progress.version} live", "", "", f"{progress.votes} sent", "")
    return view
