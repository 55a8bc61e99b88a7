"""The form an answer must have: ``response_format`` and ``text.format``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forwarder.demo.reading import JSON, OBJECT, TEXT, check_enum, read_field, require_field

FORMAT_TYPES = ("text", "json_object", "json_schema")


@dataclass(frozen=True)
class AnswerFormat:
    """A schema that the answer must satisfy, and where in the request it stands."""

    schema: Any
    param: str


def read_format(spec: JSON | None, at: str, said: str, *, nested: bool) -> AnswerFormat | None:
    """The format a request asks for, or None for plain text.

    ``at`` is the path of ``spec``; ``nested`` tells Chat's form, which wraps a schema and its
    name once more, from that of the Responses API.
    """
    if spec is None:
        return None
    kind = check_enum(require_field(spec, "type", TEXT, at), FORMAT_TYPES, f"{at}type")
    if kind == "json_object":
        return AnswerFormat({"const": {"demo": True, "you_said": said}}, at.rstrip("."))
    if kind == "text":
        return None
    if nested:
        spec, at = require_field(spec, kind, OBJECT, at), f"{at}{kind}."
    require_field(spec, "name", TEXT, at)
    return AnswerFormat(read_field(spec, "schema", OBJECT, at) or {"type": "object"}, f"{at}schema")
