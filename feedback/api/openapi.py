"""Fields of the OpenAPI schema that FastAPI cannot infer from handlers that take a `Request`."""

from typing import Any, Literal


def parameter(
    place: Literal["path", "query", "header"],
    name: str,
    description: str,
    kind: Literal["string", "integer"] = "string",
) -> dict[str, Any]:
    """Return the description of a parameter; one in the path is required."""
    return {
        "in": place,
        "name": name,
        "required": place == "path",
        "description": description,
        "schema": {"type": kind},
    }
