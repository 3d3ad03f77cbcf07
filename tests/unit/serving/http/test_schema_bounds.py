"""Bounds of schemas, regular expressions and grammars, wherever a request has them."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feedback.api.http_errors import ApiError
from serving.http.schema_bounds import MAX_DEPTH, check_constraints, expanded_length
from tests.support.door import CHAT, chat, door, error_of

Place = Callable[[Any], dict[str, Any]]

# Every place of a JSON schema in a request, with the path that an error names.
PLACES: dict[str, Place] = {
    "response_format.json_schema.schema": lambda schema: {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    },
    "structured_outputs.json": lambda schema: {"structured_outputs": {"json": schema}},
    "tools[0].function.parameters": lambda schema: {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    },
    "response_format.format": lambda schema: {
        "response_format": {
            "type": "structural_tag",
            "format": {"type": "json_schema", "json_schema": schema},
        }
    },
    "response_format.structures": lambda schema: {
        "response_format": {
            "type": "structural_tag",
            "structures": [{"begin": "<f>", "schema": schema, "end": "</f>"}],
            "triggers": ["<f"],
        }
    },
    "structured_outputs.structural_tag": lambda schema: {
        "structured_outputs": {
            "structural_tag": json.dumps({"format": {"type": "json_schema", "json_schema": schema}})
        }
    },
}
TEXT = {"type": "string"}


def nested(levels: int, width: int = 1) -> dict[str, Any]:
    schema: dict[str, Any] = TEXT
    for level in range(levels):
        others = {f"p{level}_{i}": TEXT for i in range(width - 1)}
        schema = {"type": "object", "properties": {"next": schema, **others}}
    return schema


TOO_COMPLEX: dict[str, Any] = {
    "deep": nested(MAX_DEPTH),
    "deep lists": json.loads('{"enum":' + "[" * 100 + "]" * 100 + "}"),
    "long": {"description": "a" * 70_000},
    "wide": {"properties": {f"p{i}": {} for i in range(1001)}},
    "wide in parts": {"properties": {f"p{i}": nested(1, 100) for i in range(11)}},
    "maxLength": {"type": "string", "maxLength": 10**9},
    "minItems": {"type": "array", "minItems": 1001},
    "many counts": {"allOf": [{"maxLength": 1000}] * 6},
    "pattern": {"pattern": "^(a{100}){100}$"},
    "many patterns": {"anyOf": [{"pattern": "^a{1000}$"}] * 5},
    "patternProperties": {"patternProperties": {"((a{9}){99}){99}": {}}},
    "self": {"$ref": "#"},
    "self in anyOf": {"anyOf": [TEXT, {"$ref": "#"}]},
    "in a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#"}}},
    "self below": {"properties": {"x": {"$ref": "#/properties/x"}}},
    "self escaped": {"properties": {"a/b": {"allOf": [{"$ref": "#/properties/a~1b"}]}}},
    "self in a list": {"anyOf": [TEXT, {"$ref": "#/anyOf/1"}]},
}


@pytest.mark.parametrize("param", PLACES)
@pytest.mark.parametrize("schema", TOO_COMPLEX.values(), ids=TOO_COMPLEX)
def test_a_schema_is_bounded_wherever_it_is(param: str, schema: Any) -> None:
    with pytest.raises(ApiError) as refused:
        check_constraints(PLACES[param](schema))
    error = refused.value
    assert (error.status, error.code, error.param) == (400, "constraint_too_complex", param)


@pytest.mark.parametrize("param", PLACES)
def test_ordinary_schemas_pass(param: str) -> None:
    tree = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "pattern": r"^[a-z]{1,64}$", "maxLength": 200},
            "id": {"$ref": "#/$defs/id"},
            "children": {"type": "array", "maxItems": 100, "items": {"$ref": "#"}},
            "other": {"$ref": "https://example.org/schema"},
            "missing": {"$ref": "#/$defs/none/x"},
        },
        "$defs": {"id": {"pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}},
    }
    check_constraints(PLACES[param](tree))
    check_constraints(PLACES[param](nested(10, 10)))
    for schema in (None, True, {}, "", [], {"minItems": "x", "properties": [1], "pattern": 1}):
        check_constraints(PLACES[param](schema))


def test_schemas_count_together() -> None:
    tool = {"function": {"name": "f", "parameters": {"description": "a" * 30_000}}}
    check_constraints({"tools": [tool] * 2})
    with pytest.raises(ApiError, match=r"tools\[2\].*65536 bytes of schemas"):
        check_constraints({"tools": [tool] * 3})


@pytest.mark.parametrize(
    ("outputs", "param"),
    [
        ({"regex": "a" * 4097}, "regex"),
        ({"regex": "(" * 101 + ")" * 101}, "regex"),
        ({"regex": "((a{10}){10}){50}"}, "regex"),
        ({"regex": "[ab]{99999999999999999999}"}, "regex"),
        ({"json": {"pattern": "a{3000}"}, "regex": "a{3000}"}, "regex"),
        ({"grammar": "#" * 16_385}, "grammar"),
        ({"grammar": 'root ::= "a"{1,1001}'}, "grammar"),
        ({"grammar": 'start: "a" ~ 1..1001'}, "grammar"),
        ({"choice": ["a" * 100] * 200}, "choice"),
    ],
)
def test_texts_are_bounded(outputs: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        check_constraints({"structured_outputs": outputs})
    assert refused.value.param == f"structured_outputs.{param}"


def test_ordinary_texts_pass() -> None:
    for outputs in (
        {"regex": r"\w+@\w+\.com\n"},
        {"regex": "[unclosed"},
        {"grammar": 'root ::= "{" [a-z]{1,8} "}"'},
        {"choice": ["positive", "negative"]},
        {"choice": [1], "regex": None, "grammar": []},
        {"json_object": True},
    ):
        check_constraints({"structured_outputs": outputs})
    check_constraints({"response_format": {"type": "json_object"}, "tools": None})


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        ("", 0),
        ("abc", 3),
        ("a{3}", 3),
        ("a{2,5}b", 6),
        ("a{4,}", 4),
        ("(ab){3}", 6),
        ("((ab){3}c){2}", 14),
        ("[a-z]{3}", 3),
        ("[]a]{3}", 3),
        (r"\({3}", 3),
        (r"[\]]{3}", 3),
        (")a{2}", 3),
        ("(a", 1),
    ],
)
def test_repetitions_are_written_out(pattern: str, length: int) -> None:
    assert expanded_length("x", pattern) == length


@pytest.mark.parametrize("part", ["[", "(", "\\", "{", '"', "a{1}", "[^]", "(?:"])
def test_no_text_takes_long_to_check(part: str) -> None:
    text = part * 16_384
    body = {"structured_outputs": {"regex": text[:4096], "grammar": text[:16_384]}}
    started = time.thread_time()
    with contextlib.suppress(ApiError):
        check_constraints(body)
    assert time.thread_time() - started < 0.5


def test_no_chain_of_references_takes_long_to_check() -> None:
    links = {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(1500)}
    started = time.thread_time()
    check_constraints(PLACES["structured_outputs.json"]({"$ref": "#/$defs/0", "$defs": links}))
    assert time.thread_time() - started < 0.5


def test_a_schema_of_too_many_bytes_is_refused_before_its_references_are_followed() -> None:
    links = {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(100_000)}
    started = time.thread_time()
    with pytest.raises(ApiError, match="bytes"):
        check_constraints(PLACES["structured_outputs.json"]({"$ref": "#/$defs/0", "$defs": links}))
    assert time.thread_time() - started < 5, "quadratic in the links, it would be minutes"


async def test_the_answer_names_the_bound(tmp_path: Path) -> None:
    body = chat(**PLACES["tools[0].function.parameters"](nested(31, 40)))
    async with door(tmp_path) as http:
        for path in (CHAT, "/v1/completions", "/tokenize"):
            response = await http.post(path, json=body)
            assert response.status_code == 400
            assert f"more than {MAX_DEPTH} levels" in error_of(response)["message"]
