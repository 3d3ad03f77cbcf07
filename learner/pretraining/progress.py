"""Progress of a long stage: a callback, and a rich bar that is one."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True, slots=True)
class Advance:
    """How far a stage is.

    Attributes:
        stage: What is being done, in words for a user.
        loss: The latest training loss, in nats per token.
        tokens_per_second: Averaged since the stage started or was resumed.

    """

    stage: str
    step: int
    steps: int
    loss: float
    tokens_per_second: float


OnAdvance = Callable[[Advance], None]


class ProgressBar:
    """A bar on the terminal with loss, tokens/s and time left; call it with each Advance."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on `console`, by default standard error's."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "ProgressBar":
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing."""
        self._progress.stop()

    def __call__(self, advance: Advance) -> None:
        """Draw."""
        if advance.stage not in self._tasks:
            self._tasks[advance.stage] = self._progress.add_task(advance.stage, figures="")
        self._progress.update(
            self._tasks[advance.stage],
            total=advance.steps,
            completed=advance.step,
            figures=f"loss {advance.loss:.2f}  {advance.tokens_per_second:,.0f} tokens/s",
        )
