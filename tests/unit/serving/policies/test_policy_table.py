"""Which policy answers a request, and merging the outputs of two policies."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from serving.context import RequestContext
from serving.engine.merge import merge_streams
from serving.engine.recorder import CompletionRecordBuilder
from serving.policies.policy_table import ChoiceAssignment, LoadedPolicy, PolicyTable
from tests.support.outputs import output, output_choice, params

ADAPTER: Any = object()


def test_without_a_challenger_the_live_version_answers_everything() -> None:
    policies = PolicyTable(1, duel_share=1.0)
    policies.live = LoadedPolicy(2)
    assert policies.assign_choices(2, may_duel=True) == [ChoiceAssignment(LoadedPolicy(2), (0, 1))]


@pytest.mark.parametrize(("choices", "may_duel"), [(1, True), (2, False)])
def test_one_choice_or_an_unfit_request_is_no_duel(choices: int, may_duel: bool) -> None:
    policies = PolicyTable(1, duel_share=1.0)
    policies.challenger = LoadedPolicy(3, ADAPTER)
    assert [s.policy for s in policies.assign_choices(choices, may_duel=may_duel)] == [
        LoadedPolicy(1)
    ]


def test_a_share_of_requests_is_a_duel_and_sides_are_even() -> None:
    policies = PolicyTable(1, duel_share=0.25)
    policies.challenger = LoadedPolicy(3, ADAPTER)
    first: Counter[int] = Counter()
    for _ in range(4000):
        shares = policies.assign_choices(2, may_duel=True)
        assert sorted(c for s in shares for c in s.choices) == [0, 1]
        if len(shares) == 2:
            assert [s.policy.version for s in shares] == [1, 3]
            first[shares[1].choices[0]] += 1
    # Five standard deviations around 1000 duels, and around a half of them.
    assert 863 < first.total() < 1137
    assert abs(first[0] - first[1]) < 5 * first.total() ** 0.5


def test_of_an_odd_number_either_version_answers_one_more() -> None:
    policies = PolicyTable(1, duel_share=1.0)
    policies.challenger = LoadedPolicy(3, ADAPTER)
    counts: Counter[int] = Counter()
    for _ in range(400):
        live, challenger = policies.assign_choices(5, may_duel=True)
        assert sorted(live.choices + challenger.choices) == [0, 1, 2, 3, 4]
        counts[len(challenger.choices)] += 1
    assert set(counts) == {2, 3}
    assert 150 < counts[2] < 250, "else the odd one out would tell"


async def test_adapters_are_in_use_until_their_last_request_ends() -> None:
    policies = PolicyTable(1)
    adapted = LoadedPolicy(2, ADAPTER)
    await asyncio.wait_for(policies.wait_for_idle_adapters(), 1)
    with policies.running([ChoiceAssignment(LoadedPolicy(1), (0,))]):
        assert not policies.is_running(LoadedPolicy(1)), "the base is never in the way"
        with policies.running([ChoiceAssignment(adapted, (0,))]):
            with policies.running([ChoiceAssignment(adapted, (0,))]):
                pass
            assert policies.is_running(adapted)
            waiting = asyncio.create_task(policies.wait_for_idle_adapters())
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 1)
    assert not policies.is_running(adapted)


async def test_new_requests_wait_while_the_base_is_swapped() -> None:
    policies = PolicyTable(1)
    async with policies.pause_new_requests():
        waiting = asyncio.create_task(policies.wait_until_open())
        await asyncio.sleep(0.01)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 1)


class Stream:
    """Outputs of one engine request, yielded on demand, and whether it was closed early."""

    def __init__(self, outputs: list[Any]) -> None:
        self.outputs = outputs
        self.cut = False

    async def __call__(self) -> AsyncGenerator[Any, None]:
        try:
            for given in self.outputs:
                await asyncio.sleep(0)
                if isinstance(given, Exception):
                    raise given
                yield given
        except (asyncio.CancelledError, GeneratorExit):
            self.cut = True
            raise


async def test_streams_are_merged_with_their_own_places() -> None:
    a = Stream(
        [
            output(False, output_choice(0, "a", [1])),
            output(True, output_choice(0, "b", [2], "stop")),
        ]
    )
    b = Stream(
        [
            output(False, output_choice(1, "x", [3])),
            output(False, output_choice(0, "y", [4], "stop")),
            output(True, output_choice(1, "z", [5], "length")),
        ]
    )
    seen = [o async for o in merge_streams([(a(), (1,)), (b(), (0, 2))], whole=False)]
    texts = ["", "", ""]
    for given in seen:
        for piece in given.outputs:
            texts[piece.index] += piece.text
    assert texts == ["y", "ab", "xz"]
    assert [o.finished for o in seen] == [False] * 4 + [True]


async def test_whole_answers_become_one_in_order() -> None:
    a = Stream(
        [
            output(
                True, output_choice(0, "first", [1], "stop"), output_choice(1, "third", [2], "stop")
            )
        ]
    )
    b = Stream([output(True, output_choice(0, "second", [3], "stop"))])
    (only,) = [o async for o in merge_streams([(a(), (0, 2)), (b(), (1,))], whole=True)]
    assert [(p.index, p.text) for p in only.outputs] == [(0, "first"), (1, "second"), (2, "third")]
    assert only.finished


async def test_a_consumer_that_stops_stops_both() -> None:
    a, b = (Stream([output(False, output_choice(0, "a", [1]))] * 50) for _ in range(2))
    stream = merge_streams([(a(), (0,)), (b(), (1,))], whole=False)
    await anext(stream)
    await stream.aclose()
    assert a.cut
    assert b.cut


async def test_a_failure_of_one_fails_the_request_and_stops_the_other() -> None:
    a = Stream([RuntimeError("the engine died")])
    b = Stream([output(False, output_choice(0, "a", [1]))] * 50)
    with pytest.raises(RuntimeError, match="the engine died"):
        _ = [o async for o in merge_streams([(a(), (0,)), (b(), (1,))], whole=False)]
    assert b.cut


def test_a_choice_made_with_an_adapter_has_its_version_throughout() -> None:
    shares = [
        ChoiceAssignment(LoadedPolicy(1), (0,)),
        ChoiceAssignment(LoadedPolicy(7, ADAPTER), (1,)),
    ]
    answer = CompletionRecordBuilder(
        RequestContext("chatcmpl-1", "local", "", []), params(), "m", shares
    )
    answer.add_output(output(False, output_choice(0, "a", [1]), output_choice(1, "x", [2])), 1)
    base = (SimpleNamespace(version="1", start=0, end=2),)
    answer.add_output(
        output(
            True, output_choice(0, "b", [3], "stop", base), output_choice(1, "y", [4], "stop", base)
        ),
        1,
    )
    spans = [
        [(s.policy_version, s.start, s.end) for s in choice.versions]
        for choice in answer.finish(aborted=False).choices
    ]
    assert spans == [[(1, 0, 2)], [(7, 0, 2)]]
