"""What models write when they are to write JSON: read as they meant it.

Strings hold raw line breaks, backslashes that escape nothing, and halves of surrogate pairs,
which no encoder takes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from forwarder.core.types import Json

_INPUT_NAMES = ("input", "patch", "command", "code", "text", "content")

INPUT_HEAD = re.compile(rf'\s*\{{\s*"(?:{"|".join(_INPUT_NAMES)})"\s*:\s*"')
"""How arguments begin that wrap a freeform input."""

_JSON_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})?')


def read_json(text: str) -> Any:
    """The JSON value; raises ValueError when it is none."""
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        value = json.loads(_JSON_ESCAPE.sub(escape_backslash, text), strict=False)
    return replace_lone_surrogates(value) if "\\ud" in text.lower() else value


def read_object(text: str) -> Json:
    """The JSON object, or an empty one: clients want an object."""
    try:
        value = read_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def read_custom_input(arguments: str) -> str:
    """The freeform input that a model wrapped into a function's arguments.

    Models wrap it as they were told (``{"input": …}``), under another name, or not at all.
    """
    try:
        value = read_json(arguments)
    except ValueError:
        return arguments
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        for name in _INPUT_NAMES:
            if isinstance(value.get(name), str):
                return str(value[name])
    return arguments


def escape_backslash(match: re.Match[str]) -> str:
    """A backslash that escapes nothing stands for itself."""
    return "\\\\" if match.group() == "\\" else match.group()


def replace_lone_surrogates(value: Any) -> Any:
    """The value with a replacement character for every surrogate that has no other half."""
    plain = json.dumps(value, ensure_ascii=False)
    return json.loads(plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
