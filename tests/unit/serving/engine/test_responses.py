"""vLLM's own handler of /v1/responses around a stand-in for its engine: ids, records and votes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from feedback.log.sqlite_log import SqliteLog
from feedback.privacy.identity import LOCAL_OWNER, check, load_or_create_secret
from protos.plaudit.v1.completion_pb2 import CompletionRecord
from serving.app import _note_conversation
from serving.engine import client, vllm_patches
from serving.engine.arguments import engine_arguments
from serving.engine.client import RecordingEngine
from serving.engine.recorder import Recorder
from serving.http.routes import ALLOWED_PATHS
from serving.policies.policy_table import PolicyTable
from serving.settings import ServingSettings
from tests.support.door import door
from tests.support.models import tiny_chat_model

ANSWER = "Hello there"
PARTS = [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}]


class Engine:
    """Answers every prompt with the same text, token by token if the request is streamed."""

    def __init__(self, config: Any) -> None:
        from vllm.renderers import renderer_from_config
        from vllm.v1.engine.input_processor import InputProcessor

        self.vllm_config, self.model_config = config, config.model_config
        self.renderer = renderer_from_config(config)
        self.input_processor = InputProcessor(config, self.renderer)
        self.errored = False

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    async def is_tracing_enabled(self) -> bool:
        return False

    def check_admission(self, _: int) -> None:
        pass

    async def generate(self, prompt: Any, params: Any, request_id: str, **_: Any) -> Any:
        from vllm.sampling_params import RequestOutputKind

        ids = self.renderer.tokenizer.encode(ANSWER, add_special_tokens=False)
        whole = params.output_kind == RequestOutputKind.FINAL_ONLY
        for number in [len(ids) - 1] if whole else range(len(ids)):
            sent = ids if whole else ids[number : number + 1]
            yield self._output(prompt, request_id, sent, number == len(ids) - 1)

    def _output(self, prompt: Any, request_id: str, ids: list[int], last: bool) -> Any:
        from vllm.outputs import CompletionOutput, RequestOutput

        choice = CompletionOutput(
            index=0,
            text=self.renderer.tokenizer.decode(ids),
            token_ids=ids,
            cumulative_logprob=-1.0,
            logprobs=cast(Any, [{token: SimpleNamespace(logprob=-0.5)} for token in ids]),
            finish_reason="stop" if last else None,
        )
        return RequestOutput(
            request_id=request_id,
            prompt=None,
            prompt_token_ids=prompt["prompt_token_ids"],
            prompt_logprobs=None,
            outputs=[choice],
            finished=last,
        )


@pytest.fixture
async def http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of vLLM's app, as Plaudit changes it, behind the middleware."""
    for name, value in (("HF_HUB_OFFLINE", "1"), ("VLLM_NO_USAGE_STATS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "skip_logprob_detokenization", lambda *_: None)
    from vllm.engine.arg_utils import AsyncEngineArgs

    model = tiny_chat_model(tmp_path / "model", 1)
    settings = ServingSettings(home=tmp_path, max_model_len=256)
    args = vllm_patches.parse_arguments(engine_arguments(settings, model, gpu=False))
    inner = Engine(AsyncEngineArgs.from_cli_args(args).create_engine_config())
    log = SqliteLog(tmp_path / "log.db")
    recorder = Recorder(log, lambda *_: None)
    engine = RecordingEngine(cast(Any, inner), recorder, "plaudit", PolicyTable(1, 0.5))
    app = await vllm_patches.build_server_app(args, engine)
    vllm_patches.restrict_routes(app, ALLOWED_PATHS)
    vllm_patches.patch_conversations(app, _note_conversation)
    async with door(tmp_path, app) as opened:
        yield opened
    log.close()


def read_records(home: Path) -> dict[str, CompletionRecord]:
    log = SqliteLog(home / "log.db")
    records = [CompletionRecord.FromString(r.value) for r in log.read("completions", {})]
    log.close()
    return {record.completion_id: record for record in records}


async def test_responses_are_recorded_as_vllm_read_them(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    body = {
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": PARTS}],
        "user": "ann",
        "request_id": "resp_mine",
    }
    whole = (await http.post("/v1/responses", json=body)).json()
    assert whole["output"][0]["content"][0]["text"] == ANSWER
    streamed = await http.post("/v1/responses", json={"input": "Hello", "stream": True})
    data = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: ")]
    last = json.loads(data[-1])
    assert last["type"] == "response.completed"
    records = read_records(tmp_path)
    assert list(records) == [whole["id"], last["response"]["id"]]
    asked = [[(m.role, m.content) for m in record.messages] for record in records.values()]
    assert asked == [[("system", "Be brief."), ("user", "one\ntwo")], [("user", "Hello")]]
    assert [bool(record.subject) for record in records.values()] == [True, False]
    secret = load_or_create_secret(tmp_path / "secret.json")
    for answer in (whole, last["response"]):
        record = records[answer["id"]]
        assert [choice.text for choice in record.choices] == [ANSWER]
        assert len(record.choices[0].token_ids) == answer["usage"]["output_tokens"]
        assert len(record.prompt_token_ids) == answer["usage"]["input_tokens"]
        assert check(secret, answer["id"], LOCAL_OWNER).choices == 1


async def test_stored_responses_are_not_served(http: httpx.AsyncClient, tmp_path: Path) -> None:
    body = {"input": "Hello", "previous_response_id": "resp_x"}
    response = await http.post("/v1/responses", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    assert read_records(tmp_path) == {}
