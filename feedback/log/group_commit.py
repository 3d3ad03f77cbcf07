"""Appends that arrive while another is under way share the next one."""

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
    """Gathers the items of many requests into batches, one under way at a time.

    Used from one event loop; the work is done in a thread.
    """

    def __init__(self, commit: Callable[[Sequence[Item]], Sequence[Outcome]]) -> None:
        """Hand batches to `commit`, which blocks and gives an outcome for each item."""
        self._commit = commit
        self._waiting: list[tuple[Item, asyncio.Future[Outcome]]] = []
        self._task: asyncio.Task[None] | None = None

    async def put(self, item: Item) -> Outcome:
        """Return the item's outcome.

        Raises:
            LogUnavailable: Too many wait already; nothing was done.
            Exception: What `commit` raised for the batch, or for the one before it.

        """
        if len(self._waiting) >= MAX_WAITING:
            raise LogUnavailable(f"{MAX_WAITING} appends wait for the log")
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
                # Those that came meanwhile would only wait as long for the same answer.
                self._fail(batch, error)
                self._fail(self._waiting, error)
                self._waiting.clear()
                if not isinstance(error, Exception):
                    raise
            else:
                for (_, done), outcome in zip(batch, outcomes, strict=True):
                    if not done.done():  # its client may have gone away
                        done.set_result(outcome)

    @staticmethod
    def _fail(batch: list[tuple[Item, asyncio.Future[Outcome]]], error: BaseException) -> None:
        for _, done in batch:
            if not done.done():
                done.set_exception(error)
