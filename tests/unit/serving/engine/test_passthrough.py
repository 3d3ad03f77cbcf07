"""Which of vLLM's arguments a user may pass, and what is said about the others."""

import pytest

from serving.engine.passthrough import split_arguments, worker_count
from serving.errors import ServingError


@pytest.mark.parametrize(
    "text",
    [
        "--tensor-parallel-size 4 --pipeline-parallel-size=2",
        "--tool-call-parser hermes --enable-auto-tool-choice --reasoning-parser qwen3",
        "--quantization fp8 --dtype bfloat16 --chat-template 'a file.jinja'",
        "",
    ],
)
def test_arguments_pass_through(text: str) -> None:
    assert all(part in text for part in split_arguments(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--logprobs-mode raw_logprobs", "--logprobs-mode is refused: records need the log-prob"),
        ("--load_format=dummy", "--load-format is refused: a swap loads the safetensors files"),
        ("--data-parallel-size 2", "--data-parallel-size is refused: .*start one replica for each"),
        ("-dp 2", "--data-parallel-size is refused"),
        ("--enable-lora", "--enable-lora is refused: .*PLAUDIT_SERVING_LORA_RANK"),
        ("--no-skip-tokenizer-init", "skip-tokenizer-init is refused"),
        ("--override-generation-config.top_p 0.9", "--override-generation-config is refused"),
        ("--api-key secret", "--api-key is refused: requests enter through Plaudit's own server"),
        ("--config file.yaml", "--config is refused"),
        ("--chat-template 'open", "cannot be split"),
    ],
)
def test_what_would_break_recording_or_swapping_is_refused(text: str, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        split_arguments(text)


@pytest.mark.parametrize(
    ("text", "workers"),
    [
        ("", 1),
        ("--tensor-parallel-size 4", 4),
        ("-tp 2 --pipeline_parallel_size=3", 6),
        ("--tensor-parallel-size", 1),
    ],
)
def test_workers_are_counted(text: str, workers: int) -> None:
    assert worker_count(split_arguments(text)) == workers
