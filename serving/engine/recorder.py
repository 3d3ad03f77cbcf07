"""Building completion records from vLLM's outputs, and writing them before answers end.

The version of each token comes from vLLM, which labels tokens with the weights that sampled them
(`CompletionOutput.weight_versions`). An answer that its client aborted has no final output; its
tokens get the versions whose weights were loaded as they arrived. vLLM's labels do not cover
adapters: all tokens of a choice made with an adapter get that adapter's version.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from feedback.disk import DiskLow, DiskReserve
from feedback.log.event_log import EventLog, LogError, NewRecord
from protos.messages import build_message
from protos.plaudit.v1.completion_pb2 import (
    Choice,
    CompletionRecord,
    Message,
    SamplingParameters,
    VersionSpan,
)
from serving import metrics
from serving.context import RequestContext
from serving.errors import RecordingFailed
from serving.policies.policy_table import ChoiceAssignment

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, RequestOutput
    from vllm.sampling_params import SamplingParams

RECORD_TYPE = CompletionRecord.DESCRIPTOR.full_name


def sampling_parameters(params: "SamplingParams") -> SamplingParameters:
    """Return the sampling parameters to record; see `off_policy_usable` in completion.proto."""
    unfiltered = (
        params.temperature > 0
        and params.top_p == 1.0
        and params.top_k in (0, -1)
        and params.min_p == 0.0
        and params.presence_penalty == 0.0
        and params.frequency_penalty == 0.0
        and params.repetition_penalty == 1.0
        and not params.logit_bias
        and not params.bad_words
        and not params.allowed_token_ids
        and not params.min_tokens
        and not params.structured_outputs
    )
    stop = [params.stop] if isinstance(params.stop, str) else list(params.stop or ())
    return SamplingParameters(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        has_logit_bias=bool(params.logit_bias),
        max_tokens=params.max_tokens or 0,
        seed=params.seed,
        stop=stop,
        off_policy_usable=unfiltered,
    )


def message_texts(conversation: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return role and text of messages as vLLM passes them to the chat template.

    A template that takes lists of parts gets them; those in use write the texts of the parts
    behind each other. To others vLLM gives the text, its parts joined by line ends.
    """
    return [(message["role"], _content_text(message.get("content"))) for message in conversation]


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = (part for part in content or () if isinstance(part, Mapping))
    return "".join(str(part.get("text") or "") for part in parts)


