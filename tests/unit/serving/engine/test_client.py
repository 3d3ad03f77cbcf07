"""Duels: which policy gets which choices, and what must not tell a client which one it was."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from feedback.log.sqlite_log import SqliteLog
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from serving.context import RequestContext, request_context
from serving.engine import client
from serving.engine.client import RecordingEngine, is_blind
from serving.engine.recorder import Recorder
from serving.policies.policy_table import LoadedPolicy, PolicyTable
from tests.support.outputs import output, output_choice, params

ADAPTER: Any = object()


class Inner:
    """An engine that answers each choice with the policy that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def generate(
        self, _: Any, sampling: Any, request_id: str, *, lora_request: Any
    ) -> AsyncGenerator[Any, None]:
        self.asked.append(lora_request)
        text = "live" if lora_request is None else "new"
        yield output(True, *(output_choice(i, text, [1], "stop") for i in range(sampling.n)))


class Params:
    """Sampling parameters that can be cloned, as vLLM's."""

    def __init__(self, **options: Any) -> None:
        self.__dict__.update(vars(params(**options)), output_kind=None)

    def clone(self) -> "Params":
        copy = Params()
        copy.__dict__.update(self.__dict__)
        return copy


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    opened = SqliteLog(tmp_path / "log.db")
    yield opened
    opened.close()


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def engine(inner: Inner, log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> RecordingEngine:
    policies = PolicyTable(1, duel_share=1.0)
    policies.challenger = LoadedPolicy(2, ADAPTER)
    monkeypatch.setattr(client, "skip_logprob_detokenization", lambda *_: None)
    engine: Any = inner
    return RecordingEngine(engine, Recorder(log, print), "m", policies)


async def choices(engine: RecordingEngine, log: SqliteLog, **options: Any) -> dict[int, str]:
    """Ask for two answers; return the version and text of each choice as recorded."""
    token = request_context.set(RequestContext(f"c{len(log.read('completions', {}))}", "o", "", []))
    asked: Any = Params(**options)
    try:
        async for _ in engine.generate({"prompt_token_ids": [1]}, asked, "r"):
            pass
    finally:
        request_context.reset(token)
    record = CompletionRecord.FromString(log.read("completions", {})[-1].value)
    return {choice.index: choice.text for choice in record.choices}


async def test_each_choice_of_a_duel_comes_from_its_policy_in_any_order(
    engine: RecordingEngine, inner: Inner, log: SqliteLog
) -> None:
    pytest.importorskip("vllm")
    first: Counter[bool] = Counter()
    sides: Counter[str] = Counter()
    for _ in range(60):
        texts = await choices(engine, log)
        assert sorted(texts.values()) == ["live", "new"]
        sides[texts[0]] += 1
        first[inner.asked[-2] is ADAPTER] += 1
    assert min(first[True], first[False]) > 10, "the first to be asked answers first"
    assert min(sides["live"], sides["new"]) > 10


DETERMINISTIC: Any = [
    {"temperature": 0.0},
    {"temperature": 0.1},
    {"top_k": 1},
    {"top_p": 0.1},
    {"min_p": 0.99},
    {"seed": 7},
    {"logprobs": 0},
    {"prompt_logprobs": 1},
]


@pytest.mark.parametrize("options", DETERMINISTIC, ids=str)
async def test_answers_that_would_tell_their_policy_all_come_from_the_live_one(
    engine: RecordingEngine, log: SqliteLog, options: dict[str, Any]
) -> None:
    for _ in range(5):
        assert set((await choices(engine, log, **options)).values()) == {"live"}


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 20}])
def test_usual_sampling_may_duel(options: dict[str, Any]) -> None:
    assert is_blind(params(**options))
