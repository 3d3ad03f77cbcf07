"""`plaudit feedback export` and `import`: votes as JSONL, in the format of TRL and OpenRLHF.

A preference pair is {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES}, a labelled
answer {"prompt": MESSAGES, "completion": MESSAGES, "label": BOOL}; prompts and answers may also be
plain text, and the messages of an answer may repeat those of the prompt. The format cannot express
ties, comments, or who voted. Imported votes count like any other; a row that is imported twice
counts once.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from deploy.administration.vote_rows import VOTE_FORM, VOTE_ROWS, Pair, VoteRow
from deploy.errors import DeployError
from feedback.ledger.rows import JoinedEvent
from feedback.ledger.store import Ledger
from feedback.log.event_log import EventLog
from feedback.log.events import event_target
from feedback.log.records import completion_record, feedback_record
from feedback.privacy.identity import IMPORT_OWNER
from learner.data.json_lines import JsonLines
from learner.errors import DataUnusable
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
    try:
        with out.open("w", encoding="utf-8") as stream:
            for joined in ledger.effective_events():
                rows = [row for row in _rows(joined) if _is_usable(row)]
                skipped += not rows
                for row in rows:
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
    prompt: Any = [{"role": m.role, "content": m.content} for m in record.messages]
    prompt = prompt or record.prompt

    def text(candidate: Candidate) -> str:
        choices = joined.completions[candidate.completion_id].choices
        return next(c.text for c in choices if c.index == candidate.choice)

    def pair(better: str, worse: str) -> dict[str, Any]:
        return {"prompt": prompt, "chosen": message(better), "rejected": message(worse)}

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
            up = event.rating.value == Rating.VALUE_UP
            yield _single(prompt, message(text(event.rating.candidate)), up)
        case "score":
            if event.score.score != 0.5:
                yield _single(prompt, message(text(event.score.candidate)), event.score.score > 0.5)


def _single(prompt: Any, completion: Any, label: bool) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "label": label}


def import_feedback(file: Path, log: EventLog, model: Path) -> int:
    """Append the votes of a JSONL file to the log, and return how many there were.

    Nothing is appended unless every line can be used. The file is read twice.

    Args:
        file: File to import.
        log: Log to append to.
        model: Folder of the first policy, whose tokenizer encodes the rows.

    Raises:
        DeployError: The file cannot be read or has no rows, or some lines cannot be used; the
            message names them.
        LogUnavailable: The log cannot be written. Some votes may have been appended; import the
            file again.

    """
    from learner.models.loading import load_tokenizer

    tokenizer = load_tokenizer(model)
    try:
        rows = JsonLines(file, VOTE_ROWS, VOTE_FORM)
        rows.check(lambda row: _events(row, tokenizer))
        return sum(_append(log, batch, tokenizer) for batch in _batches(rows))
    except DataUnusable as error:
        raise DeployError(str(error)) from error


def _append(log: EventLog, rows: Sequence[VoteRow], tokenizer: Any) -> int:
    batch = [_events(row, tokenizer) for row in rows]
    log.append("completions", [completion_record(record) for record, _ in batch])
    log.append("feedback", [feedback_record(event) for _, event in batch])
    return len(batch)


def _batches(rows: JsonLines[VoteRow]) -> Iterator[Sequence[VoteRow]]:
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def _events(row: VoteRow, tokenizer: Any) -> tuple[CompletionRecord, FeedbackEvent]:
    identity = hashlib.sha256(row.model_dump_json().encode()).hexdigest()[:40]
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
    if isinstance(row, Pair):
        left, right = candidates
        event.comparison.CopyFrom(
            Comparison(left=left, right=right, verdict=Comparison.VERDICT_LEFT)
        )
    else:
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
        messages = [message.model_dump() for message in row.prompt]
        record.messages.extend(Message(**message) for message in messages)
        with refused_messages():
            record.prompt_token_ids.extend(encode_chat(tokenizer, messages, answer=True))
    return record
