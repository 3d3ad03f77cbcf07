"""The policy follower: keeps a replica on the versions that the policy events ask for.

A swap that fails is reported here; `serving.policies.loader` brings the previous policy back.
"""

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
    """Follows the policy events, loads versions, and reports the results."""

    def __init__(
        self, loader: Loader, log: EventLog, replica: str, *, on_live: Callable[[int], None]
    ) -> None:
        """Follow the policy events of `log`.

        Args:
            loader: Loads policies into the engine.
            log: The event log.
            replica: Name of this replica in policy events.
            on_live: Called with each version that goes live.

        """
        self.loader = loader
        self.log = log
        self.replica = replica
        self.on_live = on_live
        self._follower = PolicyFollower(log)
        self._failed: set[int] = set()

    @property
    def version(self) -> int:
        """Version that answers new requests."""
        return self.loader.policies.live.version

    @property
    def on_trial(self) -> int | None:
        """Version on trial against the live one, or None."""
        challenger = self.loader.policies.challenger
        return None if challenger is None else challenger.version

    @property
    def ready(self) -> bool:
        """Whether the engine holds a complete policy."""
        return not self.loader.policy_lost

    async def follow(self, poll_seconds: float) -> None:
        """Follow until cancelled.

        Raises:
            PolicyLost: Neither the new nor the old policy could be loaded.

        """
        unavailable = False
        while True:
            try:
                state = await asyncio.to_thread(self._follower.poll)
                unavailable = False
                await self._apply_state(state)
            except LogError as error:
                if not unavailable:
                    logger.warning(
                        "The log is unavailable; staying on version %d: %s", self.version, error
                    )
                unavailable = True
            await asyncio.sleep(poll_seconds)

    async def _apply_state(self, state: PolicyState) -> None:
        if state.live == self.version:
            self._failed &= {state.challenger}
        elif state.live and await self._attempt(state.live, self._go_live):
            await asyncio.to_thread(self._evict_old_checkpoints, state)
        await self._apply_challenger(state)
        await self.loader.drop_adapters({self.version, state.previous, state.challenger})

    async def _apply_challenger(self, state: PolicyState) -> None:
        """Start or end the trial, once the version that it is against is live here."""
        version = state.challenger if state.live == self.version else 0
        loaded = self.loader.policies.challenger
        if version == (loaded.version if loaded is not None else 0):
            return
        self.loader.policies.challenger = None
        if version and await self._attempt(version, self.loader.load_challenger):
            logger.info("Version %d is on trial against %d", version, self.version)

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
        """Delete local copies of versions that are no longer served."""
        registry, kept = self.loader.registry, {1, state.live, state.previous} - {0}
        try:
            kept |= {full_weights_version(registry, version) for version in kept}
            if isinstance(registry, CachingRegistry):
                registry.evict_cached(state.live, kept)
        except (RegistryError, ServingError, OSError) as error:
            logger.warning("Cannot delete the local copies of older versions: %s", error)

    async def _attempt(self, version: int, action: Callable[[int], Awaitable[Any]]) -> bool:
        """Run `action`; report a failure, and do not retry that version.

        Returns:
            Whether the action succeeded.

        """
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
            logger.error(
                "Version %d stays live; version %d cannot be loaded: %s", previous, version, error
            )
            failed = policy.SwapFailed(
                replica=self.replica, version=version, serving=previous, reason=str(error)
            )
            await asyncio.to_thread(append_policy_event, self.log, failed)
            if isinstance(error, PolicyLost):
                raise
        else:
            return True
        return False
