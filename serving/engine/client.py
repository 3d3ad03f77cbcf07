"""An engine client that records: vLLM's own, with `generate` wrapped, all else passed through."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from serving.context import RequestContext, request_context
from serving.engine.merge import merged
from serving.engine.recorder import CompletionRecordBuilder, Recorder
from serving.policies.lineup import ChoiceAssignment, Lineup

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams


class RecordingEngine:
    """Stands where vLLM's server expects an `EngineClient`.

    Every request goes to the live policy, or in a duel to that and its challenger. Calls without
    a request context (warm-up, tokenisation, batches of prompts) pass unrecorded.
    """

    def __init__(
        self, inner: "EngineClient", recorder: Recorder, model: str, lineup: Lineup
    ) -> None:
        self.inner = inner
        self.recorder = recorder
        self.model = model
        self.lineup = lineup

    def __getattr__(self, name: str) -> Any:
        """Pass everything else through."""
        return getattr(self.inner, name)

    async def generate(
        self, prompt: Any, sampling_params: "SamplingParams", request_id: str, **kwargs: Any
    ) -> "AsyncGenerator[RequestOutput, None]":
        """Generate as vLLM does; the last output is given once the answer is durable."""
        context = request_context.get()
        recorded = context is not None and context.recorded
        await self.lineup.opened()
        shares = self.lineup.assign_choices(
            sampling_params.n,
            may_duel=recorded and context is not None and context.messages is not None,
        )
        with self.lineup.running(shares):
            if context is not None and recorded:
                stream = self._recorded_stream(
                    context, shares, prompt, sampling_params, request_id, kwargs
                )
            else:
                stream = self._stream(shares, prompt, sampling_params, request_id, kwargs)
            try:
                async for output in stream:
                    if context is not None:
                        context.version = self._version(shares[0])
                    yield output
            finally:
                await stream.aclose()

    def _version(self, share: ChoiceAssignment) -> int:
        """Return the version of the token now passing: the base may be swapped under a request."""
        return self.lineup.base if share.policy.adapter is None else share.policy.version

    async def _recorded_stream(
        self,
        context: RequestContext,
        shares: list[ChoiceAssignment],
        prompt: Any,
        sampling_params: "SamplingParams",
        request_id: str,
        kwargs: dict[str, Any],
    ) -> "AsyncGenerator[RequestOutput, None]":
        params = sampling_params.clone()
        own_logprobs = params.logprobs is None
        if own_logprobs:
            params.logprobs = 0  # the sampled token's own, nothing else
        answer = CompletionRecordBuilder(context, params, self.model, shares)
        stream = self._stream(shares, prompt, params, request_id, kwargs, plain=own_logprobs)
        started = written = False
        try:
            async for output in stream:
                started = True
                answer.note(output, self.lineup.base)
                if output.finished:
                    written = True
                    await self.recorder.write(answer.finish(aborted=False))
                yield output
        finally:
            if started and not written:
                self.recorder.write_shielded(answer.finish(aborted=True))
            await stream.aclose()

    def _stream(
        self,
        shares: list[ChoiceAssignment],
        prompt: Any,
        params: "SamplingParams",
        request_id: str,
        kwargs: dict[str, Any],
        *,
        plain: bool = False,
    ) -> "AsyncGenerator[RequestOutput, None]":
        if len(shares) == 1:
            return self._one(shares[0], prompt, params, request_id, kwargs, plain)
        from vllm.sampling_params import RequestOutputKind

        streams = []
        for number, share in enumerate(shares):
            own = params.clone()
            own.n = len(share.choices)
            if own.seed is not None:
                own.seed += share.choices[0]  # as vLLM does: no two choices with one seed
            inner_id = f"{request_id}-{number}"
            streams.append((self._one(share, prompt, own, inner_id, kwargs, plain), share.choices))
        return merged(streams, whole=params.output_kind == RequestOutputKind.FINAL_ONLY)

    async def _one(
        self,
        share: ChoiceAssignment,
        prompt: Any,
        params: "SamplingParams",
        request_id: str,
        kwargs: dict[str, Any],
        plain: bool,
    ) -> "AsyncGenerator[RequestOutput, None]":
        kwargs = {**kwargs, "lora_request": share.policy.adapter}
        stream = self.inner.generate(prompt, params, request_id, **kwargs)
        try:
            async for output in stream:
                if plain:
                    self._skip_logprob_detokenization(request_id)
                    plain = False
                yield output
        finally:
            await stream.aclose()

    def _skip_logprob_detokenization(self, request_id: str) -> None:
        """Spare vLLM turning each token into text beside its log-probability; nobody reads it.

        It is work for every token of every stream. vLLM 0.32 has no option for it.
        """
        outputs = self.inner.output_processor
        for internal_id in outputs.external_req_ids.get(request_id, ()):
            outputs.request_states[internal_id].logprobs_processor.tokenizer = None