@dataclass(slots=True)
class _ChoiceBuilder:
    """A choice in progress. Plain lists, since every token of every stream passes here."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    spans: list[tuple[int, int, int]] = field(default_factory=list)
    finish_reason: str = ""


class CompletionRecordBuilder:
    """Builds the record of one request from its outputs."""

    def __init__(
        self,
        context: RequestContext,
        params: "SamplingParams",
        model: str,
        assignments: Iterable[ChoiceAssignment] = (),
    ) -> None:
        """Start an empty record.

        Args:
            context: Context of the request.
            params: Sampling parameters of the request.
            model: Model name.
            assignments: Which policy answers which choices; none for the base alone.

        Raises:
            ValueError: A sampling parameter does not fit into the record.

        """
        self.context = context
        self.adapters = {
            choice: assignment.policy.version
            for assignment in assignments
            if assignment.policy.adapter is not None
            for choice in assignment.choices
        }
        self.sampling = sampling_parameters(params)
        self.model = model
        self.created_ms = int(time.time() * 1000)
        self.prompt = context.prompt
        self.prompt_token_ids: Sequence[int] = ()
        # One draft per choice, so that choices without any output are recorded too.
        self.drafts = [_ChoiceBuilder() for _ in range(params.n)]

    def add_output(self, output: "RequestOutput", version: int) -> None:
        """Add an output (a delta or a whole answer) that arrived while `version` was loaded."""
        if output.prompt_token_ids and not self.prompt_token_ids:
            self.prompt_token_ids = output.prompt_token_ids
        if output.prompt and self.context.messages is None and not self.prompt:
            self.prompt = output.prompt
        for part in output.outputs:
            self._add_to_choice(self.drafts[part.index], part, version)

    def _add_to_choice(self, draft: _ChoiceBuilder, part: "CompletionOutput", version: int) -> None:
        start = len(draft.token_ids)
        draft.text.append(part.text)
        draft.token_ids += part.token_ids
        if part.logprobs is not None:
            for token, top in zip(part.token_ids, part.logprobs, strict=True):
                draft.log_probs.append(top[token].logprob)
        if part.finish_reason is not None:
            draft.finish_reason = part.finish_reason
        if part.index in self.adapters:
            draft.spans = [(self.adapters[part.index], 0, len(draft.token_ids))]
        elif part.weight_versions:
            draft.spans = [(_version(s.version), s.start, s.end) for s in part.weight_versions]
        elif end := len(draft.token_ids):
            if draft.spans and draft.spans[-1][0] == version:
                start = draft.spans.pop()[1]
            if end > start:
                draft.spans.append((version, start, end))

    def finish(self, aborted: bool) -> CompletionRecord:
        """Return the record; in an aborted request, unfinished choices are marked as aborted."""
        for draft in self.drafts:
            if not draft.finish_reason and aborted:
                draft.finish_reason = "abort"
            metrics.CANDIDATES.labels(draft.finish_reason or "none").inc()
            metrics.CANDIDATE_TOKENS.inc(len(draft.token_ids))
        metrics.COMPLETIONS.labels("aborted" if aborted else "finished").inc()
        context = self.context
        return CompletionRecord(
            completion_id=context.completion_id,
            owner=context.owner,
            subject=context.subject,
            created_ms=self.created_ms,
            model=self.model,
            messages=_messages(context),
            template_json=context.template_json,
            prompt=self.prompt,
            prompt_token_ids=self.prompt_token_ids,
            multimodal=context.multimodal,
            sampling=self.sampling,
            choices=[_choice(i, draft) for i, draft in enumerate(self.drafts)],
        )


def _messages(context: RequestContext) -> list[Message]:
    """Return the messages with their texts as vLLM has read them, and whole as they were sent."""
    texts = context.messages or []
    sent = context.sent if len(context.sent) == len(texts) else [None] * len(texts)
    return [build_message(r, text, whole) for (r, text), whole in zip(texts, sent, strict=True)]


def _choice(index: int, draft: _ChoiceBuilder) -> Choice:
    return Choice(
        index=index,
        text="".join(draft.text),
        token_ids=draft.token_ids,
        log_probs=draft.log_probs,
        versions=[VersionSpan(policy_version=v, start=s, end=e) for v, s, e in draft.spans],
        finish_reason=draft.finish_reason,
    )


def _version(label: str) -> int:
    return int(label) if label.isdigit() else 0


class Recorder:
    """Writes records to the log, off the event loop."""

    def __init__(
        self,
        log: EventLog,
        on_failure: Callable[[str], None],
        *,
        strict: bool = False,
        reserve: DiskReserve | None = None,
    ) -> None:
        """Write to `log`.

        Args:
            log: The event log.
            on_failure: Called with a message for each record that could not be written; while the
                disk is almost full, only for the first.
            strict: Whether an answer fails if its record could not be written.
            reserve: Space that records leave free on the disk; None for none.

        """
        self._reserve = reserve
        self._disk_low = False
        self.log = log
        self.on_failure = on_failure
        self.strict = strict
        self._pending: set[asyncio.Task[Any]] = set()

    async def write(self, record: CompletionRecord) -> None:
        """Write a record; return when it is durable.

        A failure is counted and reported. The answer fails only if the recorder is strict.

        Raises:
            RecordingFailed: The record could not be written, and the recorder is strict.

        """
        if not await self._try_write(record) and self.strict:
            raise RecordingFailed("the answer could not be recorded; try again")

    async def _try_write(self, record: CompletionRecord) -> bool:
        new = NewRecord(record.completion_id, RECORD_TYPE, record.SerializeToString())
        try:
            if self._reserve is not None:
                self._reserve.check()
            await asyncio.to_thread(self.log.append, "completions", [new])
        except (LogError, DiskLow) as error:
            metrics.RECORD_FAILURES.inc()
            disk_was_low, self._disk_low = self._disk_low, isinstance(error, DiskLow)
            if not (self._disk_low and disk_was_low):  # a message for each would fill the disk
                self.on_failure(f"completion {record.completion_id} was not recorded: {error}")
            return False
        self._disk_low = False
        return True

    def write_shielded(self, record: CompletionRecord) -> None:
        """Write a record in the background, even if the calling task is cancelled."""
        task = asyncio.get_running_loop().create_task(self._try_write(record))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def drain(self) -> None:
        """Wait until all background writes have ended."""
        while self._pending:
            await asyncio.gather(*self._pending)
