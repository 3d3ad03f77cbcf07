"""Everything that relies on vLLM's internals, so that a new vLLM has one module to break.

tests/unit/serving/engine/test_vllm_patches.py checks, on the installed vLLM, every name and
signature that these functions use. vLLM is imported inside them: importing it takes seconds.
"""

import asyncio
import importlib
from argparse import SUPPRESS, Namespace
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NoReturn

from fastapi import FastAPI

from serving.engine.forking import EngineContext, can_fork, start_fork_server
from serving.errors import ServingError

if TYPE_CHECKING:
    import torch
    from vllm.engine.protocol import EngineClient

# The ranks that vLLM 0.32 accepts as `--max-lora-rank` (`vllm.config.lora.MaxLoRARanks`).
LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)

CONSTRAINT_SECONDS: Final = 3.0
# Few, so that constraints take no more of the processor; others wait, within their deadline.
_constraint_threads: Final = ThreadPoolExecutor(2, thread_name_prefix="plaudit-constraints")
_constraint_checked: Final = ContextVar("constraint_checked", default=False)

# The handlers in the app's state that answer chats and completions.
_HANDLERS: Final = ("openai_serving_chat", "openai_serving_completion")


def runs_on_gpu() -> bool:
    """Return whether vLLM uses a GPU on this machine."""
    from vllm.platforms import current_platform

    return not current_platform.is_cpu()


def parse_arguments(arguments: list[str]) -> Namespace:
    """Parse the command line of vLLM's server as that server does."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    validate_parsed_serve_args(args)
    return args


def import_once() -> None:
    """Make vLLM look at a model's class in this process; on a CPU, before the engine starts.

    vLLM 0.32 does so in a process of its own, for the sake of CUDA, and imports everything again.
    """
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = lambda function: function()


def fork_engine() -> None:
    """Import vLLM, and make it fork its engine; on a CPU, before anything else is done.

    A GPU's driver must not be forked, and vLLM knows when it may be.
    """
    if runs_on_gpu():
        return
    from vllm.v1.engine import utils

    importlib.import_module("vllm.v1.engine.core")
    import_once()
    start_fork_server("vllm.v1.worker.cpu_worker", "serving.engine.worker")
    default = utils.get_mp_context
    utils.get_mp_context = lambda: EngineContext() if can_fork() else default()


def parse_given(arguments: list[str]) -> Namespace:
    """Parse arguments of a user by themselves: only what they name is in the result.

    Raises:
        ServingError: vLLM knows no such argument, or refuses a value.

    """
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    def fail(message: str) -> NoReturn:
        raise ServingError(
            f"vLLM does not take these arguments: {message}; 'vllm serve --help=all' lists them"
        )

    parser = make_arg_parser(FlexibleArgumentParser())
    parser.error = fail
    for action in parser._actions:
        action.default = SUPPRESS
    parser._defaults.clear()
    given: Namespace = parser.parse_args(arguments)
    return given


@asynccontextmanager
async def run_engine(args: Namespace) -> "AsyncIterator[EngineClient]":
    """Start an engine as vLLM's server does, and stop it at the end."""
    from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client

    async with build_async_engine_client(args) as engine:
        yield engine


async def build_server_app(args: Namespace, engine: Any) -> FastAPI:
    """Return the app of vLLM's OpenAI server around an engine client."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    tasks = await engine.get_supported_tasks()
    app: FastAPI = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    return app


def prompt_length(prompt: Any) -> int:
    """Return the number of tokens of a prompt as vLLM's server passes it to the engine."""
    tokens = prompt.get("prompt_token_ids") if isinstance(prompt, Mapping) else None
    return len(tokens or ())


def restrict_routes(app: FastAPI, allowed: Iterable[str]) -> None:
    """Remove every route of `app` whose path is not in `allowed`."""
    paths = frozenset(allowed)
    app.router.routes[:] = [r for r in app.router.routes if getattr(r, "path", None) in paths]


def set_server(app: FastAPI, server: Any) -> None:
    """Tell vLLM's app its uvicorn server, which its handler of engine errors stops if need be."""
    app.state.server = server


def patch_system_fingerprints(app: FastAPI, fingerprint: Callable[[], str]) -> None:
    """Make the handlers of vLLM's app send `fingerprint()` as the `system_fingerprint`."""
    for name in _HANDLERS:
        if (handler := getattr(app.state, name, None)) is not None:
            patch_system_fingerprint(handler, fingerprint)


def patch_system_fingerprint(handler: Any, fingerprint: Callable[[], str]) -> None:
    """Make one handler compute its `system_fingerprint` whenever it is read.

    vLLM reads the attribute as it builds the last chunk, and sets it once, for all answers. Here
    old and new versions answer side by side. The handler gets a subclass with a property.
    """
    _override(handler, system_fingerprint=property(lambda _: fingerprint()))


