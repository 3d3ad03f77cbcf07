"""Loading policies into a running engine.

An adapter on the base that is loaded: stage and verify; load it beside the old one; from then on
new requests get it. Nothing pauses, and requests under way end on the policy they began with.

Another base: stage and verify; let requests with adapters end, since these are of the old base;
pause with requests kept; reload in place; label; read the label back; resume. Reloading in place
leaves neither policy if it fails in the middle, so the old checkpoint is reloaded before decoding
resumes; if that fails too, this replica is lost and must restart.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable
from typing import Any

from feedback.failpoints import FailpointError, failpoint
from protos.checkpoints.registry import Registry
from serving import metrics
from serving.errors import CheckpointIncompatible, PolicyLost, SwapFailed
from serving.policies.lineup import Lineup, LoadedPolicy
from serving.policies.staging import StagedCheckpoint, stage

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


class Loader:
    """Loads policies into one engine, and keeps its lineup."""

    def __init__(
        self, engine: Any, registry: Registry, lineup: Lineup, *, lora_rank: int, timeout: float
    ) -> None:
        """Load into an engine that has the lineup's base loaded and labelled.

        Args:
            engine: vLLM's engine client.
            registry: Where checkpoints are.
            lineup: Who answers; kept up to date.
            lora_rank: Largest rank of an adapter that the engine takes; 0 for none.
            timeout: Longest wait for one step, in seconds.

        """
        self.engine = engine
        self.registry = registry
        self.lineup = lineup
        self.lora_rank = lora_rank
        self.timeout = timeout
        self.lost = False
        self._live = StagedCheckpoint(lineup.base, lineup.base, registry.path(lineup.base), None)
        self._adapters: dict[int, LoadedPolicy] = {}
        self._numbers = itertools.count(1)

    async def swap(self, version: int) -> float:
        """Make `version` live; return for how long decoding stood still, in seconds.

        Raises:
            CheckpointInvalid, CheckpointUnfit: It cannot be loaded; nothing was touched.
            SwapFailed: It failed midway; the old policy serves again.
            PolicyLost: That failed too.

        """
        started = time.monotonic()
        staged = await self._stage(version)
        if staged.base == self.lineup.base:
            self.lineup.live, pause = await self._load_without_pause(staged), 0.0
        else:
            pause = await self._swap_base(staged)
        self._live = staged
        metrics.SWAPS.labels("succeeded").inc()
        metrics.SWAP_SECONDS.observe(time.monotonic() - started)
        metrics.SWAP_PAUSE_SECONDS.observe(pause)
        metrics.LAST_SWAP.set_to_current_time()
        return pause

    async def load_challenger(self, version: int) -> None:
        """Have `version` answer a share of the comparisons beside the live one.

        Raises:
            CheckpointInvalid, CheckpointUnfit: It cannot be loaded beside it.
            SwapFailed: Loading it failed; nothing has changed.

        """
        staged = await self._stage(version)
        if staged.base != self.lineup.base:
            raise CheckpointIncompatible(
                f"version {version} needs the weights of {staged.base}, those of "
                f"{self.lineup.base} are loaded: it cannot be served beside the live version"
            )
        self.lineup.challenger = await self._load_without_pause(staged)

    async def drop_adapters(self, kept: set[int]) -> None:
        """Unload the adapters of other versions that no request uses any more."""
        for version, policy in list(self._adapters.items()):
            if version in kept or policy.adapter is None or self.lineup.is_running(policy):
                continue
            del self._adapters[version]
            try:
                await self._step("drop", self.engine.remove_lora(policy.adapter.lora_int_id))
            except _STEP_ERRORS as error:
                logger.warning("The adapter of version %d stays loaded: %s", version, error)

    async def _stage(self, version: int) -> StagedCheckpoint:
        loaded = self.registry.path(self.lineup.base)
        staging = asyncio.to_thread(stage, self.registry, version, loaded, self.lora_rank)
        try:
            staged: StagedCheckpoint = await self._step("stage", staging)
        except (TimeoutError, FailpointError) as error:
            raise SwapFailed(f"version {version} could not be staged: {error}") from error
        return staged

    async def _load_without_pause(self, staged: StagedCheckpoint) -> LoadedPolicy:
        """Have a policy of the base that is loaded, with no pause."""
        try:
            return await self._policy(staged)
        except _STEP_ERRORS as error:
            raise SwapFailed(f"version {staged.version}: {error}") from error

    async def _policy(self, staged: StagedCheckpoint) -> LoadedPolicy:
        if staged.adapter is None:
            return LoadedPolicy(staged.version)
        if staged.version not in self._adapters:
            from vllm.lora.request import LoRARequest

            # Never a name or a number that vLLM has seen: it would serve what it had under it.
            number = next(self._numbers)
            request = LoRARequest(f"policy-v{staged.version}-{number}", number, str(staged.adapter))
            await self._step("adapter", self.engine.add_lora(request))
            self._adapters[staged.version] = LoadedPolicy(staged.version, request)
        return self._adapters[staged.version]

    async def _swap_base(self, staged: StagedCheckpoint) -> float:
        version = staged.version
        async with self.lineup.closed():
            try:
                await self._step("drain", self.lineup.wait_for_idle_adapters())
            except (TimeoutError, FailpointError) as error:
                raise SwapFailed(f"version {version}: adapters are still in use") from error
            paused = time.monotonic()
            self.lineup.challenger = None
            try:
                await self._reload(staged)
            except _STEP_ERRORS as error:
                await self._restore_previous(error)
                raise SwapFailed(f"version {version}: {error}") from error
            return time.monotonic() - paused

    async def _reload(self, staged: StagedCheckpoint) -> None:
        """Replace the base, and make the policy live; decoding stands still meanwhile."""
        await self._step("pause", self.engine.pause_generation(mode="keep", clear_cache=True))
        weights = {"weights_path": str(staged.weights)}
        self._adapters.clear()  # vLLM drops adapters together with the weights under them
        await self._step("reload", self.engine.collective_rpc("reload_policy", kwargs=weights))
        await self._step("label", self.engine.update_weight_version(str(staged.base)))
        label = await self._step("read_back", self.engine.get_weight_version())
        if label != str(staged.base):
            raise SwapFailed(f"the engine says version {label}")
        self.lineup.base = staged.base
        self.lineup.live = await self._policy(staged)
        await self._step("resume", self.engine.resume_generation())

    async def _restore_previous(self, cause: BaseException) -> None:
        version = self._live.version
        logger.error("The swap failed, putting version %d back: %s", version, cause)
        try:
            await self._reload(self._live)
        except _STEP_ERRORS as error:
            self.lost = True
            raise PolicyLost(
                f"the policy was lost in a swap: version {version} could not be put back: {error}"
            ) from error

    async def _step(self, name: str, step: Awaitable[Any]) -> Any:
        result = await asyncio.wait_for(step, self.timeout)
        failpoint(f"swap.{name}")
        return result
