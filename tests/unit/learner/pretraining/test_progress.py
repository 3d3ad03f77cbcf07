"""Progress: a bar on a terminal, and a line every ten seconds elsewhere."""

import io
import re
from collections.abc import Iterator

import pytest
from rich.console import Console

from learner.pretraining.progress import (
    Advance,
    ProgressBar,
    ProgressLines,
    packing_progress,
    show_progress,
)


def advance(step: int, stage: str = "Pre-training") -> Advance:
    return Advance(stage, step, steps=100, loss=2.345, tokens_per_second=12_345.6)


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    with io.StringIO() as file:
        yield file


def test_a_line_comes_every_ten_seconds_with_share_rate_and_time_left(output: io.StringIO) -> None:
    seconds = 0.0
    lines = ProgressLines(Console(file=output), clock=lambda: seconds)
    for step in range(1, 101):
        lines(advance(step))
        seconds += 1
    printed = output.getvalue().splitlines()
    assert printed[0] == "Pre-training: 1%, loss 2.35, 12,346 tokens/s"
    assert printed[1] == "Pre-training: 11%, loss 2.35, 12,346 tokens/s, 0:01:29 left"
    assert printed[-1].startswith("Pre-training: 100%, loss 2.35")
    assert len(printed) == 11


def test_stages_and_a_resumed_run_are_counted_on_their_own(output: io.StringIO) -> None:
    seconds = 0.0
    lines = ProgressLines(Console(file=output), clock=lambda: seconds)
    lines(advance(100))
    for step in (51, 61, 71):
        lines(advance(step, "Fine-tuning"))
        seconds += 10
    assert output.getvalue().splitlines() == [
        "Pre-training: 100%, loss 2.35, 12,346 tokens/s",
        "Fine-tuning: 51%, loss 2.35, 12,346 tokens/s",
        "Fine-tuning: 61%, loss 2.35, 12,346 tokens/s, 0:00:39 left",
        "Fine-tuning: 71%, loss 2.35, 12,346 tokens/s, 0:00:29 left",
    ]


def test_packing_shows_the_tokens_that_were_packed(output: io.StringIO) -> None:
    on_packed = packing_progress("Packing text", 400, ProgressLines(Console(file=output)))
    for packed in (100, 250, 410):
        on_packed(packed)
    first, last = output.getvalue().splitlines()
    assert re.fullmatch(r"Packing text: 25%, [\d,]+ tokens/s", first)
    assert last.startswith("Packing text: 100%, ")


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(output: io.StringIO) -> None:
    with show_progress(Console(file=output, force_terminal=True)) as shown:
        assert isinstance(shown, ProgressBar)
    with show_progress(Console(file=output)) as shown:
        assert isinstance(shown, ProgressLines)
