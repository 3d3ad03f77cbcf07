"""Serving without an engine: staging, records, the middleware, the tasks of a replica."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from feedback.control.keys import KeyRing
from feedback.control.policies import PolicyState
from feedback.disk import DiskReserve
from feedback.log.event_log import LogUnavailable, NewRecord, Topic
from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import Secret, check, load_or_create_secret, owner_of
from feedback.registry import open_registry
from protos.checkpoints.folder_registry import FolderRegistry
from protos.checkpoints.registry import CheckpointInvalid
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from protos.plaudit.v1.policy_pb2 import KeyMade
from serving.app import _cancel_tasks, _stop_on_failure, starting_version
from serving.context import RequestContext, request_context
from serving.engine.recorder import CompletionRecordBuilder, Recorder, message_texts
from serving.errors import CheckpointIncompatible, RecordingFailed, ServingError
from serving.http.access import Access
from serving.http.middleware import CompletionMiddleware
from serving.http.usage import Usage, usage_file
from serving.policies.staging import StagedCheckpoint, stage, tensor_shapes
from tests.support import tool_chats
from tests.support.models import tiny_chat_model
from tests.support.outputs import output, output_choice, params


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return load_or_create_secret(tmp_path / "secret.json")


def published(registry: FolderRegistry, version: int, hidden_size: int = 64) -> None:
    folder = tiny_chat_model(registry.root / f"m{version}", version, hidden_size)
    registry.publish(folder, version=version, parent=version - 1, base="tiny")


def test_staging_accepts_the_same_shapes_and_refuses_others(tmp_path: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    published(registry, 1)
    published(registry, 2)
    published(registry, 3, hidden_size=96)
    live = registry.path(1)
    assert stage(registry, 2, live) == StagedCheckpoint(2, 2, registry.path(2), None)
    assert tensor_shapes(live)["model.embed_tokens.weight"][1] == 64
    with pytest.raises(CheckpointIncompatible, match="tensors differ"):
        stage(registry, 3, live)
    with pytest.raises(CheckpointInvalid):
        stage(registry, 4, live)


def test_staging_refuses_another_configuration(tmp_path: Path) -> None:
    registry = FolderRegistry(tmp_path / "registry")
    published(registry, 1)
    folder = tiny_chat_model(tmp_path / "m2", 2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    registry.publish(folder, version=2, parent=1, base="tiny")
    with pytest.raises(CheckpointIncompatible, match="rms_norm_eps"):
        stage(registry, 2, registry.path(1))


def test_a_start_without_a_version_that_can_be_served_says_why(tmp_path: Path) -> None:
    registry, live = open_registry(tmp_path), PolicyState(published=(1, 2), live=2)
    with pytest.raises(ServingError, match="no policy is published"):
        starting_version(registry, PolicyState())
    for version in (1, 2):
        published(FolderRegistry(tmp_path / "registry"), version)
    with pytest.raises(ServingError, match=r"version 2: its manifest is not signed.*policies sign"):
        starting_version(registry, live)
    registry.sign(1)
    assert starting_version(registry, live) == 1


def test_an_answer_is_put_together_from_its_deltas() -> None:
    context = RequestContext("chatcmpl-1", "local", "", [("user", "hi")])
    answer = CompletionRecordBuilder(context, params(), "plaudit")
    answer.add_output(output(False, output_choice(0, "a", [1]), prompt_token_ids=[7, 8]), 3)
    answer.add_output(output(False, output_choice(1, "x", [2]), output_choice(0, "b", [3])), 3)
    span = (
        SimpleNamespace(version="3", start=0, end=1),
        SimpleNamespace(version="4", start=1, end=3),
    )
    answer.add_output(
        output(True, output_choice(0, "c", [4], "stop", span), output_choice(1, "", [], "length")),
        4,
    )
    record = answer.finish(aborted=False)
    first, second = record.choices
    assert (first.text, list(first.token_ids), first.finish_reason) == ("abc", [1, 3, 4], "stop")
    assert [(s.policy_version, s.start, s.end) for s in first.versions] == [(3, 0, 1), (4, 1, 3)]
    assert list(first.log_probs) == [-0.5] * 3
    assert (second.text, second.finish_reason) == ("x", "length")
    assert list(record.prompt_token_ids) == [7, 8]


def test_an_aborted_answer_keeps_what_was_sent() -> None:
    answer = CompletionRecordBuilder(
        RequestContext("chatcmpl-1", "local", "", []), params(), "plaudit"
    )
    answer.add_output(output(False, output_choice(0, "a", [1])), 3)
    answer.add_output(output(False, output_choice(0, "b", [2])), 4)
    record = answer.finish(aborted=True)
    assert [c.finish_reason for c in record.choices] == ["abort", "abort"]
    spans = [(s.policy_version, s.start, s.end) for s in record.choices[0].versions]
    assert spans == [(3, 0, 1), (4, 1, 2)]


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": 0.0},
        {"top_p": 0.9},
        {"top_k": 5},
        {"min_p": 0.1},
        {"presence_penalty": 1.0},
        {"frequency_penalty": 1.0},
        {"repetition_penalty": 1.1},
        {"logit_bias": {1: 2.0}},
        {"min_tokens": 2},
    ],
)
def test_filters_and_penalties_rule_out_off_policy_use(option: dict[str, Any]) -> None:
    context = RequestContext("chatcmpl-1", "local", "", [])
    assert (
        CompletionRecordBuilder(context, params(), "m")
        .finish(aborted=False)
        .sampling.off_policy_usable
    )
    assert (
        not CompletionRecordBuilder(context, params(**option), "m")
        .finish(aborted=False)
        .sampling.off_policy_usable
    )


def test_a_parameter_that_the_record_cannot_hold_is_refused_before_any_work() -> None:
    context = RequestContext("chatcmpl-1", "local", "", [])
    with pytest.raises(ValueError, match="out of range"):
        CompletionRecordBuilder(context, params(top_k=2**31), "m")


def test_messages_are_recorded_as_vllm_reads_them() -> None:
    conversation: list[dict[str, Any]] = [
        {"role": "system", "content": "Be\nbrief."},
        {"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "image"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "user"},
    ]
    assert message_texts(conversation) == [
        ("system", "Be\nbrief."),
        ("user", "What is"),
        ("assistant", ""),
        ("user", ""),
    ]


def ring(*tokens: str) -> KeyRing:
    found = KeyRing()
    for token in tokens:
        made = KeyMade(id=f"key-{token}", name=token, role="user")
        made.digest = hashlib.sha256(token.encode()).digest()
        found = found.add_key(made, 0)
    return found


def client(secret: Secret, home: Path, *tokens: str, ready: bool = True) -> httpx.AsyncClient:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any]) -> dict[str, Any]:
        context = request_context.get()
        assert context is not None
        return {
            "id": context.completion_id,
            "owner": context.owner,
            "subject": context.subject,
            "messages": context.messages,
            "multimodal": context.multimodal,
            "sent": context.sent,
            "template_json": context.template_json,
        }

    keys = ring(*tokens)
    wrapped = CompletionMiddleware(
        app,
        secret=secret,
        access=Access(secret, lambda: keys, Usage(usage_file(home))),
        max_body_bytes=2048,
        live_version=lambda: 5,
        ready=lambda: ready,
    )
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(wrapped),
        base_url="http://127.0.0.1:8000",
        headers={"Content-Type": "application/json"},
    )


async def test_ids_certify_owner_choices_and_version(secret: Secret, tmp_path: Path) -> None:
    async with client(secret, tmp_path, "key-a", "key-b") as http:
        body = {"messages": [{"role": "user", "content": "hi"}], "n": 3, "user": "anna"}
        headers = {"Authorization": "Bearer key-b", "X-Request-Id": "mine"}
        response = await http.post("/v1/chat/completions", json=body, headers=headers)
        answer = response.json()
    assert answer["owner"] == owner_of(secret, "key-b")
    claims = check(secret, answer["id"], answer["owner"])
    assert (claims.choices, claims.policy_version) == (3, 5)
    assert answer["messages"] == [["user", "hi"]]


async def test_content_parts_are_reduced_to_text(secret: Secret, tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "look "}, {"type": "image_url", "image_url": {"url": "x"}}]
    async with client(secret, tmp_path) as http:
        body = {"messages": [{"role": "user", "content": parts}]}
        answer = (await http.post("/v1/chat/completions", json=body)).json()
    assert answer["messages"] == [["user", "look "]]
    assert answer["multimodal"]
    assert answer["sent"] == [], "images are not recorded"


async def test_tool_calls_reach_the_record_whole(secret: Secret, tmp_path: Path) -> None:
    body = {"messages": tool_chats.MESSAGES, "tools": tool_chats.TOOLS, "temperature": 0.5}
    async with client(secret, tmp_path) as http:
        answer = (await http.post("/v1/chat/completions", json=body)).json()
    assert answer["messages"][2:4] == [["assistant", ""], ["tool", "12:05"]]
    assert answer["sent"] == tool_chats.MESSAGES
    assert json.loads(answer["template_json"]) == {"tools": tool_chats.TOOLS}


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{", {}, 400, "invalid_json"),
        (b"[]", {}, 400, "invalid_json"),
        (b" " * 4096, {}, 413, "too_large"),
        (b"{}", {"Authorization": "Bearer wrong"}, 401, "invalid_api_key"),
        (b'{"n": true}', {}, 400, "invalid_n"),
    ],
)
async def test_refusals_have_openais_shape(
    secret: Secret,
    tmp_path: Path,
    content: bytes,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    async with client(secret, tmp_path, "right") as http:
        headers = {"Authorization": "Bearer right"} | headers
        response = await http.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code


async def test_nothing_is_served_without_a_policy(secret: Secret, tmp_path: Path) -> None:
    async with client(secret, tmp_path, ready=False) as http:
        response = await http.post("/v1/chat/completions", json={"messages": []})
    assert response.status_code == 503
    assert response.headers["Retry-After"]


class AwayLog(SqliteLog):
    """A log that takes nothing."""

    def append(self, topic: Topic, records: Sequence[NewRecord]) -> None:
        raise LogUnavailable("it is away")


async def test_an_answer_without_a_record_is_reported_and_fails_only_if_strict(
    tmp_path: Path,
) -> None:
    log, reported = AwayLog(tmp_path / "log.db"), list[str]()
    record = CompletionRecord(completion_id="c1")
    await Recorder(log, reported.append).write(record)
    strict = Recorder(log, reported.append, strict=True)
    with pytest.raises(RecordingFailed, match="try again"):
        await strict.write(record)
    strict.write_shielded(record)
    await strict.drain()
    assert reported == ["completion c1 was not recorded: it is away"] * 3
    log.close()


async def test_while_the_disk_is_almost_full_answers_go_out_unrecorded_with_one_message(
    tmp_path: Path,
) -> None:
    log, reported = SqliteLog(tmp_path / "log.db"), list[str]()
    everything = shutil.disk_usage(tmp_path).total + 1
    recorder = Recorder(log, reported.append, reserve=DiskReserve(tmp_path, everything))
    for number in range(3):
        await recorder.write(CompletionRecord(completion_id=f"c{number}"))
    assert log.count("completions") == 0
    assert len(reported) == 1
    assert "less than the reserve" in reported[0]
    roomy = Recorder(log, reported.append, reserve=DiskReserve(tmp_path, 1))
    await roomy.write(CompletionRecord(completion_id="c3"))
    assert (log.count("completions"), len(reported)) == (1, 1)
    log.close()


async def test_a_replica_stops_where_one_of_its_tasks_fails_and_says_which() -> None:
    server = SimpleNamespace(should_exit=False)

    async def ends(error: Exception | None) -> None:
        if error is not None:
            raise error

    tasks = []
    for error in (None, asyncio.CancelledError(), OSError("no space")):
        assert not server.should_exit
        tasks.append(asyncio.create_task(ends(error), name="policies"))
        tasks[-1].add_done_callback(_stop_on_failure(server))
        await asyncio.wait(tasks)
        await asyncio.sleep(0)
    assert server.should_exit
    await _cancel_tasks(tasks[:2])
    with pytest.raises(ServingError, match="'policies' has failed: no space"):
        await _cancel_tasks(tasks)


async def test_tasks_that_run_on_are_ended() -> None:
    tasks = [asyncio.create_task(asyncio.sleep(60)) for _ in range(2)]
    await _cancel_tasks(tasks)
    assert all(task.cancelled() for task in tasks)
