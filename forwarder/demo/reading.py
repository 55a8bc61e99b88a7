"""What both request readers check in the same way, with the messages and codes OpenAI uses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from forwarder.core.errors import InvalidRequest

JSON = dict[str, Any]
JsonKind = tuple[type, ...]

TEXT: JsonKind = (str,)
WHOLE: JsonKind = (int,)
DECIMAL: JsonKind = (int, float)
FLAG: JsonKind = (bool,)
OBJECT: JsonKind = (dict,)
ARRAY: JsonKind = (list,)

TYPE_NAMES = {
    str: "a string",
    int: "an integer",
    float: "a decimal",
    bool: "a boolean",
    dict: "an object",
    list: "an array",
    type(None): "null",
}
TEXT_FIELDS = (
    "content", "text", "refusal", "tool_calls", "function", "custom", "arguments", "input", "output"
)  # fmt: skip


def check_parameters(
    request: JSON, kinds: Mapping[str, JsonKind], required: Collection[str]
) -> None:
    """Refuse a request that lacks a required parameter or has one of the wrong type.

    Null counts as absent, and parameters without a kind are left alone.
    """
    for name in required:
        require_field(request, name, kinds[name], "")
    for name, kind in kinds.items():
        read_field(request, name, kind, "")


def require_field(holder: JSON, name: str, kind: JsonKind, at: str) -> Any:
    """``holder[name]``, which must be there and of the kind; ``at`` is the path of the holder."""
    if holder.get(name) is None:
        raise InvalidRequest(
            f"Missing required parameter: '{at}{name}'.",
            param=at + name,
            code="missing_required_parameter",
        )
    return check_type(holder[name], kind, at + name)


def read_field(holder: JSON, name: str, kind: JsonKind, at: str) -> Any:
    """``holder[name]`` or None; when it is there it must be of the kind."""
    value = holder.get(name)
    return None if value is None else check_type(value, kind, at + name)


def check_type(value: Any, kind: JsonKind, param: str) -> Any:
    """``value``, which must be of the kind."""
    # bool is an int to Python, not to JSON.
    if isinstance(value, kind) and (bool in kind or not isinstance(value, bool)):
        return value
    wanted = " or ".join(TYPE_NAMES[one] for one in kind if one is not int or kind == WHOLE)
    raise InvalidRequest(
        f"Invalid type for '{param}': expected {wanted}, "
        f"but got {TYPE_NAMES[type(value)]} instead.",
        param=param,
        code="invalid_type",
    )


def check_enum(value: Any, allowed: Collection[str], param: str) -> Any:
    """``value``, which must be one of those allowed."""
    if value not in allowed:
        names = ", ".join(f"'{name}'" for name in allowed)
        raise InvalidRequest(
            f"Invalid value: '{value}'. Supported values are: {names}.",
            param=param,
            code="invalid_value",
        )
    return value


def read_objects(holder: JSON, name: str, at: str = "") -> list[tuple[str, JSON]]:
    """The objects of the array ``holder[name]``, each with its path; absent counts as empty."""
    values = read_field(holder, name, ARRAY, at) or []
    paths = [f"{at}{name}[{index}]" for index in range(len(values))]
    return [
        (path, check_type(value, OBJECT, path)) for path, value in zip(paths, values, strict=True)
    ]


def read_integer(holder: JSON, name: str, least: int) -> int | None:
    """``holder[name]``, an integer not below ``least``, or None."""
    value: int | None = read_field(holder, name, WHOLE, "")
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
    check_type(holder[name], (str, list), at + name)
    for path, part in read_objects(holder, name, at):
        kind = check_enum(require_field(part, "type", TEXT, f"{path}."), allowed, f"{path}.type")
        if kind.endswith("text"):
            require_field(part, "text", TEXT, f"{path}.")


def join_text(content: Any) -> str:
    """The text of a string, of parts, or of nothing; a part without text appears as its type."""
    if content is None:
        return ""
    return (
        " ".join(map(get_part_text, content))
        if isinstance(content, list)
        else get_part_text(content)
    )


def get_part_text(part: Any) -> str:
    return str(part.get("text", f"[{part.get('type')}]") if isinstance(part, dict) else part)


def count_words(value: Any) -> int:
    """How many words the texts of messages or items have."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(map(count_words, value))
    if isinstance(value, dict):
        return sum(count_words(value.get(key)) for key in TEXT_FIELDS)
    return 0
