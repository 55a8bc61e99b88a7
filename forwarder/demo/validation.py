"""Request validation common to both protocols, with OpenAI's messages and error codes.

``at`` is the path of the enclosing object including its final dot; errors name the full path.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.types import Json
from forwarder.core.validate import make_missing_parameter_error

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
    request: Json, kinds: Mapping[str, JsonKind], required: Collection[str]
) -> None:
    """Check the presence of required parameters and the types of all known ones.

    Null counts as absent; parameters that are not in ``kinds`` are not checked.
    """
    for name in required:
        require_field(request, name, kinds[name], "")
    for name, kind in kinds.items():
        read_field(request, name, kind, "")


def require_field(holder: Json, name: str, kind: JsonKind, at: str) -> Any:
    """Return ``holder[name]``, which must be present and of this kind."""
    if holder.get(name) is None:
        raise make_missing_parameter_error(at + name)
    return check_type(holder[name], kind, at + name)


def read_field(holder: Json, name: str, kind: JsonKind, at: str) -> Any:
    """Return ``holder[name]``, which must be of this kind, or ``None`` if absent."""
    value = holder.get(name)
    return None if value is None else check_type(value, kind, at + name)


def check_type(value: Any, kind: JsonKind, param: str) -> Any:
    """Return ``value``, which must be of this kind."""
    # In Python bool is a subclass of int; in JSON it is not a number.
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
    """Return ``value``, which must be one of ``allowed``."""
    if value not in allowed:
        names = ", ".join(f"'{name}'" for name in allowed)
        raise InvalidRequest(
            f"Invalid value: '{shorten_value(value)}'. Supported values are: {names}.",
            param=param,
            code="invalid_value",
        )
    return value


def read_objects(holder: Json, name: str, at: str = "") -> list[tuple[str, Json]]:
    """Return ``(path, object)`` for each element of the array ``holder[name]``, if present."""
    values = read_field(holder, name, ARRAY, at) or []
    paths = [f"{at}{name}[{index}]" for index in range(len(values))]
    return [
        (path, check_type(value, OBJECT, path)) for path, value in zip(paths, values, strict=True)
    ]


def read_integer(holder: Json, name: str, minimum: int) -> int | None:
    """Return ``holder[name]``, an integer of at least ``minimum``, or ``None`` if absent."""
    value: int | None = read_field(holder, name, WHOLE, "")
    if value is not None and value < minimum:
        raise InvalidRequest(
            f"Invalid '{name}': integer below minimum value. "
            f"Expected a value >= {minimum}, but got {shorten_value(value)} instead.",
            param=name,
            code="integer_below_min_value",
        )
    return value


def check_parts(holder: Json, name: str, allowed: Collection[str], at: str) -> None:
    """Check that content is a string or an array of parts of the allowed types."""
    if isinstance(holder[name], str):
        return
    check_type(holder[name], (str, list), at + name)
    for path, part in read_objects(holder, name, at):
        kind = check_enum(require_field(part, "type", TEXT, f"{path}."), allowed, f"{path}.type")
        if kind.endswith("text"):
            require_field(part, "text", TEXT, f"{path}.")


def join_text(content: Any) -> str:
    """Return the text of content; a part without text is represented by ``[type]``."""
    if content is None:
        return ""
    if isinstance(content, list):
        return " ".join(map(get_part_text, content))
    return get_part_text(content)


def get_part_text(part: Any) -> str:
    return str(part.get("text", f"[{part.get('type')}]") if isinstance(part, dict) else part)


def count_words(value: Any) -> int:
    """Count the words of all texts in messages or items."""
    if isinstance(value, str):
        return len(value.split())
    if isinstance(value, list):
        return sum(map(count_words, value))
    if isinstance(value, dict):
        return sum(count_words(value.get(key)) for key in TEXT_FIELDS)
    return 0
