"""What Plaudit relies on in vLLM, checked on the installed package: these fail on a new vLLM first.

No engine is started. tests/integration checks what the patches achieve in a running one.
"""

import asyncio
import inspect
import threading
import typing
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from fastapi import FastAPI

from serving.context import RequestContext, request_context
from serving.engine import vllm_patches
from serving.engine.arguments import engine_arguments
from serving.engine.client import RecordingEngine, salt_prompt
from serving.engine.passthrough import REFUSED, check_names, split_arguments
from serving.engine.worker import PolicyWorker
from serving.errors import ServingError
from serving.http.routes import ALLOWED_PATHS
from serving.policies.policy_table import PolicyTable
from serving.settings import ServingSettings


@pytest.fixture(autouse=True)
def _quiet_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("HF_HUB_OFFLINE", "1"),
        ("VLLM_NO_USAGE_STATS", "1"),
        ("VLLM_LOGGING_LEVEL", "WARNING"),
    ):
        monkeypatch.setenv(name, value)


def accepts(function: Callable[..., Any], *positional: Any, **named: Any) -> None:
    """Fail unless a function could be called with these arguments."""
    inspect.signature(function).bind(*positional, **named)


def test_lora_ranks_are_those_that_vllm_accepts() -> None:
    from vllm.config.lora import MaxLoRARanks

    assert typing.get_args(MaxLoRARanks) == vllm_patches.LORA_RANKS


@pytest.mark.parametrize("gpu", [False, True])
def test_vllm_s_parser_accepts_the_arguments(tmp_path: Any, gpu: bool) -> None:
    settings = ServingSettings(home=tmp_path, max_model_len=64, enforce_eager=True, lora_rank=8)
    args = vllm_patches.parse_arguments(engine_arguments(settings, tmp_path, gpu, 8))
    assert args.model == str(tmp_path)
    assert args.worker_extension_cls == "serving.engine.worker.PolicyWorker"
    assert args.logprobs_mode == "processed_logprobs"
    assert (args.enable_lora, args.max_lora_rank, args.max_loras) == (True, 8, 4)


@pytest.mark.parametrize(("domains", "allowed"), [((), False), (("example.org",), True)])
def test_no_url_is_fetched_unless_its_host_is_allowed(
    tmp_path: Any, domains: tuple[str, ...], allowed: bool
) -> None:
    from urllib3.util import parse_url
    from vllm.multimodal.media.connector import MediaConnector

    settings = ServingSettings(home=tmp_path, media_domains=domains)
    args = vllm_patches.parse_arguments(engine_arguments(settings, tmp_path, gpu=False))
    connector = MediaConnector(allowed_media_domains=args.allowed_media_domains)
    for url in ("http://example.org/cat.png", "http://127.0.0.1:1/cat.png"):
        refused = nullcontext()
        if not allowed or "127" in url:
            refused = pytest.raises(ValueError, match="allowed domains")
        with refused:
            connector._assert_url_in_allowed_media_domains(parse_url(url))


def test_a_prefix_is_shared_by_requests_of_one_owner_alone() -> None:
    from vllm.v1.engine import input_processor

    assert '.get("cache_salt")' in inspect.getsource(input_processor), "vLLM takes it elsewhere"
    prompt = {"prompt_token_ids": [1, 2]}
    ann, bob = (salt_prompt(prompt, owner) for owner in ("ann", "bob"))
    assert prompt == {"prompt_token_ids": [1, 2]}
    assert ann == salt_prompt(prompt, "ann") == {**prompt, "cache_salt": "ann "}
    assert ann["cache_salt"] != bob["cache_salt"]
    chosen = salt_prompt({**prompt, "cache_salt": "ann "}, "bob")
    assert chosen["cache_salt"] == "bob ann ", "a client cannot choose another owner's salt"


