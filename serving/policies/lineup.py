"""Who answers: the policies that are loaded, and the requests under way on each.

vLLM holds one set of full weights (the base) and any number of adapters beside it. A request keeps
the policy that it began with to its end, so adapters change with no pause; another base is for
all requests at once.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy that is loaded.

    Attributes:
        version: Its number.
        adapter: What makes it out of the base; None for the base itself.

    """

    version: int
    adapter: "LoRARequest | None" = None


@dataclass(frozen=True, slots=True)
class ChoiceAssignment:
    """The choices of one request that one policy answers."""

    policy: LoadedPolicy
    choices: tuple[int, ...]


class Lineup:
    """The policies of one engine. For one event loop."""

    def __init__(self, base: int, duel_share: float = 0.0) -> None:
        """Start with the full weights of version `base` alone.

        Args:
            duel_share: Share of the requests fit for a duel that are one while there is a
                challenger.

        """
        self.base = base
        self.live = LoadedPolicy(base)
        self.challenger: LoadedPolicy | None = None
        self.duel_share = duel_share
        self._running: Counter[LoadedPolicy] = Counter()
        self._adapters_idle = asyncio.Event()
        self._adapters_idle.set()
        self._open = asyncio.Event()
        self._open.set()
        # A source of its own: vLLM seeds the process's.
        self._random = random.Random()

    async def opened(self) -> None:
        """Wait while the base is being swapped."""
        while not self._open.is_set():
            await self._open.wait()

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        """Keep new requests waiting; those under way go on."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def wait_for_idle_adapters(self) -> None:
        """Wait until no request with an adapter is under way."""
        await self._adapters_idle.wait()

    def assign_choices(self, choices: int, *, may_duel: bool) -> list[ChoiceAssignment]:
        """Say who answers which choices of a new request.

        In a duel the challenger answers half of them (the smaller half of an odd number), in
        random places.
        """
        own = tuple(range(choices))
        duel = may_duel and choices >= 2 and self._random.random() < self.duel_share
        if self.challenger is None or not duel:
            return [ChoiceAssignment(self.live, own)]
        others = tuple(sorted(self._random.sample(own, choices // 2)))
        rest = tuple(c for c in own if c not in others)
        return [ChoiceAssignment(self.live, rest), ChoiceAssignment(self.challenger, others)]

    @contextmanager
    def running(self, shares: Iterable[ChoiceAssignment]) -> Iterator[None]:
        """Count a request while it is under way."""
        adapted = [share.policy for share in shares if share.policy.adapter is not None]
        self._running.update(adapted)
        self._update_idle_event()
        try:
            yield
        finally:
            self._running.subtract(adapted)
            self._running = +self._running
            self._update_idle_event()

    def is_running(self, policy: LoadedPolicy) -> bool:
        """Tell whether a request is under way on an adapter."""
        return policy in self._running

    def _update_idle_event(self) -> None:
        if self._running:
            self._adapters_idle.clear()
        else:
            self._adapters_idle.set()
