"""The votes of a chat: their bodies for POST /v1/feedback, and a queue of those not yet sent."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.chat.keys import Action
from deploy.errors import DeployError


class RequestError(DeployError):
    """A request failed; the message says what to do.

    Attributes:
        temporary: Whether the same request may succeed later.

    """

    def __init__(self, message: str, *, temporary: bool) -> None:
        super().__init__(message)
        self.temporary = temporary


@dataclass(frozen=True)
class Vote:
    """A vote, which counts once however often it is sent.

    Attributes:
        body: Body of the request.
        key: Value of the header `Idempotency-Key`.

    """

    body: dict[str, Any]
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


def feedback_of(action: Action, shown: Sequence[int]) -> dict[str, Any]:
    """Return the feedback of a key that votes without a text.

    Args:
        action: Action of the key: better, tie, up or down.
        shown: Indices of the choices on screen.

    """
    if action.kind in ("up", "down"):
        return {"kind": "rating", "choice": action.choice, "value": action.kind}
    others = [choice for choice in shown if choice != action.choice]
    if len(shown) > 2:
        tied = action.kind == "tie"
        return {"kind": "ranking", "groups": [list(shown)] if tied else [[action.choice], others]}
    left, right = shown
    verdict = "left" if action.choice == left else "right"
    return {
        "kind": "comparison",
        "left": left,
        "right": right,
        "verdict": "tie" if action.kind == "tie" else verdict,
    }


class VoteQueue:
    """Votes that the server has not answered yet."""

    def __init__(self, send: Callable[[Vote], None]) -> None:
        """Start empty; `send` sends one vote or raises a RequestError."""
        self._send = send
        self._votes: list[Vote] = []

    def __len__(self) -> int:
        return len(self._votes)

    def add(self, vote: Vote) -> None:
        """Add a vote without sending it."""
        self._votes.append(vote)

    def flush(self) -> None:
        """Send the votes in order.

        Raises:
            RequestError: A vote failed. It is kept with those after it if the error is temporary;
                otherwise it alone is dropped.

        """
        while self._votes:
            try:
                self._send(self._votes[0])
            except RequestError as error:
                if not error.temporary:
                    self._votes.pop(0)
                raise
            self._votes.pop(0)
