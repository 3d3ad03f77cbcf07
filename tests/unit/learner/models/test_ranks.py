"""Ranks count from the machine that leads, however torchrun numbered the machines."""

from typing import Any

import pytest
import torch.distributed as dist

from learner.models.ranks import Ranks


def test_rank_0_is_the_first_process_of_the_machine_that_leads() -> None:
    assert [Ranks(rank, 4, first=2).rank for rank in range(4)] == [2, 3, 0, 1]


def test_what_all_processes_send_is_ordered_by_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_gather_object(found: list[Any], _: Any) -> None:
        found[:] = ["c", "d", "a", "b"]  # in torch.distributed's order

    monkeypatch.setattr(dist, "all_gather_object", all_gather_object)
    assert Ranks(2, 4, first=2)._all("a") == ["a", "b", "c", "d"]


def test_rank_0_alone_makes_what_it_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[int] = []

    def broadcast_object_list(sent: list[Any], src: int) -> None:
        sources.append(src)
        sent[0] = "made"

    monkeypatch.setattr(dist, "broadcast_object_list", broadcast_object_list)
    assert Ranks(2, 4, first=2).broadcast(lambda: "made") == "made"
    assert Ranks(1, 4, first=2).broadcast(lambda: pytest.fail("made in another rank")) == "made"
    assert Ranks().broadcast(lambda: "alone") == "alone"
    assert sources == [2, 2]
