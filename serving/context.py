"""What the middleware passes to the engine client about a request."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(slots=True)
class RequestContext:
    """A chat or text completion in progress.

    Attributes:
        completion_id: Completion id, as the client sees it.
        owner: HMAC of the API key, or `local`.
        subject: HMAC of the request's `user`; empty if there is none.
        messages: Role and text of each message of a chat; None for a text completion.
        multimodal: Whether the messages had content other than text, which is left out.
        recorded: Whether the completion is recorded; False for a batch of prompts.
        prompt: Prompt of a text completion; empty for a chat or for token ids.
        version: Policy version of the latest token; 0 before the first. In a duel always the
            live version, so that the client cannot identify the challenger.

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
