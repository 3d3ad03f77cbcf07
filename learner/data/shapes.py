"""Messages in the shapes that published data sets have, as messages with role and content.

ShareGPT's turns (`from`, `value`) and HH-RLHF's transcripts are known. Columnar files fill the
fields that a message does not have with null; these are dropped.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from learner.data.json_lines import RowLeftOut
from learner.errors import DataUnusable

_ROLES: Final = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "prompter": "user",
    "observation": "tool",
}
_TURN: Final = re.compile(r"\n\n(Human|Assistant):")


def clean_messages(value: Any) -> Any:
    """Return messages with role and content alone; anything else is returned as it is."""
    if not isinstance(value, list):
        return value
    return [_clean_message(each) if isinstance(each, Mapping) else each for each in value]


def _clean_message(message: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in message.items() if v is not None or k in ("role", "content")}
    if "from" in kept and "role" not in kept:
        sender = kept.pop("from")
        kept["role"] = _ROLES.get(sender, sender) if isinstance(sender, str) else sender
        kept["content"] = kept.pop("value", None)
    if kept.get("tool_calls") == []:
        del kept["tool_calls"]
    return kept


def parse_tools(value: Any) -> Any:
    """Return tools as a list; some data sets write them as JSON in a text."""
    if not isinstance(value, str):
        return value or None
    try:
        return json.loads(value or "null") or None
    except (ValueError, RecursionError):
        return value


def is_transcript(value: Any) -> bool:
    """Return whether a text is a conversation as HH-RLHF writes it."""
    return isinstance(value, str) and value.startswith("\n\nHuman:") and "\n\nAssistant:" in value


def parse_transcript(text: str) -> list[dict[str, str]]:
    """Return the messages of an HH-RLHF transcript, which ends with the assistant's.

    Raises:
        RowLeftOut: It ends with the human's turn.

    """
    parts = _TURN.split(text)[1:]
    messages = [
        {"role": _ROLES["human"] if who == "Human" else "assistant", "content": said.strip()}
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    if messages[-1]["role"] != "assistant":
        raise RowLeftOut("the transcript does not end with the assistant's answer")
    return messages


def demonstrations(row: Any) -> list[Any]:
    """Return the demonstrations in a row of SFT data, as {"messages": ..., "tools": ...}.

    Known are messages (OpenAI, TRL), conversations (ShareGPT), a prompt with its completion (TRL),
    and an instruction with its output (Alpaca).

    Raises:
        DataUnusable: The instruction or its input is no text.

    """
    if not isinstance(row, Mapping):
        return [row]
    messages: Any = row.get("messages", row.get("conversations"))
    if messages is None and "completion" in row:
        messages = [*_as_messages(row.get("prompt"), "user")]
        messages += _as_messages(row["completion"], "assistant")
    if messages is None and "instruction" in row and "output" in row:
        messages = [*_as_messages(_instruction(row), "user")]
        messages += _as_messages(row["output"], "assistant")
    if messages is None:
        return [row]
    others = {k: v for k, v in row.items() if k not in _DEMONSTRATION_COLUMNS}
    return [
        {**others, "messages": clean_messages(messages), "tools": parse_tools(row.get("tools"))}
    ]


_DEMONSTRATION_COLUMNS: Final = (
    *("messages", "conversations", "prompt", "completion", "instruction", "input", "output"),
    "tools",
)


def _instruction(row: Mapping[str, Any]) -> str:
    """Return Alpaca's instruction, followed by its input if there is one."""
    texts = [text for text in (row["instruction"], row.get("input")) if text]
    if not all(isinstance(text, str) for text in texts):
        raise DataUnusable("'instruction' and 'input' must be texts")
    return "\n\n".join(texts)


def _as_messages(value: Any, role: str) -> list[Any]:
    return value if isinstance(value, list) else [{"role": role, "content": value}]
