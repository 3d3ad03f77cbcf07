"""Fields of the OpenAPI schema that FastAPI cannot infer from handlers that take a `Request`."""

from typing import Any, Literal


def parameter(
    place: Literal["path", "query", "header"],
    name: str,
    description: str,
    kind: Literal["string", "integer"] = "string",
    **bounds: int,
) -> dict[str, Any]:
    """Return the description of a parameter; one in the path is required.

    Args:
        place: "path", "query" or "header".
        name: Name of the parameter.
        description: What it means.
        kind: Type of its value.
        bounds: Bounds of its value, as in a JSON schema, such as `maximum`.

    """
    return {
        "in": place,
        "name": name,
        "required": place == "path",
        "description": description,
        "schema": {"type": kind, **bounds},
    }
