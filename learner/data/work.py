"""Report which votes the learner is working on, so that they are known if the process dies.

The loops over batches of training examples report what they work on; a cycle listens
(`learner.cycle.state`). Without a listener nothing happens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from learner.data.preferences import PreferenceExample

Listener = Callable[[Sequence[int]], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` with the ledger's numbers of the votes in work, whenever these change."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def working_on(examples: Iterable[PreferenceExample]) -> Iterator[None]:
    """Report the votes of these examples; after an error they remain reported."""
    listener = _listener.get()
    if listener is not None:
        listener(sorted({example.seq for example in examples if example.seq}))
    yield
    if listener is not None:
        listener(())
