"""Strategies of hypothesis for JSON that is nearly right, and how many examples to try.

`PLAUDIT_FUZZ_EXAMPLES=5000` searches longer than the tests do by default.
"""

import json
import os
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_EXAMPLES: Final = int(os.environ.get("PLAUDIT_FUZZ_EXAMPLES", "0"))
# Texts that a tokenizer, a template, a reader of lines or a database may stumble over.
_HARD_TEXTS: Final = (
    *("", " ", "\n", "\u2028", "\x00", "\ud800", "\U0001f600", "e\u0301", "\ufeff", "\u202e"),
    *("<|end|>", "<|system|>", "</s>", "{{ 1 }}", "{% raise %}", "-1", "1e999", "x" * 3000),
)
TEXTS: Final = st.text(max_size=8) | st.sampled_from(_HARD_TEXTS)
_NUMBERS: Final = st.integers() | st.floats() | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 1e308])
SCALARS: Final = st.none() | st.booleans() | _NUMBERS | TEXTS
VALUES: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
_ROLES: Final = st.sampled_from(["system", "user", "assistant", "tool", "developer", "x"])
_WORDS: Final = TEXTS | VALUES
_KINDS: Final = st.sampled_from(["text", "input_text", "image_url"])
_PART: Final = st.fixed_dictionaries(
    {"type": _KINDS}, optional={"text": _WORDS, "image_url": VALUES}
)
_FUNCTION: Final = st.fixed_dictionaries({}, optional={"name": _WORDS, "arguments": _WORDS})
_CALL: Final = st.fixed_dictionaries(
    {}, optional={"id": _WORDS, "type": st.just("function"), "function": _FUNCTION}
)
MESSAGE: Final = st.fixed_dictionaries(
    {"role": _ROLES | VALUES, "content": TEXTS | st.lists(_PART, max_size=2) | VALUES},
    optional={
        "name": TEXTS | VALUES,
        "tool_calls": st.lists(_CALL, max_size=2) | VALUES,
        "tool_call_id": TEXTS | VALUES,
        "reasoning": TEXTS | VALUES,
    },
)
MESSAGES: Final = st.lists(MESSAGE, max_size=4)


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects with some of these fields, each of which may have any value instead."""
    return st.fixed_dictionaries({}, optional={k: v | VALUES for k, v in fields.items()})


def jsonl(rows: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Return files of rows, some of them with bytes that do not belong there."""

    def file(rows: list[Any], escaped: bool, noise: bytes, at: int) -> bytes:
        lines = [json.dumps(row, ensure_ascii=escaped) for row in rows]
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        return text[: at % (len(text) + 1)] + noise + text[at % (len(text) + 1) :]

    noise = (
        st.just(b"") | st.binary(max_size=3) | st.sampled_from([b"\n", b"[", b'"', b"\xef\xbb\xbf"])
    )
    return st.builds(
        file,
        st.lists(rows, min_size=1, max_size=3),
        st.booleans(),
        noise,
        st.integers(min_value=0, max_value=10_000),
    )


def budget(examples: int) -> settings:
    """Return hypothesis' settings for a fuzz test with this many examples."""
    return settings(
        max_examples=_EXAMPLES or examples,
        deadline=None,
        derandomize=not _EXAMPLES,
        suppress_health_check=list(HealthCheck),
    )
