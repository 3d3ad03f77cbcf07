"""Bounds of what constrains an answer: JSON schemas, regular expressions and grammars.

vLLM converts them on the event loop of the server and compiles them in the engine. The time for
that grows steeply with nesting and repetition, so both are bounded here, wherever in a request a
constraint may be.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import unquote

from pydantic_core import from_json, to_json

from feedback.api.http_errors import ApiError

MAX_DEPTH: Final = 32  # JSON objects and lists within each other
MAX_GROUPS: Final = 100  # brackets of a regular expression within each other
MAX_COUNT: Final = 1000  # maxLength, minItems and the like, and repetitions in a grammar
# Of all constraints of a request together.
MAX_TOTALS: Final = {
    "bytes of schemas": 64 * 1024,
    "bytes of structural tags": 16 * 1024,
    "properties": 1000,
    "characters and items by maxLength, minItems and the like": 5000,
    "characters of regular expressions with their repetitions written out": 4096,
    "characters of grammars and choices": 16 * 1024,
}
_BYTES, _TAG_BYTES, _PROPERTIES, _ITEMS, _EXPANDED, _TEXT = MAX_TOTALS
_COUNTS: Final = frozenset(
    {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
    | {"minContains", "maxContains"}
)
# Keywords whose schemas apply to the same value as the schema that they are in.
_IN_PLACE_LISTS: Final = ("allOf", "anyOf", "oneOf")
_IN_PLACE: Final = ("not", "if", "then", "else")
_REPETITION: Final = re.compile(r"\{\s*(\d+)\s*(?:,\s*(\d*)\s*)?\}", re.ASCII)
_GRAMMAR_REPETITION: Final = re.compile(r"\{[\s\d,]*\}|~\s*\d+(?:\s*\.\.\s*\d+)?", re.ASCII)
# A character or class of a regular expression; a class without an end reaches to that of the text.
_ATOM: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*+\]?|.", re.DOTALL)


class _Totals:
    """What the constraints of a request have added up to."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()

    def add(self, param: str, unit: str, amount: int) -> None:
        """Add an amount that the field `param` brings.

        Raises:
            ApiError: 400, the total exceeds its bound.

        """
        self._totals[unit] += amount
        if self._totals[unit] > MAX_TOTALS[unit]:
            raise _error(param, f"brings the request above {MAX_TOTALS[unit]} {unit}")


def check_constraints(body: dict[str, Any]) -> None:
    """Check every schema, regular expression and grammar of a request.

    Raises:
        ApiError: 400, naming the field and the bound that it exceeds.

    """
    totals = _Totals()
    for param, schema in _schemas(body):
        _check_schema(param, schema, totals)
        totals.add(param, _BYTES, len(to_json(schema)))
        _check_references(param, schema)
    for param, tag in _tags(body):
        _check_schema(param, tag, totals)
        totals.add(param, _TAG_BYTES, len(to_json(tag)))
        for schema in _embedded(tag):
            _check_references(param, schema)
    _check_texts(body.get("structured_outputs") or {}, totals)


