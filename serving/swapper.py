"""The policy follower: takes up new versions, swaps them in, puts the old one back on failure.

A swap: stage and verify; pause with requests kept; reload in place; label; read the label back;
resume. Reloading in place leaves neither policy if it fails in the middle, so the old checkpoint
is reloaded before decoding resumes; if that fails too, this replica is lost and must restart.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from feedback.failpoints import FailpointError, failpoint
from feedback.log import EventLog, LogError
from feedback.policies import PolicyFollower, PolicyState, publish_event
from protos.plaudit.v1 import policy_pb2 as policy
from protos.registry import Registry, RegistryError, RegistryUnavailable
from serving import metrics
from serving.errors import PolicyLost, ServingError, SwapFailed
from serving.staging import stage

logger = logging.getLogger("plaudit.serving")

# What a step of vLLM's may raise; its errors share no tree of their own.
_STEP_ERRORS = (
    RuntimeError,
    ValueError,
    OSError,
    KeyError,
    TimeoutError,
    FailpointError,
    SwapFailed,
)


class Swapper:
    """Keeps an engine on the version that the policy events call for."""

    def __init__(
        self,
        engine: Any,
        registry: Registry,
        log: EventLog,
        replica: str,
        version: int,
        *,
        timeout: float,
        on_live: Callable[[int], None],
    ) -> None:
        """Follow for an engine that has `version` loaded and labelled."""
        self.engine = engine
        self.registry = registry
        self.log = log
        self.replica = replica
        self.version = version
        self.timeout = timeout
        self.on_live = on_live
        self.lost = False
        self._follower = PolicyFollower(log)
        self._failed: set[int] = set()

    @property
    def ready(self) -> bool:
        """Tell whether the engine holds a whole policy."""
        return not self.lost

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
                await self._take_up(state)
            except LogError as error:
                if not away:
                    logger.warning(
                        "The log is away, staying on version %d: %s", self.version, error
                    )
                away = True
            await asyncio.sleep(poll_seconds)

    async def _take_up(self, state: PolicyState) -> None:
        wanted = state.live
        if wanted == self.version:
            self._failed.clear()
        if wanted in (0, self.version) or wanted in self._failed:
            return
        previous = self.version
        try:
            pause = await self.swap(wanted)
        except RegistryUnavailable as error:
            logger.warning("Version %d cannot be fetched yet: %s", wanted, error)
        except (RegistryError, ServingError) as error:
            self._failed.add(wanted)
            metrics.SWAPS.labels("failed").inc()
            logger.error("Version %d stays live, %d does not: %s", self.version, wanted, error)
            failed = policy.SwapFailed(
                replica=self.replica, version=wanted, serving=previous, reason=str(error)
            )
            await asyncio.to_thread(publish_event, self.log, failed)
            if isinstance(error, PolicyLost):
                raise
        else:
            logger.info("Version %d is live (paused %.0f ms)", wanted, pause * 1000)
            swapped = policy.Swapped(
                replica=self.replica, version=wanted, previous=previous, pause_seconds=pause
            )
            await asyncio.to_thread(publish_event, self.log, swapped)

    async def swap(self, version: int) -> float:
        """Swap `version` in; return the pause in seconds.

        Raises:
            CheckpointInvalid, CheckpointUnfit: It cannot be loaded; nothing was touched.
            SwapFailed: It failed midway; the old policy serves again.
            PolicyLost: That failed too.

        """
        started = time.monotonic()
        old = self.registry.path(self.version)
        try:
            folder = await self._step(
                "stage", asyncio.to_thread(stage, self.registry, version, old)
            )
        except (TimeoutError, FailpointError) as error:
            raise SwapFailed(f"version {version} could not be staged: {error}") from error
        paused = time.monotonic()
        try:
            await self._step("pause", self.engine.pause_generation(mode="keep", clear_cache=True))
            await self._load(folder, version)
            await self._step("resume", self.engine.resume_generation())
        except _STEP_ERRORS as error:
            await self._put_back(old, error)
            raise SwapFailed(f"version {version}: {error}") from error
        pause = time.monotonic() - paused
        self._live(version, pause, time.monotonic() - started)
        return pause

    async def _load(self, folder: Path, version: int) -> None:
        reload = self.engine.collective_rpc("reload_policy", kwargs={"weights_path": str(folder)})
        await self._step("reload", reload)
        await self._step("label", self.engine.update_weight_version(str(version)))
        label = await self._step("read_back", self.engine.get_weight_version())
        if label != str(version):
            raise SwapFailed(f"the engine says version {label}")
        self.version = version

    async def _step(self, name: str, step: Awaitable[Any]) -> Any:
        result = await asyncio.wait_for(step, self.timeout)
        failpoint(f"swap.{name}")
        return result

    async def _put_back(self, old: Path, cause: BaseException) -> None:
        version = int(old.name[1:])
        logger.error("The swap failed, putting version %d back: %s", version, cause)
        try:
            await self._step("pause", self.engine.pause_generation(mode="keep", clear_cache=True))
            await self._load(old, version)
            await self._step("resume", self.engine.resume_generation())
        except _STEP_ERRORS as error:
            self.lost = True
            raise PolicyLost(f"version {version} could not be put back: {error}") from error

    def _live(self, version: int, pause: float, seconds: float) -> None:
        self.on_live(version)
        metrics.SWAPS.labels("succeeded").inc()
        metrics.SWAP_SECONDS.observe(seconds)
        metrics.SWAP_PAUSE_SECONDS.observe(pause)
        metrics.LAST_SWAP.set_to_current_time()