async def test_the_engine_gets_the_owner_s_salt_unless_prefixes_are_shared() -> None:
    from vllm.sampling_params import SamplingParams

    seen: list[Any] = []

    class Inner:
        async def generate(self, prompt: Any, *_: Any, **__: Any) -> Any:
            seen.append(prompt)
            for output in ():
                yield output

    context = RequestContext("c", "ann", "", None, recorded=False)
    for shares in (False, True):
        engine = RecordingEngine(
            cast(Any, Inner()), cast(Any, None), "m", PolicyTable(1, 0.5), share_prefixes=shares
        )
        token = request_context.set(context)
        async for _ in engine.generate({"prompt_token_ids": [1]}, SamplingParams(), "r"):
            pass
        request_context.reset(token)
    assert [prompt.get("cache_salt") for prompt in seen] == ["ann ", None]


def test_arguments_of_the_user_follow_and_win(tmp_path: Any) -> None:
    extra = split_arguments(
        "--tensor_parallel_size=2 --tool-call-parser hermes --enable-auto-tool-choice "
        "--max-num-seqs 7 --gpu-memory-utilization 0.8"
    )
    given = vllm_patches.parse_given(extra)
    check_names(vars(given))
    arguments = engine_arguments(ServingSettings(home=tmp_path), tmp_path, True, 0, given)
    assert "0.5" not in arguments, "two limits of the memory"
    args = vllm_patches.parse_arguments([*arguments, *extra])
    assert (args.tensor_parallel_size, args.distributed_executor_backend) == (2, "mp")
    assert (args.tool_call_parser, args.max_num_seqs) == ("hermes", 7)
    assert args.gpu_memory_utilization == 0.8


