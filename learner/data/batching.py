"""Pad sequences, and group them into batches that fit into one forward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_left(sequences: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Pad token ids on the left.

    Returns:
        Token ids and the mask of real tokens, each [B, T].

    """
    width = max(map(len, sequences))
    ids_BT = torch.full((len(sequences), width), pad, dtype=torch.long)
    mask_BT = torch.zeros((len(sequences), width), dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids_BT[row, width - len(sequence) :] = torch.tensor(sequence)
        mask_BT[row, width - len(sequence) :] = True
    return ids_BT, mask_BT


def group_by_length(
    lengths: Sequence[int], tokens: int, rows: Sequence[int] | None = None
) -> list[list[int]]:
    """Group indices of similar lengths so that a padded group has at most `tokens` tokens.

    A single item that is larger forms its own group. The same lengths give the same groups.

    Args:
        lengths: Length of the longest row of each item.
        tokens: Maximum of padded tokens in a group.
        rows: Number of rows of each item; one each by default.

    """
    groups: list[list[int]] = []
    filled = 0  # rows of the last group
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        added = 1 if rows is None else rows[index]
        if groups and lengths[index] * (filled + added) <= tokens:
            groups[-1].append(index)
            filled += added
        else:
            groups.append([index])
            filled = added
    return groups


def resize_groups(groups: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Return the same members in `count` groups: split the largest, or join the smallest.

    Args:
        groups: Groups of indices.
        count: Number of groups to return, at most the number of members.

    """
    found = [list(group) for group in groups]
    while len(found) < count:
        largest = max(range(len(found)), key=lambda i: len(found[i]))
        group = found[largest]
        found[largest : largest + 1] = [group[: len(group) // 2], group[len(group) // 2 :]]
    while len(found) > count:
        found.sort(key=len)
        found[:2] = [found[0] + found[1]]
    return found
