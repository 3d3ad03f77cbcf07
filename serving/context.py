"""What the middleware knows of a request and the recording engine client needs."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class RequestContext:
    """One chat or text completion on its way.

    Attributes:
        completion_id: As the client sees it.
        owner: HMAC of the API key, or `local`.
        subject: HMAC of the request's `user`; empty if none.
        messages: Role and text of each message of a chat; None for a text completion.
        multimodal: The messages held more than text, which is left out.
        recorded: False for a batch of prompts, which is answered and not recorded.
        prompt: The prompt of a text completion, empty for a chat or for token ids.
        version: The policy version that its answer has come to; 0 before it begins. In a duel
            the live one, so that the client cannot tell who was the other.

    """

    completion_id: str
    owner: str
    subject: str
    messages: list[tuple[str, str]] | None
    prompt: str = ""
    multimodal: bool = False
    recorded: bool = True
    version: int = 0


request_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
