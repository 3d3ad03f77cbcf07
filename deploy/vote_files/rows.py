"""The rows of `plaudit feedback import`, and which of them can be used as votes."""

from typing import Annotated, Any, Final, Self

from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator

from learner.data.json_lines import ChatMessage, StrictRow


def _text_or_messages(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<messages>" if isinstance(value, list) else None


_TextOrMessages = Annotated[
    Annotated[str, Field(min_length=1), Tag("<text>")]
    | Annotated[list[ChatMessage], Field(min_length=1), Tag("<messages>")],
    Discriminator(
        _text_or_messages,
        custom_error_type="text_or_messages",
        custom_error_message="must be text or a list of messages",
    ),
]


class _Vote(StrictRow):
    """A row; its prompt is messages if the messages of its answers have a prompt in them."""

    prompt: _TextOrMessages
    tools: list[dict[str, Any]] | None = None
    repeated: int | None = None  # makes equal rows of an export different votes

    def answers(self) -> list[str | list[ChatMessage]]:
        """Return the answers, best first."""
        raise NotImplementedError

    def texts(self) -> list[str]:
        """Return the texts of the answers, best first."""
        return [a if isinstance(a, str) else a[-1].content or "" for a in self.answers()]

    @model_validator(mode="after")
    def _check_answers(self) -> Self:
        for answer in self.answers():
            if not isinstance(answer, str):
                _check_answer(self.prompt, answer)
        if not all(map(str.strip, self.texts())):
            raise ValueError("an answer is empty; write it, or remove this row")
        if isinstance(self.prompt, str):
            prompts = [
                a[:-1] or [ChatMessage(role="user", content=self.prompt)]
                for a in self.answers()
                if not isinstance(a, str)
            ]
            if any(prompt != prompts[0] for prompt in prompts):
                raise ValueError("the answers belong to different prompts; write one prompt")
            if prompts:
                return self.model_copy(update={"prompt": prompts[0]})
        return self


def _check_answer(prompt: str | list[ChatMessage], answer: list[ChatMessage]) -> None:
    """Raise ValueError if the messages are not an answer, with or without the prompt before it."""
    *before, last = answer
    if last.tool_calls:
        raise ValueError(
            "an answer is a tool call; write it as the text that the model writes for it"
        )
    if last.role != "assistant":
        raise ValueError(
            f"the last message of an answer has the role {last.role!r}; it must be 'assistant'"
        )
    if not before:
        return
    if isinstance(prompt, str):
        repeated = before[-1].role == "user" and before[-1].content == prompt
    else:
        repeated = before == prompt
    if not repeated:
        raise ValueError(
            "the messages before an answer's last one are not the prompt; move them to 'prompt'"
        )


class Pair(_Vote):
    """A row with one answer preferred to another."""

    chosen: _TextOrMessages
    rejected: _TextOrMessages

    def answers(self) -> list[str | list[ChatMessage]]:
        """Return both answers."""
        return [self.chosen, self.rejected]

    @model_validator(mode="after")
    def _check_difference(self) -> Self:
        chosen, rejected = map(str.strip, self.texts())
        if chosen == rejected:
            raise ValueError("'chosen' and 'rejected' are the same text; remove this row")
        return self


class LabelledAnswer(_Vote):
    """A row with one answer, liked or disliked."""

    completion: _TextOrMessages
    label: bool

    def answers(self) -> list[str | list[ChatMessage]]:
        """Return the one answer."""
        return [self.completion]


class Ranked(_Vote):
    """A row with several answers in an order, in which some may be equally good."""

    ranked: Annotated[list[_TextOrMessages], Field(min_length=2)]
    ranks: list[int]

    def answers(self) -> list[str | list[ChatMessage]]:
        """Return all answers."""
        return list(self.ranked)

    @model_validator(mode="after")
    def _check_ranks(self) -> Self:
        if len(self.ranks) != len(self.ranked):
            raise ValueError("there must be one rank for each answer")
        return self


def _form(value: Any) -> str:
    if isinstance(value, dict) and "ranked" in value:
        return "<ranked>"
    if not isinstance(value, dict) or value.get("chosen") is not None:
        return "<pair>"
    return "<labelled>" if "completion" in value or "label" in value else "<pair>"


VoteRow = Pair | LabelledAnswer | Ranked
VOTE_ROWS: Final[TypeAdapter[VoteRow]] = TypeAdapter(
    Annotated[
        Annotated[Pair, Tag("<pair>")]
        | Annotated[LabelledAnswer, Tag("<labelled>")]
        | Annotated[Ranked, Tag("<ranked>")],
        Discriminator(_form),
    ]
)
VOTE_FORM: Final = (
    "a pair (prompt, chosen, rejected) or a labelled answer (prompt, completion, label)"
)