def _schemas(body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each JSON schema with its path in the request."""
    named = (body.get("response_format") or {}).get("json_schema")
    if isinstance(named, dict) and "schema" in named:
        yield "response_format.json_schema.schema", named["schema"]
    yield from _parsed(
        "structured_outputs.json", (body.get("structured_outputs") or {}).get("json")
    )
    for i, tool in enumerate(body.get("tools") or ()):
        yield f"tools[{i}].function.parameters", tool["function"].get("parameters")


def _tags(body: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each structural tag, which has schemas in it, with its path in the request."""
    response_format = body.get("response_format") or {}
    for name in ("format", "structures", "triggers"):
        if name in response_format:
            yield f"response_format.{name}", response_format[name]
    tag = (body.get("structured_outputs") or {}).get("structural_tag")
    yield from _parsed("structured_outputs.structural_tag", tag)


def _parsed(param: str, schema: Any) -> Iterator[tuple[str, Any]]:
    """Yield a schema that may be given as text, and nothing for an empty one."""
    if not isinstance(schema, str):
        yield param, schema
    elif len(schema) > MAX_TOTALS[_BYTES]:
        raise _error(param, f"has more than {MAX_TOTALS[_BYTES]} characters")
    elif schema.strip():  # vLLM refuses blank ones
        try:
            yield param, from_json(schema, allow_inf_nan=False)
        except ValueError as error:
            message = f"'{param}' is not JSON: {error}."
            raise ApiError(400, "invalid_json", message, param) from error


def _check_schema(param: str, schema: Any, totals: _Totals) -> None:
    """Check a schema level by level, so that one that is too deep is not walked to its end."""
    level = [schema]
    for _ in range(MAX_DEPTH + 1):
        level = [node for node in level if isinstance(node, dict | list)]
        if not level:
            return
        for node in level:
            if isinstance(node, dict):
                _check_keywords(param, node, totals)
        level = [child for node in level for child in _children(node)]
    raise _error(param, f"is nested more than {MAX_DEPTH} levels deep")


def _children(node: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every JSON object in a schema."""
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
        if isinstance(node, dict | list):
            pending += _children(node)


def _check_keywords(param: str, node: dict[str, Any], totals: _Totals) -> None:
    """Count the properties, repetitions and patterns that an object of a schema asks for."""
    for name in _COUNTS & node.keys():
        value = node[name]
        if isinstance(value, int | float) and value > 0:
            if value > MAX_COUNT:
                raise _error(param, f"has a '{name}' above {MAX_COUNT}")
            totals.add(param, _ITEMS, int(value))
    properties, patterns = node.get("properties"), node.get("patternProperties")
    totals.add(param, _PROPERTIES, len(properties) if isinstance(properties, dict) else 0)
    for text in (node.get("pattern"), *(patterns if isinstance(patterns, dict) else ())):
        if isinstance(text, str):
            totals.add(param, _EXPANDED, expanded_length(param, text))


def _check_texts(outputs: dict[str, Any], totals: _Totals) -> None:
    """Check regular expressions, the grammar and the choices of `structured_outputs`."""
    for name in ("regex", "whitespace_pattern"):
        if isinstance(text := outputs.get(name), str):
            param = f"structured_outputs.{name}"
            totals.add(param, _EXPANDED, expanded_length(param, text))
    choices = outputs.get("choice")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, str):
            totals.add("structured_outputs.choice", _TEXT, len(choice) + 1)
    grammar = outputs.get("grammar")
    if isinstance(grammar, str):
        param = "structured_outputs.grammar"
        totals.add(param, _TEXT, len(grammar))
        for repetition in _GRAMMAR_REPETITION.findall(grammar):
            if any(int(number[:9]) > MAX_COUNT for number in re.findall(r"\d+", repetition)):
                raise _error(param, f"repeats something more than {MAX_COUNT} times")


def _embedded(tag: Any) -> Iterator[Any]:
    """Yield the schemas in a structural tag, each of which has references of its own."""
    for node in _nodes(tag):
        for name in ("schema", "json_schema"):
            if name in node:
                yield node[name]


def _check_references(param: str, root: Any) -> None:
    """Refuse schemas that refer to themselves for the same value, which no answer could end."""
    done: set[int] = set()
    for start in _nodes(root):
        path: dict[int, None] = {}  # ordered, and quick to look up
        pending = [(start, 0)]
        while pending:
            node, depth = pending.pop()
            while len(path) > depth:
                path.popitem()
            if id(node) in path:
                raise _error(param, "refers to itself without anything between")
            if id(node) not in done:
                done.add(id(node))
                path[id(node)] = None
                pending += [(target, depth + 1) for target in _in_place(root, node)]


def _in_place(root: Any, node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schemas that apply to the same value as `node` does."""
    targets = [node.get(name) for name in _IN_PLACE]
    for name in _IN_PLACE_LISTS:
        members = node.get(name)
        targets += members if isinstance(members, list) else []
    reference = node.get("$ref")
    if isinstance(reference, str):
        targets.append(_resolve(root, reference))
    yield from (target for target in targets if isinstance(target, dict))


def _resolve(root: Any, reference: str) -> Any:
    """Return what a reference within the schema points to; None where that is nothing."""
    if reference.partition("/")[0] != "#":
        return None
    target = root
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict):
            target = target.get(name)
        elif isinstance(target, list) and name.isdecimal() and int(name[:9]) < len(target):
            target = target[int(name[:9])]
        else:
            return None
    return target


def expanded_length(param: str, pattern: str) -> int:
    """Return the length of a regular expression with its repetitions written out.

    Raises:
        ApiError: 400, it is longer than every bound, or its brackets are nested too deeply.

    """
    if len(pattern) > MAX_TOTALS[_EXPANDED]:
        raise _error(param, f"has more than {MAX_TOTALS[_EXPANDED]} characters")
    sums, last, at = [0], 0, 0  # lengths of the open groups, and of what was last; position
    while at < len(pattern):
        if repetition := _REPETITION.match(pattern, at):
            times = max(1, *(int(number[:9]) for number in repetition.groups("1") if number))
            sums[-1] += last * (times - 1)
            last, at = last * times, repetition.end()
            continue
        atom = _ATOM.match(pattern, at)
        assert atom is not None
        at = atom.end()
        if atom[0] == "(":
            sums.append(0)
        elif atom[0] == ")" and len(sums) > 1:
            last = sums.pop()
            sums[-1] += last
        else:
            last = 1
            sums[-1] += last
        if len(sums) > MAX_GROUPS:
            raise _error(param, f"has more than {MAX_GROUPS} brackets within each other")
    return sum(sums)


def _error(param: str, what: str) -> ApiError:
    message = f"'{param}' {what}: send a simpler one."
    return ApiError(400, "constraint_too_complex", message, param)
