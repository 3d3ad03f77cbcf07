"""Progress of a training stage: a callback type, and callbacks that show it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True, slots=True)
class Advance:
    """The progress of a training stage after a step.

    Attributes:
        stage: Name of the stage, as shown to users.
        step: Number of completed steps.
        steps: Number of steps in total.
        loss: Training loss of the last step, in nats per token; None where nothing is trained.
        tokens_per_second: Average speed since the stage started or was resumed.

    """

    stage: str
    step: int
    steps: int
    loss: float | None
    tokens_per_second: float

    @property
    def figures(self) -> str:
        """The loss and the speed as shown to users."""
        loss = "" if self.loss is None else f"loss {self.loss:.2f}, "
        return f"{loss}{self.tokens_per_second:,.0f} tokens/s"


OnAdvance = Callable[[Advance], None]
_LINE_SECONDS: Final = 10.0  # between two lines where there is no terminal


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
            figures=advance.figures,
        )


class ProgressLines:
    """Prints a line with share done, loss, tokens/s and time left, at most every ten seconds."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Print to `console`; `clock` returns seconds."""
        self._console = console
        self._clock = clock
        self._printed: dict[str, float] = {}
        self._first: dict[str, tuple[float, int]] = {}

    def __call__(self, advance: Advance) -> None:
        """Print the progress of a stage if a line is due."""
        now = self._clock()
        began, first_step = self._first.setdefault(advance.stage, (now, advance.step))
        due = now >= self._printed.get(advance.stage, began) + _LINE_SECONDS
        if not due and advance.step not in (first_step, advance.steps):
            return
        self._printed[advance.stage] = now
        done = advance.step - first_step
        left = (advance.steps - advance.step) * (now - began) / done if done else None
        time_left = "" if left is None else f", {timedelta(seconds=round(left))} left"
        self._console.print(
            f"{advance.stage}: {advance.step / advance.steps:.0%}, {advance.figures}{time_left}",
            soft_wrap=True,
        )


def packing_progress(stage: str, tokens: int, on_advance: OnAdvance) -> Callable[[int], None]:
    """Return a callback that shows how many of `tokens` tokens have been packed."""
    started = time.monotonic()

    def on_packed(packed: int) -> None:
        speed = packed / max(time.monotonic() - started, 1e-9)
        on_advance(Advance(stage, min(packed, tokens), tokens, None, tokens_per_second=speed))

    return on_packed


@contextmanager
def show_progress(console: Console | None = None) -> Iterator[OnAdvance]:
    """Yield a callback that draws a progress bar on a terminal, and prints lines elsewhere.

    Args:
        console: Console to draw on; standard error by default.

    """
    console = console or Console(stderr=True)
    if console.is_terminal:
        with ProgressBar(console) as bar:
            yield bar
    else:
        yield ProgressLines(console)


@contextmanager
def progress_or_bar(progress: OnAdvance | None) -> Iterator[OnAdvance]:
    """Yield the callback, or one that shows the progress on standard error if there is none."""
    if progress is not None:
        yield progress
        return
    with show_progress() as shown:
        yield shown
