"""Everything that relies on vLLM's internals, so that a new vLLM has one module to break.

tests/unit/serving/engine/test_vllm_patches.py checks, on the installed vLLM, every name and
signature that these functions use. vLLM is imported inside them: importing it takes seconds.
"""

from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI

if TYPE_CHECKING:
    import torch
    from vllm.engine.protocol import EngineClient

# The ranks that vLLM 0.32 accepts as `--max-lora-rank` (`vllm.config.lora.MaxLoRARanks`).
LORA_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)

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


def restrict_routes(app: FastAPI, allowed: Iterable[str]) -> None:
    """Remove every route of `app` whose path is not in `allowed`."""
    paths = frozenset(allowed)
    app.router.routes[:] = [r for r in app.router.routes if getattr(r, "path", None) in paths]


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
    original = type(handler)
    members = {"system_fingerprint": property(lambda _: fingerprint())}
    handler.__class__ = type(original.__name__, (original,), members)


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
