"""Group commit: appends that arrive while another is in progress share the next one."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from anyio import to_thread

from feedback.log.event_log import LogUnavailable

MAX_BATCH: Final = 512
MAX_WAITING: Final = 4096

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class GroupCommit(Generic[Item, Outcome]):
    """Collects the items of many requests into batches, one in progress at a time.

    It belongs to one event loop; `commit` runs in a thread.
    """

    def __init__(self, commit: Callable[[Sequence[Item]], Sequence[Outcome]]) -> None:
        """Pass batches to `commit`, which may block and returns one outcome per item."""
        self._commit = commit
        self._waiting: list[tuple[Item, asyncio.Future[Outcome]]] = []
        self._task: asyncio.Task[None] | None = None

    async def put(self, item: Item) -> Outcome:
        """Add an item to the next batch and return its outcome.

        Raises:
            LogUnavailable: Too many items are waiting already; nothing was done.
            Exception: The exception that `commit` raised for this batch or the one before.

        """
        if len(self._waiting) >= MAX_WAITING:
            raise LogUnavailable(f"{MAX_WAITING} appends are waiting for the log already")
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await done

    async def _drain(self) -> None:
        while self._waiting:
            batch = self._waiting[:MAX_BATCH]
            del self._waiting[:MAX_BATCH]
            try:
                outcomes = await to_thread.run_sync(self._commit, [item for item, _ in batch])
            except BaseException as error:
                # Items that arrived meanwhile would wait as long only to fail in the same way.
                self._fail(batch, error)
                self._fail(self._waiting, error)
                self._waiting.clear()
                if not isinstance(error, Exception):
                    raise
            else:
                for (_, done), outcome in zip(batch, outcomes, strict=True):
                    if not done.done():  # its client may have disconnected
                        done.set_result(outcome)

    @staticmethod
    def _fail(batch: list[tuple[Item, asyncio.Future[Outcome]]], error: BaseException) -> None:
        for _, done in batch:
            if not done.done():
                done.set_exception(error)
