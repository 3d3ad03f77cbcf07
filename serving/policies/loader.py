"""Loading policies into a running engine.

An adapter on the loaded base: stage and verify it, load it beside the old one, and give it to new
requests. Nothing pauses, and running requests end on the policy that they began with.

Another base: stage and verify it, wait for requests on adapters, which belong to the old base, to
end; pause decoding and keep the requests; reload the weights in place on every worker; set the
label, and read back from every worker what it holds; resume. A reload that fails halfway leaves
neither policy, so the old checkpoint is reloaded before decoding resumes. If that fails too, the
policy is lost and the replica must restart.
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
from serving.policies.policy_table import LoadedPolicy, PolicyTable
from serving.policies.staging import StagedCheckpoint, stage

logger = logging.getLogger("plaudit.serving")

# What a step in vLLM may raise; its errors have no common base class.
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
    """Loads policies into one engine, and keeps its policy table up to date."""

    def __init__(
        self,
        engine: Any,
        registry: Registry,
        policies: PolicyTable,
        *,
        lora_rank: int,
        timeout: float,
        workers: int = 1,
    ) -> None:
        """Load into an engine in which the base of `policies` is loaded and labelled.

        Args:
            engine: vLLM's engine client.
            registry: The registry of checkpoints.
            policies: The policies that are loaded.
            lora_rank: Largest rank of an adapter that the engine accepts; 0 for none.
            timeout: Longest duration of one step, in seconds.
            workers: Number of workers that the model is split over.

        """
        self.workers = workers
        self.engine = engine
        self.registry = registry
        self.policies = policies
        self.lora_rank = lora_rank
        self.timeout = timeout
        self.policy_lost = False
        self._live = StagedCheckpoint(
            policies.base, policies.base, registry.path(policies.base), None
        )
        self._adapters: dict[int, LoadedPolicy] = {}
        self._numbers = itertools.count(1)

    async def swap(self, version: int) -> float:
        """Make `version` live; return how long decoding was paused, in seconds.

        Raises:
            CheckpointInvalid, CheckpointIncompatible: It cannot be loaded; nothing has changed.
            SwapFailed: The swap failed; the old policy serves again.
            PolicyLost: The swap failed, and the old policy could not be restored.

        """
        started = time.monotonic()
        staged = await self._stage(version)
        if staged.base == self.policies.base:
            self.policies.live, pause = await self._load_without_pause(staged), 0.0
        else:
            pause = await self._swap_base(staged)
        self._live = staged
        metrics.SWAPS.labels("succeeded").inc()
        metrics.SWAP_SECONDS.observe(time.monotonic() - started)
        metrics.SWAP_PAUSE_SECONDS.observe(pause)
        metrics.LAST_SWAP.set_to_current_time()
        return pause

    async def load_challenger(self, version: int) -> None:
        """Load `version` beside the live version, as its challenger.

        Raises:
            CheckpointInvalid, CheckpointIncompatible: It cannot be loaded beside the live version.
            SwapFailed: Loading failed; nothing has changed.

        """
        staged = await self._stage(version)
        if staged.base != self.policies.base:
            raise CheckpointIncompatible(
                f"version {version} cannot be served beside the live version: it needs the weights "
                f"of version {staged.base}, and those of {self.policies.base} are loaded"
            )
        self.policies.challenger = await self._load_without_pause(staged)

    async def drop_adapters(self, kept: set[int]) -> None:
        """Unload the adapters of versions not in `kept` that no request uses."""
        for version, policy in list(self._adapters.items()):
            if version in kept or policy.adapter is None or self.policies.is_running(policy):
                continue
            del self._adapters[version]
            try:
                await self._step("drop", self.engine.remove_lora(policy.adapter.lora_int_id))
            except _STEP_ERRORS as error:
                logger.warning("The adapter of version %d stays loaded: %s", version, error)

    async def _stage(self, version: int) -> StagedCheckpoint:
        loaded = self.registry.path(self.policies.base)
        staging = asyncio.to_thread(stage, self.registry, version, loaded, self.lora_rank)
        try:
            staged: StagedCheckpoint = await self._step("stage", staging)
        except (TimeoutError, FailpointError) as error:
            raise SwapFailed(f"version {version} could not be staged: {error}") from error
        return staged

    async def _load_without_pause(self, staged: StagedCheckpoint) -> LoadedPolicy:
        """Load a policy on the current base, without a pause."""
        try:
            return await self._policy(staged)
        except _STEP_ERRORS as error:
            raise SwapFailed(f"version {staged.version}: {error}") from error

    async def _policy(self, staged: StagedCheckpoint) -> LoadedPolicy:
        if staged.adapter is None:
            return LoadedPolicy(staged.version)
        if staged.version not in self._adapters:
            from vllm.lora.request import LoRARequest

            # Names and numbers must be new: vLLM would serve the adapter it knows under them.
            number = next(self._numbers)
            request = LoRARequest(f"policy-v{staged.version}-{number}", number, str(staged.adapter))
            arguments = {"name": request.lora_name, "number": number, "path": request.lora_path}
            await self._on_workers("adapter", "load_adapter", arguments, request.lora_name)
            self._adapters[staged.version] = LoadedPolicy(staged.version, request)
        return self._adapters[staged.version]

    async def _swap_base(self, staged: StagedCheckpoint) -> float:
        version = staged.version
        async with self.policies.pause_new_requests():
            try:
                await self._step("drain", self.policies.wait_for_idle_adapters())
            except (TimeoutError, FailpointError) as error:
                raise SwapFailed(f"version {version}: adapters are still in use") from error
            paused = time.monotonic()
            self.policies.challenger = None
            try:
                await self._reload(staged)
            except _STEP_ERRORS as error:
                await self._restore_previous(error)
                raise SwapFailed(f"version {version}: {error}") from error
            return time.monotonic() - paused

    async def _reload(self, staged: StagedCheckpoint) -> None:
        """Replace the base and make the policy live; decoding is paused meanwhile."""
        await self._step("pause", self.engine.pause_generation(mode="keep", clear_cache=True))
        label = str(staged.base)
        weights = {"weights_path": str(staged.weights), "version": label}
        self._adapters.clear()  # vLLM drops adapters together with their base
        await self._on_workers("reload", "reload_policy", weights, label)
        await self._step("label", self.engine.update_weight_version(label))
        found = await self._step("read_back", self.engine.get_weight_version())
        if found != label:
            raise SwapFailed(f"the engine reports version {found}")
        await self._on_workers("read_back", "report_policy", {}, label)
        self.policies.base = staged.base
        self.policies.live = await self._policy(staged)
        await self._step("resume", self.engine.resume_generation())

    async def _restore_previous(self, cause: BaseException) -> None:
        version = self._live.version
        logger.error("The swap failed; restoring version %d: %s", version, cause)
        try:
            await self._reload(self._live)
        except _STEP_ERRORS as error:
            self.policy_lost = True
            raise PolicyLost(
                f"a swap failed, and version {version} could not be restored: {error}"
            ) from error

    async def _on_workers(
        self, name: str, method: str, arguments: dict[str, Any], expected: str
    ) -> None:
        """Call a method of `serving.engine.worker` on all workers, and check what each replies.

        Raises:
            SwapFailed: A worker replied something else than `expected`, or not at all.

        """
        replies = await self._step(name, self.engine.collective_rpc(method, kwargs=arguments))
        wrong = [f"worker {i}: {reply}" for i, reply in enumerate(replies) if reply != expected]
        if len(replies) != self.workers:
            wrong.append(f"{len(replies)} of {self.workers} workers replied")
        if wrong:
            raise SwapFailed("; ".join(wrong))

    async def _step(self, name: str, step: Awaitable[Any]) -> Any:
        result = await asyncio.wait_for(step, self.timeout)
        failpoint(f"swap.{name}")
        return result
