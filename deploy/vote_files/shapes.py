"""Votes in the shapes of published data sets, as the rows of `deploy.vote_files.rows`.

Known are TRL's pairs with explicit and implicit prompts and its unpaired answers (KTO), HH-RLHF's
transcripts, UltraFeedback with its scores, and OpenAssistant's trees with their ranks.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, FiniteFloat

from learner.data.json_lines import RowLeftOut
from learner.data.shapes import clean_messages, is_transcript, parse_tools, parse_transcript
from learner.errors import DataUnusable


class _ScoredAnswer(BaseModel):
    """An answer of UltraFeedback."""

    response: str | None = None
    overall_score: FiniteFloat | None = None


class _ScoredAnswers(BaseModel):
    """A row of UltraFeedback."""

    instruction: str
    completions: list[_ScoredAnswer]


class _Message(BaseModel):
    """A message of OpenAssistant's trees, with the replies to it."""

    role: str | None = None
    text: str | None = None
    rank: Annotated[int, Field(ge=0)] | None = None
    deleted: bool | None = None
    replies: "list[_Message] | None" = None


def vote_rows(row: Any) -> list[Any]:
    """Return the votes in a row of a data set.

    Raises:
        DataUnusable: The row is of a shape that cannot be read row by row.
        RowLeftOut: The row holds no vote.
        ValidationError: The row has not the fields of its shape.

    """
    if not isinstance(row, Mapping):
        return [row]
    if isinstance(row.get("prompt"), Mapping) and "replies" in row["prompt"]:
        return _tree_votes(_Message.model_validate(row["prompt"]))
    if "parent_id" in row and "message_id" in row:
        raise DataUnusable(
            "single messages of OpenAssistant cannot be joined row by row; use the file of its "
            "trees ('..._trees.jsonl')"
        )
    if isinstance(row.get("completions"), list) and "instruction" in row:
        return [_scored_vote(_ScoredAnswers.model_validate(row))]
    if "chosen" in row and "rejected" in row and row.get("prompt") is None:
        row = _with_prompt(row)
    return [_clean(row)]


def _clean(row: Mapping[str, Any]) -> dict[str, Any]:
    cleaned = {
        name: clean_messages(value)
        if name in ("prompt", "chosen", "rejected", "completion")
        else value
        for name, value in row.items()
    }
    if "tools" in cleaned:
        cleaned["tools"] = parse_tools(cleaned["tools"])
    return cleaned


def _with_prompt(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pair with the prompt that both of its answers begin with.

    Raises:
        RowLeftOut: The answers have no prompt in common.

    """
    chosen, rejected = row["chosen"], row["rejected"]
    if is_transcript(chosen) and is_transcript(rejected):
        chosen, rejected = parse_transcript(chosen), parse_transcript(rejected)
    if isinstance(chosen, list) and isinstance(rejected, list):
        chosen, rejected = clean_messages(chosen), clean_messages(rejected)
        if len(chosen) < 2 or chosen[:-1] != rejected[:-1]:
            raise RowLeftOut("the two conversations differ before their last messages")
        return {
            **row,
            "prompt": chosen[:-1],
            "chosen": chosen[-1:],
            "rejected": rejected[-1:],
        }
    if isinstance(chosen, str) and isinstance(rejected, str):
        prompt = _common_prompt(chosen, rejected)
        if not prompt.strip():
            raise RowLeftOut("the two texts do not begin with the same prompt")
        size = len(prompt)
        return {**row, "prompt": prompt, "chosen": chosen[size:], "rejected": rejected[size:]}
    return dict(row)


def _common_prompt(first: str, second: str) -> str:
    """Return what two texts begin with, up to a whole word and without the space behind it."""
    shared = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        shared += 1
    common = first[:shared]
    whole = common if common != common.rstrip() else common[: _last_space(common)]
    return whole.rstrip()


def _last_space(text: str) -> int:
    return max(0, *(text.rfind(space) for space in (" ", "\n", "\t")))


def _scored_vote(row: _ScoredAnswers) -> dict[str, Any]:
    """Return a row of UltraFeedback as a ranking by its overall scores.

    Raises:
        RowLeftOut: Fewer than two answers differ and have a score.

    """
    scored = {
        each.response: each.overall_score
        for each in row.completions
        if each.response and each.overall_score is not None
    }
    order = sorted({*scored.values()}, reverse=True)
    if len(order) < 2:
        raise RowLeftOut("fewer than two answers have different scores")
    ranks = [order.index(score) for score in scored.values()]
    return _ranked([{"role": "user", "content": row.instruction}], list(scored), ranks)


def _ranked(prompt: Sequence[Any], answers: Sequence[str], ranks: Sequence[int]) -> dict[str, Any]:
    return {
        "prompt": list(prompt),
        "ranked": [[{"role": "assistant", "content": answer}] for answer in answers],
        "ranks": list(ranks),
    }


def _tree_votes(root: _Message) -> list[Any]:
    """Return a ranking for each message of the prompter whose replies have ranks.

    Raises:
        RowLeftOut: No message has two ranked replies.

    """
    votes = list(_votes_below(root, []))
    if not votes:
        raise RowLeftOut("no message of the tree has two ranked replies")
    return votes


def _votes_below(message: _Message, before: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    role = "assistant" if message.role == "assistant" else "user"
    path = [*before, {"role": role, "content": message.text or ""}]
    replies = [reply for reply in message.replies or [] if not reply.deleted]
    if role == "user":
        ranks = {
            reply.text: reply.rank
            for reply in replies
            if reply.rank is not None and reply.text and reply.text.strip()
        }
        if len(ranks) > 1:
            yield _ranked(path, list(ranks), list(ranks.values()))
    for reply in replies:
        yield from _votes_below(reply, path)