def patch_conversations(app: FastAPI, note: Callable[[list[Any]], None]) -> None:
    """Call `note` with the messages of each chat as vLLM has read them, before it answers."""
    responses = getattr(app.state, "openai_serving_responses", None)
    if responses is not None:
        _note_preprocessed(responses.online_renderer, note)
    handler = getattr(app.state, "openai_serving_chat", None)
    if handler is None:
        return
    render = type(handler).render_chat_request

    async def render_chat_request(self: Any, request: Any) -> Any:
        rendered = await render(self, request)
        if isinstance(rendered, tuple):  # else an error
            note(rendered[0])
        return rendered

    _override(handler, render_chat_request=render_chat_request)


def _note_preprocessed(renderer: Any, note: Callable[[list[Any]], None]) -> None:
    preprocess = type(renderer).preprocess_chat

    async def preprocess_chat(self: Any, *args: Any, **kwargs: Any) -> Any:
        preprocessed = await preprocess(self, *args, **kwargs)
        note(preprocessed[0])
        return preprocessed

    _override(renderer, preprocess_chat=preprocess_chat)


def patch_stream_errors(app: FastAPI, reshape: Callable[[str], str]) -> None:
    """Pass every error within a stream, which is JSON text, through `reshape`."""
    for name in _HANDLERS:
        if (handler := getattr(app.state, name, None)) is not None:
            _reshape_stream_errors(handler, reshape)


def _reshape_stream_errors(handler: Any, reshape: Callable[[str], str]) -> None:
    create = type(handler).create_streaming_error_response

    def create_streaming_error_response(self: Any, *args: Any, **kwargs: Any) -> str:
        return reshape(create(self, *args, **kwargs))

    _override(handler, create_streaming_error_response=create_streaming_error_response)


def _override(handler: Any, **members: Any) -> None:
    """Replace the class of an object by a subclass with these members."""
    original = type(handler)
    handler.__class__ = type(original.__name__, (original,), members)


def allow_greedy_choices() -> None:
    """Accept several choices at temperature 0, as OpenAI does; vLLM 0.32 refuses them."""
    from vllm.sampling_params import SamplingParams

    SamplingParams._verify_greedy_sampling = lambda _: None


def check_constraints_once() -> None:
    """Make vLLM leave out its check of a constraint where `check_constraint` has made it."""
    from vllm.sampling_params import SamplingParams

    check = SamplingParams._validate_structured_outputs

    def check_unless_done(self: Any, *args: Any) -> None:
        if not _constraint_checked.get():
            check(self, *args)

    SamplingParams._validate_structured_outputs = check_unless_done


async def check_constraint(engine: Any, params: Any) -> None:
    """Check a request's schema, regular expression or grammar in a thread, with a deadline.

    vLLM 0.32 does so on the event loop, where every other stream waits for it.

    Raises:
        VLLMValidationError: The constraint is invalid, or took too long to check.

    """
    from vllm.exceptions import VLLMValidationError

    config = engine.vllm_config.structured_outputs_config
    check = asyncio.get_running_loop().run_in_executor(
        _constraint_threads,
        params._validate_structured_outputs,
        engine.model_config,
        config,
        engine.input_processor.tokenizer,
    )
    try:
        await asyncio.wait_for(asyncio.shield(check), CONSTRAINT_SECONDS)
    except TimeoutError as error:
        check.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise VLLMValidationError(
            f"The constraint could not be checked within {CONSTRAINT_SECONDS:g} s: send a simpler "
            "schema, regular expression or grammar."
        ) from error
    _constraint_checked.set(True)


def skip_logprob_detokenization(engine: Any, request_id: str) -> None:
    """Stop vLLM from decoding the token beside each log-probability of a running request.

    Nobody reads that text, and it is work for every token of every stream. vLLM 0.32 has no
    option for it.
    """
    outputs = engine.output_processor
    for internal_id in outputs.external_req_ids.get(request_id, ()):
        outputs.request_states[internal_id].logprobs_processor.tokenizer = None


def reload_worker_weights(worker: Any, weights_path: str) -> None:
    """Load the weights of another checkpoint into a worker, in place, with its output head.

    On a CPU vLLM 0.32 computes with packed copies of the weights, and a reload packs again what
    it loads. An output head tied to the embedding is not loaded itself, so its copy would stay
    that of the previous policy. On a GPU nothing is packed, and packing again does nothing.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    worker.reload_weights(weights_path=weights_path)
    model: torch.nn.Module = worker.model_runner.get_model()
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def load_worker_adapter(worker: Any, name: str, number: int, path: str) -> None:
    """Load an adapter into a worker.

    Raises:
        ServingError: The worker does not list it afterwards.

    """
    from vllm.lora.request import LoRARequest

    worker.add_lora(LoRARequest(name, number, path))
    if number not in worker.list_loras():
        raise ServingError("the worker does not list the adapter")


def workers_of(engine: Any) -> int:
    """Return the number of workers that an engine's model is split over."""
    return int(engine.vllm_config.parallel_config.world_size)
