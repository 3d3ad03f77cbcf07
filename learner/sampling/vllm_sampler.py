"""Sample answers with a vLLM engine in this process, whose weights are replaced in place.

One engine serves all policies of a family. Before each call it copies the weights of the policy in
memory and drops its prefix cache; no file is written and no process is started.

Not supported: tensor parallelism, sleep mode, and a graph compiled by vLLM, which takes longer to
compile than the small models here take to sample.
"""

import gc
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch
from transformers import PreTrainedModel

from learner.errors import ModelUnusable
from learner.models.merging import merged_weights
from learner.sampling.sampler import Sample, answer_seed, expand_prompts
from learner.settings import Dtype

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput

_KV_CACHE_BYTES: Final = 2**30  # answers that do not fit wait
_BLOCK: Final = 32  # tokens; vLLM's default on CPU, 128, exceeds most prompts and so shares none
_ENVIRONMENT: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core in this process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


class VllmEngine:
    """A vLLM engine in this process; only one can run at a time."""

    def __init__(
        self, model: PreTrainedModel, *, max_tokens: int, batch: int, dtype: Dtype = "float32"
    ) -> None:
        """Start an engine for models of the same configuration as `model`, without weights.

        Args:
            model: Model whose configuration the engine uses.
            max_tokens: Maximum length of a prompt with its answer, capped by the model's context.
            batch: Maximum number of answers computed at once.
            dtype: Format of weights and computation.

        Raises:
            ModelUnusable: vLLM is not installed or does not support the architecture.

        """
        with _isolated_environment(), tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            context = getattr(model.config, "max_position_embeddings", max_tokens)
            self._llm: LLM | None = _start(folder, min(max_tokens, context), batch, dtype)

    def load(self, model: PreTrainedModel) -> None:
        """Replace the weights by the current ones of `model` and drop the prefix cache.

        vLLM's `reload_weights` converts them to the layout of its kernels (fused projections,
        packed matrices).
        """
        self._running.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": merged_weights(model)}
        )
        if not self._running.reset_prefix_cache():
            raise RuntimeError("vLLM did not drop the prefix cache of the previous weights")

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        end_ids: Sequence[int],
        max_tokens: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[Sample]:
        """Sample one answer to each prompt, by its seed, from the weights loaded last."""
        from vllm import SamplingParams, TokensPrompt

        params = [
            SamplingParams(
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
                logprobs=0,  # only that of the sampled token
                stop_token_ids=list(end_ids),
                ignore_eos=True,  # end only at `end_ids`, not at the configured end
                detokenize=False,
            )
            for seed in seeds
        ]
        with torch.random.fork_rng(devices=[]):
            outputs = self._running.generate(
                [TokensPrompt(prompt_token_ids=list(p)) for p in prompts], params, use_tqdm=False
            )
        return [_to_sample(p, output) for p, output in zip(prompts, outputs, strict=True)]

    def close(self) -> None:
        """Stop the engine and free its memory; closing it again has no effect."""
        if self._llm is not None:
            self._llm.llm_engine.renderer.shutdown()
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            gc.collect()

    @property
    def _running(self) -> "LLM":
        assert self._llm is not None, "the engine is closed"
        return self._llm


class VllmSampler:
    """Sampler from a policy with a shared engine.

    On one machine, with the same number of threads and the same `batch`, the same seed and weights
    give the same answers bit for bit: every answer has its own random stream, and each call starts
    with an empty cache. Another `batch` may change log-probabilities by about 1e-5 in float32 and
    so occasionally a token. On a GPU, vLLM does not guarantee reproducible answers.
    """

    def __init__(self, model: PreTrainedModel, end_ids: Sequence[int], engine: VllmEngine) -> None:
        """Sample from the weights that `model` has at each call."""
        self._model = model
        self._end_ids = list(end_ids)
        self._engine = engine

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        max_tokens: int,
        temperature: float,
        seed: int,
        numbers: Sequence[int] | None = None,
    ) -> list[Sample]:
        """Sample n answers to each prompt; see `Sampler.sample`."""
        expanded, answer_numbers = expand_prompts(prompts, n, numbers)
        seeds = [answer_seed(seed, number) for number in answer_numbers]
        self._engine.load(self._model)
        return self._engine.sample(expanded, self._end_ids, max_tokens, temperature, seeds)


def _start(folder: str, max_tokens: int, batch: int, dtype: Dtype) -> "LLM":
    try:
        from vllm import LLM
    except ImportError as error:
        raise ModelUnusable(
            f"the sampler 'vllm' needs vLLM, which cannot be imported: {error}"
        ) from error
    return LLM(
        folder,
        load_format="dummy",  # the first call loads the weights
        skip_tokenizer_init=True,
        generation_config="vllm",  # no sampling defaults from the model folder
        dtype=dtype,
        max_model_len=max_tokens,
        max_num_seqs=batch,
        block_size=_BLOCK,
        kv_cache_memory_bytes=_KV_CACHE_BYTES,
        logprobs_mode="processed_logprobs",
        distributed_executor_backend="uni",
        enforce_eager=True,
        disable_log_stats=True,
    )


def _to_sample(prompt: Sequence[int], output: "RequestOutput") -> Sample:
    answer = output.outputs[0]
    return Sample(
        prompt=tuple(prompt),
        token_ids=tuple(answer.token_ids),
        log_probs=tuple(
            chosen[token].logprob
            for token, chosen in zip(answer.token_ids, answer.logprobs, strict=True)
        ),
        finished=answer.finish_reason == "stop",
    )


@contextmanager
def _isolated_environment() -> Iterator[None]:
    """Undo the changes that starting vLLM makes to this process's global state.

    vLLM seeds the global random state, sets environment variables for child processes and, on CPU,
    replaces `torch.set_num_threads`.
    """
    environment, set_num_threads = dict(os.environ), torch.set_num_threads
    os.environ |= _ENVIRONMENT | environment
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads = set_num_threads
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ |= environment
