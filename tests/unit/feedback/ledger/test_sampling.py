"""Prompts are chosen evenly over owners and time."""

from collections import Counter

import pytest

from feedback.ledger.sampling import sample_evenly


@pytest.mark.parametrize(
    ("owners", "limit", "chosen"),
    [
        ("aaaa", 9, [0, 1, 2, 3]),
        ("aaaa", 2, [0, 2]),
        ("aaaaaaaaa", 3, [0, 3, 6]),
        ("aaaaabb", 4, [0, 5, 2, 6]),
        ("aaaaab", 4, [0, 5, 1, 3]),
        ("aaabbb", 3, [0, 3, 1]),
        ("abc", 1, [0]),
        ("abc", 0, []),
        ("", 4, []),
    ],
)
def test_prompts_chosen_by_hand(owners: str, limit: int, chosen: list[int]) -> None:
    assert sample_evenly(owners, limit) == chosen


def test_a_flood_of_one_owner_displaces_nobody() -> None:
    owners = ["flood"] * 10_000 + [f"key{i % 50}" for i in range(500)] + ["flood"] * 10_000
    chosen = sample_evenly(owners, 4000)
    counts = Counter(owners[i] for i in chosen)
    assert len(chosen) == len(set(chosen)) == 4000
    assert counts.pop("flood") == 3500
    assert set(counts.values()) == {10}
    first = Counter(owners[i] for i in chosen[:160])
    assert max(first.values()) == 4, "the gate takes the first ones"
    flood = [i for i in chosen if owners[i] == "flood"]
    assert sum(i > 10_000 for i in flood) == pytest.approx(1750, abs=2)
