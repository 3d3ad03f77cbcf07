"""Stand-ins for vLLM's outputs and sampling parameters, with the fields that recording reads."""

from types import SimpleNamespace
from typing import Any


def params(**options: Any) -> Any:
    defaults = {
        "n": 2,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "logit_bias": None,
        "bad_words": None,
        "allowed_token_ids": None,
        "min_tokens": 0,
        "structured_outputs": None,
        "stop": [],
        "max_tokens": 8,
        "seed": None,
        "logprobs": None,
        "prompt_logprobs": None,
    }
    return SimpleNamespace(**(defaults | options))


def output(finished: bool, *choices: Any, prompt_token_ids: Any = None) -> Any:
    return SimpleNamespace(
        finished=finished, outputs=choices, prompt_token_ids=prompt_token_ids, prompt=None
    )


def output_choice(
    index: int, text: str, tokens: list[int], reason: str | None = None, spans: Any = None
) -> Any:
    logprobs = [{t: SimpleNamespace(logprob=-0.5)} for t in tokens]
    return SimpleNamespace(
        index=index,
        text=text,
        token_ids=tokens,
        logprobs=logprobs,
        finish_reason=reason,
        weight_versions=spans,
    )
