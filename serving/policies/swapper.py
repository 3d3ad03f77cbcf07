"""The policy follower: keeps a replica on the versions that the policy events call for."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from feedback.control.policies import PolicyFollower, PolicyState, append_policy_event
from feedback.log.event_log import EventLog, LogError
from protos.checkpoints.registry import CachingRegistry, RegistryError, RegistryUnavailable
from protos.plaudit.v1 import policy_pb2 as policy
from serving import metrics
from serving.errors import PolicyLost, ServingError
from serving.policies.loader import Loader
from serving.policies.staging import full_weights_version

logger = logging.getLogger("plaudit.serving")


class Swapper:
    """Follows the policy events, has versions loaded, and says what became of it."""

    def __init__(
        self, loader: Loader, log: EventLog, replica: str, *, on_live: Callable[[int], None]
    ) -> None:
        """Follow for the engine of `loader`; `on_live` is told of each version that goes live."""
        self.loader = loader
        self.log = log
        self.replica = replica
        self.on_live = on_live
        self._follower = PolicyFollower(log)
        self._failed: set[int] = set()

    @property
    def version(self) -> int:
        """The version that new requests get."""
        return self.loader.lineup.live.version

    @property
    def on_trial(self) -> int | None:
        """Return the version that the live one is in a duel with."""
        challenger = self.loader.lineup.challenger
        return None if challenger is None else challenger.version

    @property
    def ready(self) -> bool:
        """Tell whether the engine holds a whole policy."""
        return not self.loader.lost

    async def follow(self, poll_seconds: float) -> None:
        """Follow until cancelled.

        Raises:
            PolicyLost: Neither the new nor the old policy could be loaded.

        """
        away = False
        while True:
            try:
                state = await asyncio.to_thread(self._follower.poll)
                away = False
                await self._apply_state(state)
            except LogError as error:
                if not away:
                    logger.warning(
                        "The log is away, staying on version %d: %s", self.version, error
                    )
                away = True
            await asyncio.sleep(poll_seconds)

    async def _apply_state(self, state: PolicyState) -> None:
        if state.live == self.version:
            self._failed &= {state.challenger}
        elif state.live and await self._tried(state.live, self._go_live):
            await asyncio.to_thread(self._evict_old_checkpoints, state)
        await self._apply_challenger(state)
        await self.loader.drop_adapters({self.version, state.previous, state.challenger})

    async def _apply_challenger(self, state: PolicyState) -> None:
        """Have the duel that is called for, once the version that it is against is live here."""
        wanted = state.challenger if state.live == self.version else 0
        there = self.loader.lineup.challenger
        if wanted == (there.version if there is not None else 0):
            return
        self.loader.lineup.challenger = None
        if wanted and await self._tried(wanted, self.loader.load_challenger):
            logger.info("Version %d is on trial against %d", wanted, self.version)

    async def _go_live(self, version: int) -> None:
        previous = self.version
        pause = await self.loader.swap(version)
        self.on_live(version)
        logger.info("Version %d is live (paused %.0f ms)", version, pause * 1000)
        swapped = policy.Swapped(
            replica=self.replica, version=version, previous=previous, pause_seconds=pause
        )
        await asyncio.to_thread(append_policy_event, self.log, swapped)

    def _evict_old_checkpoints(self, state: PolicyState) -> None:
        """Keep the disk from filling with copies of what is served no more."""
        registry, kept = self.loader.registry, {1, state.live, state.previous} - {0}
        try:
            kept |= {full_weights_version(registry, version) for version in kept}
            if isinstance(registry, CachingRegistry):
                registry.evict_cached(state.live, kept)
        except (RegistryError, ServingError, OSError) as error:
            logger.warning("Copies of older versions stay on this disk: %s", error)

    async def _tried(self, version: int, action: Callable[[int], Awaitable[Any]]) -> bool:
        """Do it; a failure is told, and not tried again while the same version is wanted."""
        if version in self._failed:
            return False
        previous = self.version
        try:
            await action(version)
        except RegistryUnavailable as error:
            logger.warning("Version %d cannot be fetched yet: %s", version, error)
        except (RegistryError, ServingError) as error:
            self._failed.add(version)
            metrics.SWAPS.labels("failed").inc()
            logger.error("Version %d stays live, %d does not: %s", previous, version, error)
            failed = policy.SwapFailed(
                replica=self.replica, version=version, serving=previous, reason=str(error)
            )
            await asyncio.to_thread(append_policy_event, self.log, failed)
            if isinstance(error, PolicyLost):
                raise
        else:
            return True
        return False
