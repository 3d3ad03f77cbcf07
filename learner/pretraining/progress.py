"""Progress of a training stage: a callback type, and a progress bar that is such a callback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True, slots=True)
class Advance:
    """The progress of a training stage after a step.

    Attributes:
        stage: Name of the stage, as shown to users.
        step: Number of completed steps.
        steps: Number of steps in total.
        loss: Training loss of the last step, in nats per token.
        tokens_per_second: Average speed since the stage started or was resumed.

    """

    stage: str
    step: int
    steps: int
    loss: float
    tokens_per_second: float


OnAdvance = Callable[[Advance], None]


class ProgressBar:
    """A progress bar with loss, tokens/s and time left; call it with each `Advance`."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on `console`; on standard error by default."""
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
        """Draw the progress of a stage."""
        if advance.stage not in self._tasks:
            self._tasks[advance.stage] = self._progress.add_task(advance.stage, figures="")
        self._progress.update(
            self._tasks[advance.stage],
            total=advance.steps,
            completed=advance.step,
            figures=f"loss {advance.loss:.2f}  {advance.tokens_per_second:,.0f} tokens/s",
        )


@contextmanager
def progress_or_bar(progress: OnAdvance | None) -> Iterator[OnAdvance]:
    """Yield the callback, or a progress bar on standard error if there is none."""
    if progress is not None:
        yield progress
        return
    with ProgressBar() as bar:
        yield bar
