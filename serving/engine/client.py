"""The engine client of vLLM, with `generate` wrapped to assign policies and record answers."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from serving.context import RequestContext, request_context
from serving.engine.merge import merge_streams
from serving.engine.recorder import CompletionRecordBuilder, Recorder
from serving.engine.vllm_patches import check_constraint, skip_logprob_detokenization
from serving.policies.policy_table import ChoiceAssignment, PolicyTable

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams


class RecordingEngine:
    """Takes the place of the `EngineClient` in vLLM's server.

    Every request goes to the live policy, or in a duel to the live policy and its challenger.
    Calls without a request context (warm-up, tokenisation, batches of prompts) are not recorded.
    """

    def __init__(
        self, inner: "EngineClient", recorder: Recorder, model: str, policies: PolicyTable
    ) -> None:
        """Wrap an engine client.

        Args:
            inner: vLLM's engine client.
            recorder: Writes the records of answers.
            model: Model name, for the records.
            policies: The policies that are loaded.

        """
        self.inner = inner
        self.recorder = recorder
        self.model = model
        self.policies = policies

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
        await self.policies.wait_until_open()
        assignments = self.policies.assign_choices(
            sampling_params.n,
            may_duel=recorded and context is not None and context.messages is not None,
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
        for number, assignment in enumerate(assignments):
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
