"""Types in words, for the generated tables."""

import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import SecretStr

from docs.scripts.markdown import code

_NAMES: Final = {int: "integer", float: "number", str: "text", bool: "`true` or `false`"}


def type_text(annotation: Any, bounds: Sequence[object] = ()) -> str:
    """Return a type and its bounds in words."""
    origin = get_origin(annotation)
    if origin is Literal:
        return "one of " + ", ".join(code(value) for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(
            type_text(member, bounds) for member in get_args(annotation) if member is not type(None)
        )
    if origin is tuple:
        return f"JSON list ({type_text(get_args(annotation)[0])})"
    if origin is list:
        return type_text(get_args(annotation)[0])
    if annotation is SecretStr:
        return "text (secret)"
    if isinstance(annotation, type) and issubclass(annotation, Path):
        return "path"
    text = _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return ", ".join([text, *_bounds(bounds)])


def _bounds(bounds: Sequence[object]) -> Iterator[str]:
    for bound in bounds:
        match bound:
            case annotated_types.Ge(ge=value):
                yield f"at least {value}"
            case annotated_types.Gt(gt=value):
                yield f"above {value}"
            case annotated_types.Le(le=value):
                yield f"at most {value}"
            case annotated_types.Lt(lt=value):
                yield f"below {value}"
