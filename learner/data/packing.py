"""Pack documents and conversations into token rows of equal length.

A document may continue in the next row. A conversation does not: its row is filled with padding.
Conversations in one row are independent: positions restart at each.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from learner.data.tokenizer import encode_chat, encode_text, end_token_ids, pad_token_id
from learner.errors import DataUnusable

IGNORED: Final = -100  # label of a token without a loss


@dataclass(frozen=True, slots=True)
class Rows:
    """Packed rows of equal length.

    Attributes:
        input_ids_NT: Token ids.
        labels_NT: Token ids to predict; IGNORED where there is no loss.
        positions_NT: Position of each token in its document row or conversation.

    """

    input_ids_NT: Tensor
    labels_NT: Tensor
    positions_NT: Tensor

    def __len__(self) -> int:
        return int(self.input_ids_NT.shape[0])

    def count_labels(self, picked: Tensor | slice) -> int:
        """Count the tokens with a loss in the picked rows; the first of a row is not predicted."""
        return int((self.labels_NT[picked][:, 1:] != IGNORED).sum())

    def select(self, picked: Tensor | slice, device: torch.device) -> "Rows":
        """Return the picked rows, on a device."""
        return Rows(
            self.input_ids_NT[picked].to(device),
            self.labels_NT[picked].to(device),
            self.positions_NT[picked].to(device),
        )


OnPacked = Callable[[int], None]  # called with the number of tokens packed so far


def _ignore(tokens: int) -> None:
    """Show no progress."""


def pack_documents(
    documents: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    row: int,
    tokens: int,
    on_packed: OnPacked = _ignore,
) -> Rows:
    """Pack documents, each followed by the end-of-text token, into about `tokens` tokens.

    There are fewer if the documents run out. Tokens after the last full row are dropped.

    Args:
        documents: Texts to pack; read only as far as needed.
        tokenizer: Tokenizer of the model.
        row: Tokens in a row.
        tokens: Tokens in all rows.
        on_packed: Callback that shows the progress.

    """
    end = end_token_ids(tokenizer)[-1]
    ids: list[int] = []
    for document in documents:
        ids += [*encode_text(tokenizer, document), end]
        on_packed(len(ids))
        if len(ids) >= tokens:
            break
    count = min(max(tokens // row, 1), len(ids) // row)
    packed_NT = torch.tensor(ids[: count * row], dtype=torch.long).view(count, row)
    return Rows(packed_NT, packed_NT, torch.arange(row).expand(count, row).contiguous())


class Conversation(NamedTuple):
    """Messages, and the tools that the assistant was offered."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None


def encode_conversation(
    messages: list[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[list[int], list[int]]:
    """Return token ids and labels of a conversation; only the assistant's tokens have labels.

    These include the end token of each assistant turn. The chat template must render the first
    messages of a conversation as a prefix of the whole.
    """
    ids: list[int] = []
    labels: list[int] = []
    end = end_token_ids(tokenizer)[0]
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = encode_chat(tokenizer, messages[:turn], answer=True, tools=tools)
        added = prompt[len(ids) :]
        if message.get("tool_calls"):
            answer = _encode_call(tokenizer, messages[: turn + 1], prompt, end, tools)
        else:
            answer = [*encode_text(tokenizer, message["content"].strip()), end]
        ids += added + answer
        labels += [IGNORED] * len(added) + answer
    return ids, labels


def _encode_call(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    prompt: list[int],
    end: int,
    tools: Sequence[Mapping[str, Any]] | None,
) -> list[int]:
    """Return the tokens of the last message, a tool call, as the chat template writes them.

    Raises:
        DataUnusable: The template writes no tool calls, or the prompt before them differently.

    """
    whole = encode_chat(tokenizer, messages, answer=False, tools=tools)
    answer = whole[len(prompt) :]
    if whole[: len(prompt)] != prompt or end not in answer[1:]:
        raise DataUnusable(
            "the model's chat template does not write this tool call as an answer to the messages "
            "before it; write the call as text, or remove this row"
        )
    return answer[: answer.index(end, 1) + 1]


def pack_conversations(
    conversations: Iterable[list[dict[str, str]] | Conversation],
    tokenizer: PreTrainedTokenizerBase,
    *,
    row: int,
    tokens: int,
    on_packed: OnPacked = _ignore,
) -> Rows:
    """Pack conversations until the rows hold `tokens` tokens.

    A conversation longer than a row is truncated at its end.

    Args:
        conversations: Messages of each conversation, with its tools if any; read only as far as
            needed.
        tokenizer: Tokenizer of the model.
        row: Tokens in a row.
        tokens: Tokens in all rows, padding included.
        on_packed: Callback that shows the progress.

    """
    pad = pad_token_id(tokenizer)
    rows: list[tuple[list[int], list[int], list[int]]] = []
    ids: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    for each in conversations:
        messages, tools = each if isinstance(each, Conversation) else (each, None)
        new_ids, new_labels = encode_conversation(messages, tokenizer, tools)
        new_ids, new_labels = new_ids[:row], new_labels[:row]
        if len(ids) + len(new_ids) > row:
            rows.append((ids, labels, positions))
            ids, labels, positions = [], [], []
            on_packed(len(rows) * row)
            if len(rows) * row >= tokens:
                break
        ids = ids + new_ids
        labels = [*labels, IGNORED, *new_labels[1:]]
        positions = positions + list(range(len(new_ids)))
    if ids:
        rows.append((ids, labels, positions))
    return Rows(
        torch.tensor([r[0] + [pad] * (row - len(r[0])) for r in rows]),
        torch.tensor([r[1] + [IGNORED] * (row - len(r[1])) for r in rows]),
        torch.tensor([r[2] + list(range(row - len(r[2]))) for r in rows]),
    )


def concat_rows(first: Rows, second: Rows) -> Rows:
    """Concatenate two sets of rows of the same length."""
    return Rows(
        torch.cat([first.input_ids_NT, second.input_ids_NT]),
        torch.cat([first.labels_NT, second.labels_NT]),
        torch.cat([first.positions_NT, second.positions_NT]),
    )


def fingerprint(rows: Rows) -> str:
    """Return a short hash of the token ids, which shows that a run resumes on the same data."""
    return hashlib.sha256(rows.input_ids_NT.numpy().tobytes()).hexdigest()[:16]


def batches(rows: Rows, *, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield `steps` batches of row indices, shuffled anew each time all rows have been used."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        while len(order) < size:
            order += torch.randperm(len(rows), generator=generator).tolist()
        yield torch.tensor(order[:size])
        order = order[size:]