def test_the_model_and_the_device_decide_what_nobody_says(tmp_path: Any) -> None:
    unset = ServingSettings(home=tmp_path)
    cpu, gpu = (
        vllm_patches.parse_arguments(engine_arguments(unset, tmp_path, on_gpu))
        for on_gpu in (False, True)
    )
    assert (cpu.max_model_len, cpu.max_num_seqs) == (-1, 64)
    assert (gpu.max_model_len, gpu.max_num_seqs) == (-1, None)
    assert cpu.distributed_executor_backend == "uni"
    chosen = ServingSettings(home=tmp_path, max_model_len=64, max_num_seqs=3)
    args = vllm_patches.parse_arguments(engine_arguments(chosen, tmp_path, True))
    assert (args.max_model_len, args.max_num_seqs) == (64, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "unrecognized arguments: --nope"),
        (["--tensor-parallel-size", "two"], "invalid int value"),
    ],
)
def test_what_vllm_does_not_take_is_an_error_in_words(arguments: list[str], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        vllm_patches.parse_given(arguments)


def test_refused_arguments_are_refused_by_any_name(tmp_path: Any) -> None:
    """An abbreviation or a positional argument is no way around the refusal."""
    for arguments in (["other/model"], ["--logprobs-m", "raw_logprobs"], ["--load-f", "dummy"]):
        with pytest.raises(ServingError, match="is refused"):
            check_names(vars(vllm_patches.parse_given(arguments)))


def test_all_refused_arguments_exist() -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    actions = make_arg_parser(FlexibleArgumentParser())._actions
    assert REFUSED.keys() <= {action.dest.replace("_", "-") for action in actions}


def test_the_server_is_started_and_built_as_before() -> None:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
    from vllm.entrypoints.launchers.app import build_app
    from vllm.platforms import current_platform

    accepts(build_async_engine_client, "args")
    accepts(build_app, "args", ("generate",), "model_config")
    accepts(init_app_state, "engine", "state", "args", ("generate",))
    assert isinstance(current_platform.is_cpu(), bool)


def test_vllm_looks_at_a_class_through_the_name_that_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.model_executor.models import registry

    lazy = inspect.getsource(registry._LazyRegisteredModel.inspect_model_cls)
    assert "_run_in_subprocess(" in lazy
    monkeypatch.setattr(registry, "_run_in_subprocess", None)
    vllm_patches.import_once()
    assert registry._run_in_subprocess(lambda: 3) == 3


def test_vllm_s_app_has_the_allowed_routes_and_loses_the_others(tmp_path: Any) -> None:
    from vllm.entrypoints.launchers.app import build_app

    arguments = engine_arguments(ServingSettings(home=tmp_path), tmp_path, gpu=False)
    app = build_app(vllm_patches.parse_arguments(arguments), ("generate",), None)
    paths = {getattr(route, "path", None) for route in app.router.routes}
    assert paths >= ALLOWED_PATHS
    assert paths - ALLOWED_PATHS, "vLLM mounts nothing else any more: restrict_routes may go"
    vllm_patches.restrict_routes(app, ALLOWED_PATHS)
    assert {getattr(route, "path", None) for route in app.router.routes} == ALLOWED_PATHS


def test_handlers_take_their_fingerprint_from_the_patch() -> None:
    from vllm.entrypoints.generate import api_router
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

    app = FastAPI()
    source = inspect.getsource(api_router)
    for name, kind in (
        ("openai_serving_chat", OpenAIServingChat),
        ("openai_serving_completion", OpenAIServingCompletion),
    ):
        assert f"state.{name}" in source, "vLLM keeps its handlers elsewhere"
        assert "system_fingerprint=self.system_fingerprint" in inspect.getsource(kind)
        handler = object.__new__(kind)
        handler.system_fingerprint = "vllm-0"  # as its constructor sets it
        setattr(app.state, name, handler)
    current = "policy-v1"
    vllm_patches.patch_system_fingerprints(app, lambda: current)
    for kind in (OpenAIServingChat, OpenAIServingCompletion):
        handler = next(h for h in app.state._state.values() if isinstance(h, kind))
        current = "policy-v1"
        assert handler.system_fingerprint == "policy-v1"
        current = "policy-v2"
        assert handler.system_fingerprint == "policy-v2"


def app_with_chat_handler(rendered: Any) -> FastAPI:
    class Chat:
        async def render_chat_request(self, request: Any) -> Any:
            return rendered if request == "the request" else None

        def create_streaming_error_response(self, message: str, status_code: int = 400) -> str:
            return f"{message} {status_code}"

    app = FastAPI()
    app.state.openai_serving_chat = Chat()
    return app


async def test_conversations_are_noted_and_errors_are_not() -> None:
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat

    accepts(OpenAIServingChat.render_chat_request, "self", "request")
    noted: list[Any] = []
    for rendered in ((["message"], ["input"]), SimpleNamespace(error="no")):
        app = app_with_chat_handler(rendered)
        vllm_patches.patch_conversations(app, noted.append)
        handler = app.state.openai_serving_chat
        assert await handler.render_chat_request("the request") == rendered
    assert noted == [["message"]]


def test_errors_within_streams_are_reshaped() -> None:
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

    for handler in (OpenAIServingChat, OpenAIServingCompletion):
        accepts(handler.create_streaming_error_response, "self", "message")
    app = app_with_chat_handler(None)
    vllm_patches.patch_stream_errors(app, str.upper)
    create = app.state.openai_serving_chat.create_streaming_error_response
    assert create("no", status_code=404) == "NO 404"


def test_an_engine_error_is_reported_unchanged() -> None:
    """vLLM's handler reads the server from the app's state, and fails without it."""
    from vllm.entrypoints.serve.exception_handling.handlers import vllm_error

    assert "app.state.server" in inspect.getsource(vllm_error)
    app = FastAPI()
    vllm_patches.set_server(app, "server")
    assert app.state.server == "server"


def test_several_greedy_choices_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import SamplingParams

    monkeypatch.setattr(
        SamplingParams, "_verify_greedy_sampling", SamplingParams._verify_greedy_sampling
    )
    with pytest.raises(VLLMValidationError, match="greedy"):
        SamplingParams(n=2, temperature=0)
    vllm_patches.allow_greedy_choices()
    assert SamplingParams(n=2, temperature=0).clone().n == 2


def constraint_of(schema: dict[str, Any]) -> tuple[Any, Any]:
    """Return a stand-in for the engine, and sampling parameters with a schema."""
    from vllm.config import StructuredOutputsConfig
    from vllm.sampling_params import SamplingParams, StructuredOutputsParams

    engine = SimpleNamespace(
        model_config=SimpleNamespace(is_diffusion=False),
        vllm_config=SimpleNamespace(structured_outputs_config=StructuredOutputsConfig()),
        input_processor=SimpleNamespace(tokenizer=object()),
    )
    return engine, SamplingParams(structured_outputs=StructuredOutputsParams(json=schema))


@pytest.fixture
def _checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.sampling_params import SamplingParams

    original = SamplingParams._validate_structured_outputs
    monkeypatch.setattr(SamplingParams, "_validate_structured_outputs", original)
    vllm_patches.check_constraints_once()


@pytest.mark.usefixtures("_checked_once")
async def test_a_constraint_is_checked_in_a_thread_and_only_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.v1.structured_output import backend_xgrammar

    threads: list[str] = []
    check = backend_xgrammar.validate_xgrammar_grammar

    def checked(params: Any) -> None:
        threads.append(threading.current_thread().name)
        check(params)

    monkeypatch.setattr(backend_xgrammar, "validate_xgrammar_grammar", checked)
    engine, params = constraint_of({"type": "string"})

    async def request() -> None:  # each in a task, as the server has it
        await vllm_patches.check_constraint(engine, params)
        config = engine.vllm_config.structured_outputs_config
        params.clone()._validate_structured_outputs(engine.model_config, config, object())

    await asyncio.create_task(request())
    await asyncio.create_task(request())
    assert len(threads) == 2
    assert all(name.startswith("plaudit-constraints") for name in threads)
    assert params.structured_outputs._backend == "xgrammar"


@pytest.mark.usefixtures("_checked_once")
async def test_a_constraint_has_a_deadline_and_the_loop_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.structured_output import backend_xgrammar

    released = threading.Event()
    monkeypatch.setattr(backend_xgrammar, "validate_xgrammar_grammar", lambda _: released.wait(10))
    monkeypatch.setattr(vllm_patches, "CONSTRAINT_SECONDS", 0.2)
    engine, params = constraint_of({"type": "string"})
    checking = asyncio.create_task(vllm_patches.check_constraint(engine, params))
    ticks = 0
    while not checking.done():
        ticks += 1
        await asyncio.sleep(0.01)
    released.set()
    assert ticks > 1
    with pytest.raises(VLLMValidationError, match=r"within 0\.2 s: send a simpler"):
        await checking


async def test_an_invalid_constraint_is_refused() -> None:
    from vllm.exceptions import VLLMValidationError

    engine, params = constraint_of({"type": "nothing"})
    with pytest.raises(VLLMValidationError):
        await vllm_patches.check_constraint(engine, params)


def test_tokens_of_logprobs_stay_undecoded_from_the_patch_on() -> None:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.logprobs import LogprobsProcessor
    from vllm.v1.engine.output_processor import OutputProcessor

    assert "self.output_processor = OutputProcessor(" in inspect.getsource(AsyncLLM.__init__)
    outputs = OutputProcessor(None, log_stats=False)
    for number in range(2):
        request = EngineCoreRequest(
            request_id=f"internal-{number}",
            external_req_id="cmpl-1",
            prompt_token_ids=[1, 2],
            mm_features=None,
            sampling_params=SamplingParams(logprobs=0, detokenize=False),
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        outputs.add_request(request, None)
    states = [outputs.request_states[f"internal-{number}"] for number in range(2)]
    for state in states:
        state.logprobs_processor.tokenizer = object()
    engine = SimpleNamespace(output_processor=outputs)
    vllm_patches.skip_logprob_detokenization(engine, "another")
    assert all(state.logprobs_processor.tokenizer is not None for state in states)
    vllm_patches.skip_logprob_detokenization(engine, "cmpl-1")
    assert all(state.logprobs_processor.tokenizer is None for state in states)
    source = inspect.getsource(LogprobsProcessor)
    assert "if self.tokenizer is None" in source, "vLLM decodes although there is no tokenizer"


def test_workers_reload_weights_from_a_path_and_take_the_extension() -> None:
    from vllm.v1.worker.cpu_worker import CPUWorker
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner
    from vllm.v1.worker.gpu_worker import Worker
    from vllm.v1.worker.worker_base import WorkerBase

    for worker in (Worker, CPUWorker):
        accepts(worker.reload_weights, "self", weights_path="folder")
        accepts(worker.add_lora, "self", "request")
        accepts(worker.list_loras, "self")
        for name in set(dir(PolicyWorker)) - set(dir(object)):
            assert not hasattr(worker, name) or name.startswith("__"), name
        assert "self.rank" in inspect.getsource(WorkerBase.__init__)
    accepts(GPUModelRunner.reload_weights, "self", weights_path="folder")
    accepts(GPUModelRunner.get_model, "self")


def test_output_heads_are_packed_again_after_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.layers import vocab_parallel_embedding as embeddings

    packed: list[torch.nn.Module] = []
    method = embeddings.UnquantizedEmbeddingMethod
    accepts(method.process_weights_after_loading, "self", "layer")
    monkeypatch.setattr(
        method, "process_weights_after_loading", lambda _, layer: packed.append(layer)
    )
    head = embeddings.ParallelLMHead.__new__(embeddings.ParallelLMHead)
    torch.nn.Module.__init__(head)
    head.quant_method = method()
    assert "self.quant_method" in inspect.getsource(embeddings.VocabParallelEmbedding.__init__)

    class Worker(PolicyWorker):
        def __init__(self) -> None:
            self.model = torch.nn.Sequential(torch.nn.Linear(2, 2), head)
            self.model_runner = SimpleNamespace(get_model=lambda: self.model)
            self.paths: list[str] = []

        def reload_weights(self, weights_path: str) -> None:
            self.paths.append(weights_path)

    worker = Worker()
    assert worker.reload_policy("folder", "3") == "3"
    assert worker.paths == ["folder"]
    assert packed == [head]


def test_the_engine_client_has_the_methods_that_swapping_calls() -> None:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    accepts(AsyncLLM.generate, "self", "prompt", "params", "id", lora_request=None)
    accepts(AsyncLLM.pause_generation, "self", mode="keep", clear_cache=True)
    accepts(AsyncLLM.resume_generation, "self")
    accepts(AsyncLLM.collective_rpc, "self", "reload_policy", kwargs={"weights_path": "folder"})
    accepts(AsyncLLM.update_weight_version, "self", "1")
    accepts(AsyncLLM.get_weight_version, "self")
    accepts(AsyncLLM.remove_lora, "self", 1)
    assert isinstance(AsyncLLM.errored, property)
    request = LoRARequest("policy-v2-1", 1, "folder")
    assert (request.lora_int_id, request.lora_path) == (1, "folder")


def test_outputs_have_what_records_are_made_of() -> None:
    from vllm.outputs import CompletionOutput, RequestOutput, WeightVersionSpan
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    fields = inspect.signature(CompletionOutput).parameters
    assert {"index", "text", "token_ids", "logprobs", "finish_reason", "weight_versions"} <= set(
        fields
    )
    assert {"version", "start", "end"} <= set(inspect.signature(WeightVersionSpan).parameters)
    assert {"prompt", "prompt_token_ids", "outputs", "finished"} <= set(
        inspect.signature(RequestOutput).parameters
    )
    params = SamplingParams(n=2, seed=1).clone()
    assert (params.n, params.seed, params.logprobs) == (2, 1, None)
    assert params.output_kind != RequestOutputKind.FINAL_ONLY
