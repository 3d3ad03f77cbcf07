"""Choose prompts evenly over owners and time, so that nobody supplies most by sending the most."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence


def sample_evenly(owners: Sequence[str], limit: int) -> list[int]:
    """Return the indices of up to `limit` prompts, of the owners in turn.

    Owners with fewer prompts than their share leave the rest to the others. Of an owner with more,
    prompts at equal distances are chosen. Every beginning of the result is even over the owners.

    Args:
        owners: Owner of each prompt, in the order of time.
        limit: Largest number of prompts.

    """
    of_owner: dict[str, list[int]] = defaultdict(list)
    for index, owner in enumerate(owners):
        of_owner[owner].append(index)
    counts = list(map(len, of_owner.values()))

    def total(share: int) -> int:
        return sum(min(count, share) for count in counts)

    share = bisect_right(range(limit + 1), limit, key=total) - 1
    left = limit - total(share)
    chosen = []
    for place, indices in enumerate(of_owner.values()):
        count = min(len(indices), share)
        if left and len(indices) > count:
            count, left = count + 1, left - 1
        picks = (indices[turn * len(indices) // count] for turn in range(count))
        chosen += [(turn, place, index) for turn, index in enumerate(picks)]
    return [index for _, _, index in sorted(chosen)]
