"""The engine client of vLLM, with `generate` wrapped to assign policies and record answers."""

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final

from serving.context import RequestContext, request_context
from serving.engine.merge import merge_streams
from serving.engine.recorder import CompletionRecordBuilder, Recorder
from serving.engine.vllm_patches import (
    check_constraint,
    prompt_length,
    skip_logprob_detokenization,
)
from serving.policies.policy_table import ChoiceAssignment, PolicyTable

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams

# Below these an answer is almost the same each time that it is sampled.
_MIN_DUEL_TEMPERATURE: Final = 0.3
_MIN_DUEL_TOP_P: Final = 0.5
_MAX_DUEL_MIN_P: Final = 0.5


class RecordingEngine:
    """Takes the place of the `EngineClient` in vLLM's server.

    Every request goes to the live policy, or in a duel to the live policy and its challenger.
    Calls without a request context (warm-up, tokenisation, batches of prompts) are not recorded.
    """

    def __init__(
        self,
        inner: "EngineClient",
        recorder: Recorder,
        model: str,
        policies: PolicyTable,
        *,
        share_prefixes: bool = False,
    ) -> None:
        """Wrap an engine client.

        Args:
            inner: vLLM's engine client.
            recorder: Writes the records of answers.
            model: Model name, for the records.
            policies: The policies that are loaded.
            share_prefixes: Whether requests of all owners share the cache of prefixes.

        """
        self.inner = inner
        self.recorder = recorder
        self.model = model
        self.policies = policies
        self.share_prefixes = share_prefixes

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of vLLM's client."""
        return getattr(self.inner, name)

    async def generate(
        self, prompt: Any, sampling_params: "SamplingParams", request_id: str, **kwargs: Any
    ) -> "AsyncGenerator[RequestOutput, None]":
        """Generate as vLLM does; yield the last output once the answer is durable."""
        context = request_context.get()
        recorded = context is not None and context.recorded
        if sampling_params.structured_outputs is not None:
            await check_constraint(self.inner, sampling_params)
        if context is not None:
            _count_tokens(context, prompt, sampling_params)
        if context is not None and not self.share_prefixes:
            prompt = salt_prompt(prompt, context.owner)
        await self.policies.wait_until_open()
        assignments = self.policies.assign_choices(
            sampling_params.n,
            may_duel=recorded
            and context is not None
            and context.messages is not None
            and is_blind(sampling_params),
        )
        with self.policies.running(assignments):
            if context is not None and recorded:
                stream = self._recorded_stream(
                    context, assignments, prompt, sampling_params, request_id, kwargs
                )
            else:
                stream = self._stream(assignments, prompt, sampling_params, request_id, kwargs)
            try:
                async for output in stream:
                    if context is not None:
                        context.version = self._version(assignments[0])
                    yield output
            finally:
                await stream.aclose()

    def _version(self, assignment: ChoiceAssignment) -> int:
        """Return the version of the current token: the base may be swapped during a request."""
        return (
            self.policies.base if assignment.policy.adapter is None else assignment.policy.version
        )

    async def _recorded_stream(
        self,
        context: RequestContext,
        assignments: list[ChoiceAssignment],
        prompt: Any,
        sampling_params: "SamplingParams",
        request_id: str,
        kwargs: dict[str, Any],
    ) -> "AsyncGenerator[RequestOutput, None]":
        params = sampling_params.clone()
        unrequested_logprobs = params.logprobs is None
        if unrequested_logprobs:
            params.logprobs = 0  # that of the sampled token alone
        record = CompletionRecordBuilder(context, params, self.model, assignments)
        stream = self._stream(
            assignments, prompt, params, request_id, kwargs, skip_text=unrequested_logprobs
        )
        started = written = False
        try:
            async for output in stream:
                started = True
                record.add_output(output, self.policies.base)
                if output.finished:
                    written = True
                    await self.recorder.write(record.finish(aborted=False))
                yield output
        finally:
            if started and not written:
                self.recorder.write_shielded(record.finish(aborted=True))
            await stream.aclose()

    def _stream(
        self,
        assignments: list[ChoiceAssignment],
        prompt: Any,
        params: "SamplingParams",
        request_id: str,
        kwargs: dict[str, Any],
        *,
        skip_text: bool = False,
    ) -> "AsyncGenerator[RequestOutput, None]":
        if len(assignments) == 1:
            return self._single_stream(
                assignments[0], prompt, params, request_id, kwargs, skip_text
            )
        from vllm.sampling_params import RequestOutputKind

        streams = []
        for number, assignment in enumerate(self.policies.shuffled(assignments)):
            part = params.clone()
            part.n = len(assignment.choices)
            if part.seed is not None:
                part.seed += assignment.choices[0]  # as vLLM does: no two choices share a seed
            inner_id = f"{request_id}-{number}"
            stream = self._single_stream(assignment, prompt, part, inner_id, kwargs, skip_text)
            streams.append((stream, assignment.choices))
        return merge_streams(streams, whole=params.output_kind == RequestOutputKind.FINAL_ONLY)

    async def _single_stream(
        self,
        assignment: ChoiceAssignment,
        prompt: Any,
        params: "SamplingParams",
        request_id: str,
        kwargs: dict[str, Any],
        skip_text: bool,
    ) -> "AsyncGenerator[RequestOutput, None]":
        kwargs = {**kwargs, "lora_request": assignment.policy.adapter}
        stream = self.inner.generate(prompt, params, request_id, **kwargs)
        try:
            async for output in stream:
                if skip_text:
                    skip_logprob_detokenization(self.inner, request_id)
                    skip_text = False
                yield output
        finally:
            await stream.aclose()


def is_blind(params: "SamplingParams") -> bool:
    """Return whether a client cannot compute which policy an answer with these parameters is from.

    A single choice always comes from the live policy. Where answers are the same each time (at a
    temperature near 0, with a seed, or from one possible token), its answer to the same prompt is
    that of the live policy in a duel too. Log-probabilities would give it away as well.
    """
    return (
        params.temperature >= _MIN_DUEL_TEMPERATURE
        and params.top_k != 1
        and params.top_p >= _MIN_DUEL_TOP_P
        and params.min_p <= _MAX_DUEL_MIN_P
        and params.seed is None
        and params.logprobs is None
        and params.prompt_logprobs is None
    )


def _count_tokens(context: RequestContext, prompt: Any, params: "SamplingParams") -> None:
    """Count the tokens that a request asks for, beyond those that its body named.

    Each prompt of a batch comes here by itself, with its share of what the body named.
    """
    asked = prompt_length(prompt) + params.n * (params.max_tokens or 0)
    named = min(asked, context.asked_tokens)
    context.asked_tokens -= named
    context.add_tokens(asked - named)


def salt_prompt(prompt: Any, owner: str) -> Any:
    """Return a prompt of vLLM whose cached prefixes only requests of the same owner use.

    Otherwise the time to the first token tells whether somebody has sent the same beginning.
    """
    if not isinstance(prompt, Mapping):
        return prompt
    return {**prompt, "cache_salt": f"{owner} {prompt.get('cache_salt') or ''}"}
