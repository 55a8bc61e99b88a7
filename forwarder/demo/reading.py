"""What both request readers check in the same way, with the messages and codes OpenAI uses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from forwarder.core.errors import InvalidRequest

JSON = dict[str, Any]
Kind = tuple[type, ...]

TEXT: Kind = (str,)
WHOLE: Kind = (int,)
DECIMAL: Kind = (int, float)
FLAG: Kind = (bool,)
OBJECT: Kind = (dict,)
ARRAY: Kind = (list,)

WORDS = {
    str: "a string",
    int: "an integer",
    float: "a decimal",
    bool: "a boolean",
    dict: "an object",
    list: "an array",
    type(None): "null",
}
TEXT_KEYS = (
    "content", "text", "refusal", "tool_calls", "function", "custom", "arguments", "input", "output"
)  # fmt: skip


def check(request: JSON, kinds: Mapping[str, Kind], required: Collection[str]) -> None:
    """Refuse a request that lacks a required parameter or has one of the wrong type.

    Null counts as absent, and parameters without a kind are left alone.
    """
    for name in required:
        need(request, name, kinds[name], "")
    for name, kind in kinds.items():
        optional(request, name, kind, "")


def need(holder: JSON, name: str, kind: Kind, at: str) -> Any:
    """``holder[name]``, which must be there and of the kind; ``at`` is the path of the holder."""
    if holder.get(name) is None:
        raise InvalidRequest(
            f"Missing required parameter: '{at}{name}'.",
            param=at + name,
            code="missing_required_parameter",
        )
    return typed(holder[name], kind, at + name)


def optional(holder: JSON, name: str, kind: Kind, at: str) -> Any:
    """``holder[name]`` or None; when it is there it must be of the kind."""
    value = holder.get(name)
    return None if value is None else typed(value, kind, at + name)


def typed(value: Any, kind: Kind, param: str) -> Any:
    """``value``, which must be of the kind."""
    # bool is an int to Python, not to JSON.
    if isinstance(value, kind) and (bool in kind or not isinstance(value, bool)):
        return value
    wanted = " or ".join(WORDS[one] for one in kind if one is not int or kind == WHOLE)
    raise InvalidRequest(
        f"Invalid type for '{param}': expected {wanted}, but got {WORDS[type(value)]} instead.",
        param=param,
        code="invalid_type",
    )


def one_of(value: Any, allowed: Collection[str], param: str) -> Any:
    """``value``, which must be one of those allowed."""
    if value not in allowed:
        names = ", ".join(f"'{name}'" for name in allowed)
        raise InvalidRequest(
            f"Invalid value: '{value}'. Supported values are: {names}.",
            param=param,
            code="invalid_value",
        )
    return value


def objects(holder: JSON, name: str, at: str = "") -> list[tuple[str, JSON]]:
    """The objects of the array ``holder[name]``, each with its path; absent counts as empty."""
    values = optional(holder, name, ARRAY, at) or []
    paths = [f"{at}{name}[{index}]" for index in range(len(values))]
    return [(path, typed(value, OBJECT, path)) for path, value in zip(paths, values, strict=True)]


def at_least(holder: JSON, name: str, least: int) -> int | None:
    """``holder[name]``, an integer not below ``least``, or None."""
    value: int | None = optional(holder, name, WHOLE, "")
    if value is not None and value < least:
        raise InvalidRequest(
            f"Invalid '{name}': integer below minimum value. "
            f"Expected a value >= {least}, but got {value} instead.",
            param=name,
            code="integer_below_min_value",
        )
    return value


def check_parts(holder: JSON, name: str, allowed: Collection[str], at: str) -> None:
    """Check content that is a string or an array of parts of the allowed types."""
    if isinstance(holder[name], str):
        return
    typed(holder[name], (str, list), at + name)
    for path, part in objects(holder, name, at):
        kind = one_of(need(part, "type", TEXT, f"{path}."), allowed, f"{path}.type")
        if kind.endswith("text"):
            need(part, "text", TEXT, f"{path}.")


def text_of(content: Any) -> str:
    """The text of a string, of parts, or of nothing; a part without text appears as its type."""
    if content is None:
        return ""
    return " ".join(map(_part_text, content)) if isinstance(content, list) else _part_text(content)


def _part_text(part: Any) -> str:
    return str(part.get("text", f"[{part.get('type')}]") if isinstance(part, dict) else part)


def count_words(value: Any) -> int:
    """How many words the texts of messages or items have."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(map(count_words, value))
    if isinstance(value, dict):
        return sum(count_words(value.get(key)) for key in TEXT_KEYS)
    return 0
