"""What the middleware passes to the engine client about a request."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class RequestContext:
    """A chat or text completion in progress.

    Attributes:
        completion_id: Completion id, as the client sees it.
        owner: HMAC of the API key, or `local`.
        subject: HMAC of the request's `user`; empty if there is none.
        messages: Role and text of each message of a chat; None for a text completion.
        sent: The messages of a chat as the client sent them, whole; empty where they are not
            recorded.
        template_json: What else the chat template is given, such as tools, as JSON.
        multimodal: Whether the messages had content other than text, which is left out.
        recorded: Whether the completion is recorded; False for a batch of prompts.
        prompt: Prompt of a text completion; empty for a chat or for token ids.
        version: Policy version of the latest token; 0 before the first. In a duel always the
            live version, so that the client cannot identify the challenger.
        asked_tokens: Tokens of answers that the body asks for, which are counted already.
        add_tokens: Counts more tokens that the request asks for.

    """

    completion_id: str
    owner: str
    subject: str
    messages: list[tuple[str, str]] | None
    prompt: str = ""
    multimodal: bool = False
    recorded: bool = True
    version: int = 0
    asked_tokens: int = 0
    add_tokens: Callable[[int], None] = lambda _: None
    sent: Sequence[Mapping[str, Any]] = ()
    template_json: str = ""


request_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)
