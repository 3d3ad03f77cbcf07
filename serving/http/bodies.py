"""The JSON bodies of the routes that vLLM answers: read once, and bounded before vLLM sees them.

vLLM validates what a field means. Here is checked what would cost the event loop time, reach the
engine in a form that it cannot take, or not fit into the completion's record. `schema_bounds`
checks schemas, regular expressions and grammars.
"""

from typing import Any, Final

from pydantic_core import from_json

from feedback.api.http_errors import ApiError
from feedback.api.schema import MAX_USER

MAX_DEPTH: Final = 200  # the parser's own limit
MAX_VALUES: Final = 250_000
MAX_CHOICES: Final = 128
MAX_MESSAGES: Final = 2048
MAX_TOOLS: Final = 128
MAX_STOPS: Final = 4  # as OpenAI and vLLM
MAX_BIASES: Final = 1024
_INT32: Final = (-(2**31), 2**31 - 1)
_INT64: Final = (-(2**63), 2**63 - 1)
# Whole numbers and their ranges: those that are recorded have the width of the record's field.
_WHOLE: Final = {
    "top_k": _INT32,
    "max_tokens": _INT32,
    "max_completion_tokens": _INT32,
    "min_tokens": _INT32,
    "top_logprobs": _INT32,
    "prompt_logprobs": _INT32,
    "truncate_prompt_tokens": _INT32,
    "thinking_token_budget": _INT32,
    "routed_experts_prompt_start": _INT32,
    "stream_interval": _INT32,
    "seed": _INT64,
    "priority": _INT64,
}
_KINDS: Final[dict[type, str]] = {str: "a string", list: "a list", dict: "a JSON object"}
# Fields of /v1/responses that chats lack.
_RESPONSE_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "input": (str, list),
    "instructions": (str,),
    "text": (dict,),
    "tools": (list,),
}
# Fields that vLLM reads before it has checked their type.
_TYPES: Final[dict[str, type]] = {
    "model": str,
    "user": str,
    "messages": list,
    "tools": list,
    "documents": list,
    "stop_token_ids": list,
    "allowed_token_ids": list,
    "bad_words": list,
    "logit_bias": dict,
    "stream_options": dict,
    "response_format": dict,
    "structured_outputs": dict,
    "chat_template_kwargs": dict,
    "repetition_detection": dict,
    "vllm_xargs": dict,
}
_LONGEST: Final = {
    "messages": MAX_MESSAGES,
    "tools": MAX_TOOLS,
    "documents": MAX_TOOLS,
    "logit_bias": MAX_BIASES,
    "stop_token_ids": MAX_BIASES,
    "bad_words": MAX_BIASES,
}


# vLLM's means to pass caches between its own servers. The first may replace the prompt by other
# tokens than those of the messages, which are recorded.
_UNSUPPORTED: Final = ("kv_transfer_params", "ec_transfer_params")


def parse_body(body: bytes) -> dict[str, Any]:
    """Parse the body of a request.

    Stricter than Python's `json`, which vLLM uses: UTF-8 alone, no NaN, no lone surrogates, and
    a bounded depth.

    Raises:
        ApiError: 400, it is not a JSON object, or larger than a bound.

    """
    try:
        parsed = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        if "recursion limit" in str(error):
            message = f"The body is nested more than {MAX_DEPTH} levels deep: flatten it."
            raise ApiError(400, "nested_too_deeply", message) from error
        message = f"The request's body is not JSON: {error}."
        raise ApiError(400, "invalid_json", message) from error
    if not isinstance(parsed, dict):
        raise ApiError(400, "invalid_json", "The request's body must be a JSON object.")
    _check_values(parsed)
    return parsed


def _check_values(body: dict[str, Any]) -> None:
    """Refuse too many values, and integers that do not fit into 64 bits, wherever they are."""
    pending: list[Any] = [body]
    values = 0
    while pending:
        part = pending.pop()
        children = part.values() if isinstance(part, dict) else part
        values += len(part)
        if values > MAX_VALUES:
            message = f"The body has more than {MAX_VALUES} values: send less in one request."
            raise ApiError(400, "too_many_values", message)
        kinds = set(map(type, children))
        if int in kinds:
            whole = [child for child in children if type(child) is int]
            if min(whole) < _INT64[0] or max(whole) > _INT64[1]:
                message = "The body has an integer that does not fit into 64 bits."
                raise ApiError(400, "integer_out_of_range", message)
        if dict in kinds or list in kinds:
            pending += [child for child in children if isinstance(child, dict | list)]


