"""Token rows of one length from documents and conversations, without padding where it counts.

A document may continue in the next row; a conversation never does (its row is filled up with
padding), and conversations in one row do not see each other: positions start anew.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from learner.data.tokenizer import encode_chat, encode_text, end_token_ids, pad_token_id

IGNORED: Final = -100  # the label of a token that the loss leaves out


@dataclass(frozen=True, slots=True)
class Rows:
    """Packed rows: token ids, labels (IGNORED where no loss), positions; each [rows, tokens]."""

    input_ids_NT: Tensor
    labels_NT: Tensor
    positions_NT: Tensor

    def __len__(self) -> int:
        return int(self.input_ids_NT.shape[0])

    def labelled(self, picked: Tensor | slice) -> int:
        """Count the tokens of some of the rows that have a loss: each is predicted one before."""
        return int((self.labels_NT[picked][:, 1:] != IGNORED).sum())

    def some(self, picked: Tensor | slice, device: torch.device) -> "Rows":
        """Return some of the rows, on a device."""
        return Rows(
            self.input_ids_NT[picked].to(device),
            self.labels_NT[picked].to(device),
            self.positions_NT[picked].to(device),
        )


def pack_documents(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, row: int, tokens: int
) -> Rows:
    """Pack documents, each followed by the end of text, until there are `tokens` of them.

    Fewer where the documents run out; what is left over after the last full row is dropped.
    """
    end = end_token_ids(tokenizer)[-1]
    ids: list[int] = []
    for document in documents:
        ids += [*encode_text(tokenizer, document), end]
        if len(ids) >= tokens:
            break
    count = min(max(tokens // row, 1), len(ids) // row)
    packed_NT = torch.tensor(ids[: count * row], dtype=torch.long).view(count, row)
    return Rows(packed_NT, packed_NT, torch.arange(row).expand(count, row).contiguous())


def encode_conversation(
    messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int]]:
    """Return token ids and labels of a conversation; only what the assistant says has labels.

    The end token that closes an assistant's turn is something that it says. Works for every
    template whose rendering of the first messages is a prefix of its rendering of all.
    """
    ids: list[int] = []
    labels: list[int] = []
    end = end_token_ids(tokenizer)[0]
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = encode_chat(tokenizer, messages[:turn], answer=True)
        added = prompt[len(ids) :]
        answer = [*encode_text(tokenizer, message["content"].strip()), end]
        ids += added + answer
        labels += [IGNORED] * len(added) + answer
    return ids, labels


def pack_conversations(
    conversations: Iterable[list[dict[str, str]]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    row: int,
    tokens: int,
) -> Rows:
    """Pack conversations until the rows hold `tokens`; one longer than a row is cut at its end."""
    pad = pad_token_id(tokenizer)
    rows: list[tuple[list[int], list[int], list[int]]] = []
    ids: list[int] = []
    labels: list[int] = []
    places: list[int] = []
    for messages in conversations:
        new_ids, new_labels = encode_conversation(messages, tokenizer)
        new_ids, new_labels = new_ids[:row], new_labels[:row]
        if len(ids) + len(new_ids) > row:
            rows.append((ids, labels, places))
            ids, labels, places = [], [], []
            if len(rows) * row >= tokens:
                break
        ids = ids + new_ids
        labels = [*labels, IGNORED, *new_labels[1:]]
        places = places + list(range(len(new_ids)))
    if ids:
        rows.append((ids, labels, places))
    return Rows(
        torch.tensor([r[0] + [pad] * (row - len(r[0])) for r in rows]),
        torch.tensor([r[1] + [IGNORED] * (row - len(r[1])) for r in rows]),
        torch.tensor([r[2] + list(range(row - len(r[2]))) for r in rows]),
    )


def concat_rows(first: Rows, second: Rows) -> Rows:
    """Put the rows of both, of one length, into one."""
    return Rows(
        torch.cat([first.input_ids_NT, second.input_ids_NT]),
        torch.cat([first.labels_NT, second.labels_NT]),
        torch.cat([first.positions_NT, second.positions_NT]),
    )


def batches(rows: Rows, *, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yield `steps` batches of row indices: every row once in a new order, then again."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        while len(order) < size:
            order += torch.randperm(len(rows), generator=generator).tolist()
        yield torch.tensor(order[:size])
        order = order[size:]
