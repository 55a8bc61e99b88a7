"""Reads the input of freeform tools from the arguments of a function, whole or while it streams.

A chat upstream has no freeform tools, so the model writes their input as the one string field of
a JSON object: ``{"input": "…"}``.  Models make typical mistakes in this JSON, and the readers here
accept them: raw line breaks in strings, backslashes that escape nothing, other field names, or
text without JSON.  Lone surrogates are replaced, because no encoder accepts them.
"""

from __future__ import annotations

import json
import re
from typing import Any

from forwarder.core.types import Json

_INPUT_NAMES = ("input", "patch", "command", "code", "text", "content")

INPUT_HEAD = re.compile(rf'\s*\{{\s*"(?:{"|".join(_INPUT_NAMES)})"\s*:\s*"')
"""The start of arguments that wrap a freeform input, up to the input's opening quote."""

_JSON_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})?')


def read_json(text: str) -> Any:
    """Parse JSON as a model writes it.  Raises ValueError if it is not JSON at all."""
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        # A backslash that escapes nothing stands for itself.
        escaped = _JSON_ESCAPE.sub(lambda m: "\\\\" if m.group() == "\\" else m.group(), text)
        value = json.loads(escaped, strict=False)
    return replace_lone_surrogates(value) if "\\ud" in text.lower() else value


def read_object(text: str) -> Json:
    """Parse a JSON object; anything else becomes an empty object, because clients need one."""
    try:
        value = read_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def read_custom_input(arguments: str) -> str:
    """Return the freeform input from a function's arguments.

    Models put it into the field ``input``, as the schema says, into another field, or into none.
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


def replace_lone_surrogates(value: Any) -> Any:
    """Replace each surrogate without its other half by the replacement character."""
    plain = json.dumps(value, ensure_ascii=False)
    return json.loads(plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


# -- streams ------------------------------------------------------------------------------------

_CERTAIN_TEXT = re.compile(
    r"""(?: [^"\\]++                                  # plain text
          | \\ [^u]                                   # a short escape
          | \\u (?! [dD][89abAB]) [0-9a-fA-F]{4}      # a character
          | \\u [0-9a-fA-F]{4} (?= \\u[0-9a-fA-F]{4}  # a high surrogate, if a whole escape
                                 | \\[^u] | [^\\])    # or another character follows
          | \\u (?! [0-9a-fA-F]{0,3}\Z | [0-9a-fA-F]{4})  # not a valid escape
        )*+""",
    re.VERBOSE,
)
"""The part of a JSON string that later text cannot change, up to its closing quote."""


class InputUnwrapper:
    """Unwraps ``{"input": "…"}`` while it streams in.

    ``feed`` returns the characters of the string as soon as they are certain.  Arguments that do
    not begin as expected are held back for ``finish``, which reads them as a whole.
    """

    def __init__(self) -> None:
        self._pending = ""
        self._emitted: list[str] = []
        self._in_string = False

    def feed(self, text: str) -> str:
        """Add a piece of the arguments; return the next piece of the input, possibly empty."""
        self._pending += text
        if not self._in_string:
            head = INPUT_HEAD.match(self._pending)
            if not head:
                return ""
            self._pending = self._pending[head.end() :]
            self._in_string = True
        certain = _CERTAIN_TEXT.match(self._pending)
        ready = certain.group() if certain else ""
        self._pending = self._pending[len(ready) :]
        piece = str(read_json(f'"{ready}"')) if ready else ""
        self._emitted.append(piece)
        return piece

    def finish(self, arguments: str) -> str:
        """Return the whole input for all ``arguments``; it starts with the pieces of `feed`."""
        emitted = "".join(self._emitted)
        whole = read_custom_input(arguments)
        if self._in_string and (whole == arguments or not whole.startswith(emitted)):
            return emitted  # the arguments are incomplete, or are not JSON after all
        return whole
