"""`plaudit feedback export` and `import`: votes in the format of TRL and OpenRLHF, and others.

An export is JSONL; an import also takes the shapes and files of `deploy.vote_files.shapes` and
`learner.data.sources`.

A preference pair is {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES}, a labelled
answer {"prompt": MESSAGES, "completion": MESSAGES, "label": BOOL}; prompts and answers may also be
plain text, and the messages of an answer may repeat those of the prompt. The format cannot express
ties, comments, or who voted. Imported votes count like any other; a row that is imported twice
counts once.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from deploy.errors import DeployError
from deploy.vote_files.rows import (
    VOTE_FORM,
    VOTE_ROWS,
    LabelledAnswer,
    Pair,
    Ranked,
    VoteRow,
)
from deploy.vote_files.shapes import vote_rows
from feedback.ledger.rows import JoinedEvent
from feedback.ledger.store import Ledger
from feedback.log.event_log import EventLog
from feedback.log.events import event_target
from feedback.log.records import completion_record, feedback_record
from feedback.privacy.identity import IMPORT_OWNER
from learner.data.json_lines import ChatMessage, LeftOutRows
from learner.data.sources import open_rows
from learner.errors import DataUnusable
from protos.messages import build_message, template_fields, template_json, whole_message
from protos.plaudit.v1.completion_pb2 import Choice, CompletionRecord, Message
from protos.plaudit.v1.feedback_pb2 import (
    Candidate,
    Comparison,
    FeedbackEvent,
    Rating,
    Source,
)

_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class ExportCounts:
    """What an export wrote.

    Attributes:
        pairs: Number of preference pairs.
        singles: Number of labelled answers.
        skipped: Number of feedback events that the format cannot express.

    """

    pairs: int
    singles: int
    skipped: int


def export_feedback(home: Path, out: Path) -> ExportCounts:
    """Write all effective feedback to `out`, as rows of JSON.

    Raises:
        DeployError: There is no ledger in `home`.

    """
    file = home / "ledger.db"
    if not file.is_file():
        raise DeployError(f"{home} has no ledger, because no learner has run there yet")
    ledger = Ledger(file)
    pairs = singles = skipped = 0
    seen: Counter[bytes] = Counter()
    try:
        with out.open("w", encoding="utf-8") as stream:
            for joined in ledger.stream_events():
                rows = [row for row in _rows(joined) if _is_usable(row)]
                skipped += not rows
                for each in rows:
                    row = _number_repeated(each, seen)
                    pairs += "chosen" in row
                    singles += "label" in row
                    stream.write(json.dumps(row, ensure_ascii=False) + "\n")
    finally:
        ledger.close()
    return ExportCounts(pairs, singles, skipped)


def _is_usable(row: dict[str, Any]) -> bool:
    """Check whether an import would accept the row: it has a prompt and answers that differ."""
    try:
        VOTE_ROWS.validate_python(row)
    except ValidationError:
        return False
    return True


def _rows(joined: JoinedEvent) -> Iterator[dict[str, Any]]:
    event = joined.event
    record = joined.completions[event.completion_id]
    prompt: Any = [_plain_message(m) for m in record.messages] or record.prompt
    tools = template_fields(record).get("tools")
    extra = {"tools": tools} if tools else {}

    def text(candidate: Candidate) -> str:
        choices = joined.completions[candidate.completion_id].choices
        return next(c.text for c in choices if c.index == candidate.choice)

    def pair(better: str, worse: str) -> dict[str, Any]:
        return {"prompt": prompt, "chosen": message(better), "rejected": message(worse), **extra}

    def single(candidate: Candidate, label: bool) -> dict[str, Any]:
        completion = message(text(candidate))
        return {"prompt": prompt, "completion": completion, "label": label, **extra}

    def message(answer: str) -> Any:
        return [{"role": "assistant", "content": answer}] if record.messages else answer

    match event.WhichOneof("kind"):
        case "comparison":
            left, right = text(event.comparison.left), text(event.comparison.right)
            if event.comparison.verdict == Comparison.VERDICT_LEFT:
                yield pair(left, right)
            elif event.comparison.verdict == Comparison.VERDICT_RIGHT:
                yield pair(right, left)
        case "ranking":
            for better, worse in itertools.combinations(event.ranking.groups, 2):
                for a, b in itertools.product(better.candidates, worse.candidates):
                    yield pair(text(a), text(b))
        case "demonstration":
            yield pair(event.demonstration.text, text(event.demonstration.candidate))
        case "rating":
            yield single(event.rating.candidate, event.rating.value == Rating.VALUE_UP)
        case "score":
            if event.score.score != 0.5:
                yield single(event.score.candidate, event.score.score > 0.5)


def _plain_message(message: Message) -> dict[str, Any]:
    """Return a recorded message with the fields that an import keeps; parts as one text."""
    whole = whole_message(message)
    others = {
        name: whole[name]
        for name in ChatMessage.model_fields
        if name in whole and name not in ("role", "content") and whole[name] is not None
    }
    content = None if others.get("tool_calls") and not message.content else message.content
    return {"role": message.role, "content": content, **others}


def _number_repeated(row: dict[str, Any], seen: Counter[bytes]) -> dict[str, Any]:
    """Return a row that was written before with its number, so that an import counts each."""
    digest = hashlib.sha256(json.dumps(row).encode()).digest()[:12]
    seen[digest] += 1
    return row if seen[digest] == 1 else {**row, "repeated": seen[digest]}


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import took, and what it left out.

    Attributes:
        taken: Number of votes by kind: pairs, labelled answers, rankings.
        left_out: Rows that hold no vote, by the reason.
        unit: What the rows are numbered by: `line` or `row`.

    """

    taken: Counter[str]
    left_out: dict[str, LeftOutRows]
    unit: str

    def lines(self) -> list[str]:
        """Return the report in words."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.taken.items()))
        lines = [f"Added {self.taken.total()} votes to the log{f': {kinds}' if kinds else ''}."]
        for reason, rows in self.left_out.items():
            more = ", ..." if rows.count > len(rows.first) else ""
            numbers = ", ".join(map(str, rows.first))
            lines.append(f"Left out {rows.count} ({self.unit} {numbers}{more}): {reason}.")
        return lines


def import_feedback(
    source: Path,
    log: EventLog,
    model: Path,
    *,
    split: str | None = None,
    skip_unusable: bool = False,
) -> ImportReport:
    """Append the votes in a file, folder or data set to the log.

    Nothing is appended unless every row can be used, or may be left out. The rows are read twice,
    as a stream.

    Args:
        source: Data to import; see `learner.data.sources`.
        log: Log to append to.
        model: Folder of the first policy, whose tokenizer encodes the rows.
        split: Split of a data set; None for `train`, or the only one.
        skip_unusable: Leave out rows that cannot be used instead of refusing all.

    Raises:
        DeployError: The data cannot be read or has no rows, or some rows cannot be used; the
            message names them.
        LogUnavailable: The log cannot be written. Some votes may have been appended; import the
            data again.

    """
    from learner.models.loading import load_tokenizer

    tokenizer = load_tokenizer(model)

    def use(row: VoteRow) -> object:
        return _events(row, tokenizer)

    taken: Counter[str] = Counter()
    try:
        rows = open_rows(source, VOTE_ROWS, VOTE_FORM, vote_rows, split=split)
        rows.check(use, skip_unusable=skip_unusable)
        iterator = rows.usable(use if skip_unusable else None, skip_unusable=skip_unusable)
        while batch := list(itertools.islice(iterator, _BATCH)):
            _append(log, batch, tokenizer)
            taken.update(_KINDS[type(row)] for row in batch)
    except DataUnusable as error:
        raise DeployError(str(error)) from error
    return ImportReport(taken, rows.left_out, rows.unit)


_KINDS: Final = {Pair: "pairs", LabelledAnswer: "labelled answers", Ranked: "rankings"}


def _append(log: EventLog, rows: Sequence[VoteRow], tokenizer: Any) -> None:
    batch = [_events(row, tokenizer) for row in rows]
    log.append("completions", [completion_record(record) for record, _ in batch])
    log.append("feedback", [feedback_record(event) for _, event in batch])


def _events(row: VoteRow, tokenizer: Any) -> tuple[CompletionRecord, FeedbackEvent]:
    identity = hashlib.sha256(row.model_dump_json(exclude_none=True).encode()).hexdigest()[:40]
    record = _record(row, f"import-{identity}", tokenizer)
    candidates = [
        Candidate(completion_id=record.completion_id, choice=c.index) for c in record.choices
    ]
    event = FeedbackEvent(
        event_id=f"fb-import-{identity}",
        completion_id=record.completion_id,
        owner=IMPORT_OWNER,
        source=Source.SOURCE_ANNOTATOR,
    )
    match row:
        case Pair():
            left, right = candidates
            verdict = Comparison.VERDICT_LEFT
            event.comparison.CopyFrom(Comparison(left=left, right=right, verdict=verdict))
        case Ranked():
            for rank in sorted(set(row.ranks)):
                tied = [c for c, own in zip(candidates, row.ranks, strict=True) if own == rank]
                event.ranking.groups.add(candidates=tied)
        case LabelledAnswer():
            value = Rating.VALUE_UP if row.label else Rating.VALUE_DOWN
            event.rating.CopyFrom(Rating(candidate=candidates[0], value=value))
    event.target = event_target(event)
    return record, event


def _record(row: VoteRow, completion_id: str, tokenizer: Any) -> CompletionRecord:
    from learner.data.tokenizer import encode_answer, encode_chat, encode_text, refused_messages

    record = CompletionRecord(
        completion_id=completion_id,
        owner=IMPORT_OWNER,
        model="import",
        choices=[
            Choice(index=i, text=t, token_ids=encode_answer(tokenizer, t), finish_reason="stop")
            for i, t in enumerate(row.texts())
        ],
    )
    if isinstance(row.prompt, str):
        record.prompt = row.prompt
        record.prompt_token_ids.extend(encode_text(tokenizer, row.prompt))
    else:
        messages = [message.whole() for message in row.prompt]
        record.messages.extend(build_message(m["role"], m["content"] or "", m) for m in messages)
        record.template_json = template_json({"tools": row.tools})
        with refused_messages():
            ids = encode_chat(tokenizer, messages, answer=True, tools=row.tools)
            record.prompt_token_ids.extend(ids)
    return record
