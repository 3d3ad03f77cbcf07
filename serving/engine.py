"""An engine client that records: vLLM's own, with `generate` wrapped, all else passed through."""

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

from serving.context import RequestContext, request_context
from serving.recorder import Answer, Recorder

if TYPE_CHECKING:
    from vllm.engine.protocol import EngineClient
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams


class RecordingEngine:
    """Stands where vLLM's server expects an `EngineClient`.

    Calls without a request context (warm-up, tokenisation, batches of prompts) pass unrecorded.
    """

    def __init__(
        self, inner: "EngineClient", recorder: Recorder, model: str, version: Callable[[], int]
    ) -> None:
        self.inner = inner
        self.recorder = recorder
        self.model = model
        self.version = version

    def __getattr__(self, name: str) -> Any:
        """Pass everything else through."""
        return getattr(self.inner, name)

    def generate(
        self, prompt: Any, sampling_params: "SamplingParams", request_id: str, **kwargs: Any
    ) -> "AsyncGenerator[RequestOutput, None]":
        """Generate as vLLM does; the last output is given once the answer is durable."""
        context = request_context.get()
        if context is None or not context.recorded:
            unrecorded: AsyncGenerator[RequestOutput, None] = self.inner.generate(
                prompt, sampling_params, request_id, **kwargs
            )
            return unrecorded
        return self._recorded(context, prompt, sampling_params, request_id, kwargs)

    async def _recorded(
        self,
        context: RequestContext,
        prompt: Any,
        sampling_params: "SamplingParams",
        request_id: str,
        kwargs: dict[str, Any],
    ) -> "AsyncGenerator[RequestOutput, None]":
        params = sampling_params.clone()
        own_logprobs = params.logprobs is None
        if own_logprobs:
            params.logprobs = 0  # the sampled token's own, nothing else
        answer = Answer(context, params, self.model)
        stream = self.inner.generate(prompt, params, request_id, **kwargs)
        started = written = False
        try:
            async for output in stream:
                if own_logprobs and not started:
                    self._leave_tokens_undecoded(request_id)
                started = True
                answer.note(output, self.version())
                if output.finished:
                    written = True
                    await self.recorder.write(answer.finish(aborted=False))
                yield output
        finally:
            if started and not written:
                self.recorder.write_shielded(answer.finish(aborted=True))
            await stream.aclose()

    def _leave_tokens_undecoded(self, request_id: str) -> None:
        """Spare vLLM turning each token into text beside its log-probability; nobody reads it.

        It is work for every token of every stream. vLLM 0.32 has no option for it.
        """
        outputs = self.inner.output_processor
        for internal_id in outputs.external_req_ids.get(request_id, ()):
            outputs.request_states[internal_id].logprobs_processor.tokenizer = None
