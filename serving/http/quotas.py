"""Daily quotas of API keys: completions, tokens that they ask for, and bytes that they send.

A request asks for its prompt and for `n` answers of up to `max_tokens` each, however short they
turn out. What the body says is checked and counted before the request runs; the rest, the prompt
and a `max_tokens` that was left out, is counted when vLLM has tokenised it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import Message, Receive

from feedback.api.http_errors import ApiError
from feedback.control.keys import Key, UsageKind
from serving.http.bodies import is_batch
from serving.http.usage import KINDS, Usage

_DEFAULT_MAX_TOKENS: Final = {"/v1/completions": 16}  # as OpenAI's and vLLM's
_NAMES: Final[dict[UsageKind, str]] = {
    "requests": "completions",
    "tokens": "tokens (prompts, and n times max_tokens)",
    "bytes": "bytes of requests",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request adds to the usage of its key."""

    requests: int = 0
    tokens: int = 0
    bytes: int = 0

    def of(self, kind: UsageKind) -> int:
        """Return the part of one kind."""
        return int(getattr(self, kind))


class Quotas:
    """Counts usage and refuses what is over a quota. Used on the event loop."""

    def __init__(self, usage: Usage) -> None:
        """Count in `usage`."""
        self._usage = usage

    def check(self, key: Key, cost: Cost) -> None:
        """Refuse a request that would exceed a quota.

        Raises:
            ApiError: 429, naming the quota.

        """
        for kind in KINDS:
            quota, more = key.quota_of(kind), cost.of(kind)
            if quota and more and self._usage.used(key.account, kind) + more > quota:
                raise _quota_error(quota, kind)

    def add(self, key: Key, cost: Cost) -> None:
        """Count what a request uses, of the kinds that have a quota."""
        for kind in KINDS:
            if key.quota_of(kind) and (more := cost.of(kind)):
                self._usage.add(key.account, kind, more)


def asked_tokens(path: str, body: dict[str, Any], choices: int) -> int:
    """Return how many tokens of answers the body of a completion asks for, as far as it says.

    Args:
        path: Path of the route.
        body: Checked body.
        choices: Number of choices for each prompt.

    """
    most = body.get("max_completion_tokens") or body.get("max_tokens")
    most = most or _DEFAULT_MAX_TOKENS.get(path, 0)
    prompt = body.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and is_batch(prompt) else 1
    return choices * prompts * int(most)


def count_bytes(receive: Receive, add: Callable[[int], None]) -> Receive:
    """Return a `receive` that calls `add` with the size of each part of the body."""

    async def counting() -> Message:
        message = await receive()
        if message["type"] == "http.request" and (size := len(message.get("body", b""))):
            add(size)
        return message

    return counting


def _quota_error(quota: int, kind: UsageKind) -> ApiError:
    message = (
        f"This request would exceed the quota of its key, {quota} {_NAMES[kind]} a day. Ask for "
        "less, or try again tomorrow (UTC)."
    )
    return ApiError(429, "insufficient_quota", message)
