"""The policies that are loaded, and the requests that run on each.

vLLM holds one set of full weights (the base) and any number of adapters on it. A request keeps
its policy until it ends, so adapters change without a pause; a new base applies to all requests
at once.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


@dataclass(frozen=True, slots=True)
class LoadedPolicy:
    """A policy that is loaded.

    Attributes:
        version: Number of the policy version.
        adapter: The adapter on the base; None for the base itself.

    """

    version: int
    adapter: "LoRARequest | None" = None


@dataclass(frozen=True, slots=True)
class ChoiceAssignment:
    """The choices of one request that one policy answers.

    Attributes:
        policy: The policy.
        choices: Indices of the choices.

    """

    policy: LoadedPolicy
    choices: tuple[int, ...]


class PolicyTable:
    """The policies of one engine. For one event loop."""

    def __init__(self, base: int, duel_share: float = 0.0) -> None:
        """Start with the full weights of one version.

        Args:
            base: Version of the full weights that are loaded.
            duel_share: Share of the eligible requests that become duels while there is a
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
        # Its own generator, since vLLM seeds the global one.
        self._random = random.Random()

    async def wait_until_open(self) -> None:
        """Wait while the base is being swapped."""
        while not self._open.is_set():
            await self._open.wait()

    @asynccontextmanager
    async def pause_new_requests(self) -> AsyncIterator[None]:
        """Make new requests wait; running ones continue."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def wait_for_idle_adapters(self) -> None:
        """Wait until no request runs with an adapter."""
        await self._adapters_idle.wait()

    def assign_choices(self, choices: int, *, may_duel: bool) -> list[ChoiceAssignment]:
        """Decide which policy answers which choices of a new request.

        In a duel the challenger answers half of them, in random positions. Half of an odd number
        is rounded up or down at random, so that the odd one out is not always the challenger's.

        Args:
            choices: Number of choices.
            may_duel: Whether the request may become a duel.

        """
        indices = tuple(range(choices))
        duel = may_duel and choices >= 2 and self._random.random() < self.duel_share
        if self.challenger is None or not duel:
            return [ChoiceAssignment(self.live, indices)]
        half = (choices + self._random.randrange(2)) // 2
        sampled = tuple(sorted(self._random.sample(indices, half)))
        rest = tuple(c for c in indices if c not in sampled)
        return [ChoiceAssignment(self.live, rest), ChoiceAssignment(self.challenger, sampled)]

    def shuffled(self, assignments: Sequence[ChoiceAssignment]) -> list[ChoiceAssignment]:
        """Return assignments in random order: whose first token comes first tells nothing then."""
        return self._random.sample(assignments, len(assignments))

    @contextmanager
    def running(self, assignments: Iterable[ChoiceAssignment]) -> Iterator[None]:
        """Count a request as running within the context."""
        adapted = [a.policy for a in assignments if a.policy.adapter is not None]
        self._running.update(adapted)
        self._update_idle_event()
        try:
            yield
        finally:
            self._running.subtract(adapted)
            self._running = +self._running
            self._update_idle_event()

    def is_running(self, policy: LoadedPolicy) -> bool:
        """Return whether a request runs on an adapter."""
        return policy in self._running

    def _update_idle_event(self) -> None:
        if self._running:
            self._adapters_idle.clear()
        else:
            self._adapters_idle.set()
