"""The form an answer must have: ``response_format`` and ``text.format``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forwarder.demo.reading import JSON, OBJECT, TEXT, need, one_of, optional

KINDS = ("text", "json_object", "json_schema")


@dataclass(frozen=True)
class Format:
    """A schema that the answer must satisfy, and where in the request it stands."""

    schema: Any
    param: str


def format_of(spec: JSON | None, at: str, said: str, *, nested: bool) -> Format | None:
    """The format a request asks for, or None for plain text.

    ``at`` is the path of ``spec``; ``nested`` tells Chat's form, which wraps a schema and its
    name once more, from that of the Responses API.
    """
    if spec is None:
        return None
    kind = one_of(need(spec, "type", TEXT, at), KINDS, f"{at}type")
    if kind == "json_object":
        return Format({"const": {"demo": True, "you_said": said}}, at.rstrip("."))
    if kind == "text":
        return None
    if nested:
        spec, at = need(spec, kind, OBJECT, at), f"{at}{kind}."
    need(spec, "name", TEXT, at)
    return Format(optional(spec, "schema", OBJECT, at) or {"type": "object"}, f"{at}schema")
