"""Sampling answers with a vLLM engine in this process, whose weights are replaced in place.

One engine serves all policies of a family: before each call it loads the weights of the model
that is asked, from memory to memory, and forgets its prefix cache. The trainer is handed no
file, and no process is started.

Left out: tensor parallelism, sleep mode, and a graph compiled by vLLM, which takes longer to
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

_KV_CACHE_BYTES: Final = 2**30  # answers beyond it wait for their turn
_BLOCK: Final = 32  # tokens; vLLM's 128 on CPU is longer than most prompts, so shares none
_ENVIRONMENT: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core in this process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


class VllmEngine:
    """A vLLM engine in this process; there can be one at a time."""

    def __init__(
        self, model: PreTrainedModel, *, max_tokens: int, batch: int, dtype: Dtype = "float32"
    ) -> None:
        """Start an engine for models shaped like `model`; none of its weights are read yet.

        Args:
            max_tokens: Of a prompt and its answer, at most; no more than the model's context.
            batch: Answers computed at once, at most.

        Raises:
            ModelUnusable: vLLM is not installed, or does not know the architecture.

        """
        with _isolated_environment(), tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            context = getattr(model.config, "max_position_embeddings", max_tokens)
            self._llm: LLM | None = _start(folder, min(max_tokens, context), batch, dtype)

    def load(self, model: PreTrainedModel) -> None:
        """Replace the weights by those of `model` as they are now, and drop the prefix cache.

        vLLM's own `reload_weights` brings them into whatever layout its kernels want (fused
        projections, packed matrices).
        """
        self._running.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": merged_weights(model)}
        )
        if not self._running.reset_prefix_cache():
            raise RuntimeError("vLLM kept the prefix cache of other weights")

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        end_ids: Sequence[int],
        max_tokens: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[Sample]:
        """Return one answer to each prompt, drawn by its seed, from the weights last loaded."""
        from vllm import SamplingParams, TokensPrompt

        wanted = [
            SamplingParams(
                max_tokens=max_tokens,
                temperature=temperature,
                seed=seed,
                logprobs=0,  # that of the sampled token alone
                stop_token_ids=list(end_ids),
                ignore_eos=True,  # the configuration's own end, where it is not among these
                detokenize=False,
            )
            for seed in seeds
        ]
        with torch.random.fork_rng(devices=[]):
            found = self._running.generate(
                [TokensPrompt(prompt_token_ids=list(p)) for p in prompts], wanted, use_tqdm=False
            )
        return [_sample_of(p, output) for p, output in zip(prompts, found, strict=True)]

    def close(self) -> None:
        """End the engine and free its memory; closing it twice does nothing."""
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
    """Samples from a policy with a shared engine.

    The same seed and weights give the same answers, bit for bit, on one machine, number of
    threads and `batch`: every answer has a random stream of its own, and each call starts with
    an empty cache. Another batch may round log-probabilities otherwise, by about 1e-5 in
    float32, and so now and then lead to another token. On a GPU vLLM promises no such thing.
    """

    def __init__(self, model: PreTrainedModel, end_ids: Sequence[int], engine: VllmEngine) -> None:
        """Sample from `model` as it is at each call."""
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
        """Return n answers to each prompt, those to one prompt next to each other."""
        wanted, own = expand_prompts(prompts, n, numbers)
        seeds = [answer_seed(seed, number) for number in own]
        self._engine.load(self._model)
        return self._engine.sample(wanted, self._end_ids, max_tokens, temperature, seeds)


def _start(folder: str, max_tokens: int, batch: int, dtype: Dtype) -> "LLM":
    try:
        from vllm import LLM
    except ImportError as error:
        raise ModelUnusable(f"the sampler 'vllm' needs vLLM: {error}") from error
    return LLM(
        folder,
        load_format="dummy",  # weights come with the first call
        skip_tokenizer_init=True,
        generation_config="vllm",  # no defaults from the model's own
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


def _sample_of(prompt: Sequence[int], output: "RequestOutput") -> Sample:
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
    """Start vLLM without a trace in what the trainer uses.

    It seeds the global random state, sets variables for processes that it might start, and on
    CPU takes `torch.set_num_threads` away.
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