def as_chat(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a chat with the fields of a body of `/v1/responses`, to be checked.

    Raises:
        ApiError: 400, a field is of another type than vLLM reads, or asks for what is not served.

    """
    if body.get("background"):
        message = "Answers in the background are not supported: leave out 'background'."
        raise ApiError(400, "unsupported", message, "background")
    for name, kinds in _RESPONSE_TYPES.items():
        if not isinstance(body.get(name), (*kinds, type(None))):
            allowed = " or ".join(_KINDS[kind] for kind in kinds)
            raise ApiError(400, "invalid_type", f"'{name}' must be {allowed}.", name)
    given = body.get("input")
    text_format = (body.get("text") or {}).get("format")
    chat = {
        **body,
        "n": 1,
        "prompt": None,
        "messages": given if isinstance(given, list) else [],
        "max_tokens": body.get("max_output_tokens"),
        "tools": [_as_chat_tool(i, tool) for i, tool in enumerate(body.get("tools") or ())],
    }
    if isinstance(text_format, dict) and "schema" in text_format:
        chat["response_format"] = {"json_schema": {"schema": text_format["schema"]}}
    return chat


def _as_chat_tool(i: int, tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        message = f"'tools[{i}]' must be of type 'function': the server itself runs no tools."
        raise ApiError(400, "unsupported", message, f"tools[{i}]")
    return {"type": "function", "function": tool}


def check_fields(body: dict[str, Any]) -> None:
    """Check types, lengths and ranges of the fields that chats and completions share.

    Raises:
        ApiError: 400, naming the field and its bound.

    """
    for name in _UNSUPPORTED:
        if body.get(name) is not None:
            raise ApiError(400, "unsupported", f"'{name}' is not supported: leave it out.", name)
    for name, kind in _TYPES.items():
        value = body.get(name)
        if value is not None and not isinstance(value, kind):
            raise ApiError(400, "invalid_type", f"'{name}' must be {_KINDS[kind]}.", name)
    for name, longest in _LONGEST.items():
        if len(body.get(name) or ()) > longest:
            raise too_long(name, longest)
    for name, (smallest, largest) in _WHOLE.items():
        _check_whole(name, body.get(name), smallest, largest)
    if len(body.get("user") or "") > MAX_USER:
        message = f"'user' must have at most {MAX_USER} characters."
        raise ApiError(400, "string_above_max_length", message, "user")
    stop = body.get("stop")
    if isinstance(stop, list) and len(stop) > MAX_STOPS:
        raise too_long("stop", MAX_STOPS)
    _check_members(body)


def too_long(name: str, longest: int) -> ApiError:
    """Return the error for a list or object with more than `longest` entries."""
    message = f"'{name}' must have at most {longest} entries."
    return ApiError(400, "array_above_max_length", message, name)


def _check_whole(name: str, value: Any, smallest: int, largest: int) -> None:
    if value is None:
        return
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise ApiError(400, "invalid_type", f"'{name}' must be a whole number.", name)
    if not smallest <= value <= largest:
        message = f"'{name}' must be between {smallest} and {largest}."
        raise ApiError(400, "integer_out_of_range", message, name)


def _check_members(body: dict[str, Any]) -> None:
    """Check the types of messages and tools, and count the parts of all messages."""
    parts = 0
    for i, message in enumerate(body.get("messages") or ()):
        if not isinstance(message, dict):
            name = f"messages[{i}]"
            raise ApiError(400, "invalid_type", f"'{name}' must be a JSON object.", name)
        content = message.get("content")
        parts += len(content) if isinstance(content, list) else 0
    if parts > MAX_MESSAGES:
        raise too_long("messages[].content", MAX_MESSAGES)
    for i, tool in enumerate(body.get("tools") or ()):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            name = f"tools[{i}]"
            message = f"'{name}' must be a JSON object with a 'function' that has a 'name'."
            raise ApiError(400, "invalid_type", message, name)


def count_choices(body: dict[str, Any]) -> int:
    """Return the number of choices that a request asks for, for each of its prompts.

    Raises:
        ApiError: 400, there are too many, or beam search is asked for.

    """
    n = body.get("n", 1)
    n = 1 if n is None else n
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MAX_CHOICES:
        message = f"'n' must be a whole number from 1 to {MAX_CHOICES}."
        raise ApiError(400, "invalid_n", message, "n")
    if body.get("use_beam_search"):
        message = "Beam search is not supported: leave out 'use_beam_search' to sample instead."
        raise ApiError(400, "unsupported", message, "use_beam_search")
    prompt = body.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and is_batch(prompt) else 1
    if n * prompts > MAX_CHOICES:
        message = f"{prompts} prompts with {n} choices each are more than {MAX_CHOICES} choices."
        raise ApiError(400, "array_above_max_length", message, "prompt")
    return n


def is_batch(prompt: Any) -> bool:
    """Return whether there are several prompts, whose completions are not recorded."""
    return isinstance(prompt, list) and len(prompt) > 1 and not isinstance(prompt[0], int)
