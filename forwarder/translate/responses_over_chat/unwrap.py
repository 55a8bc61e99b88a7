"""Unwraps ``{"input": "…"}`` while it streams in, so that freeform input streams out.

A chat upstream writes the input of a freeform tool as the one string field of a JSON object.
As long as the text begins as it should, the string's characters are given out as they come; what
looks different is held back for the tolerant reading of the whole.
"""

from __future__ import annotations

import json
import re

_HEAD = re.compile(r'\s*\{\s*"(?:input|patch|command|code|text|content)"\s*:\s*"')
_ESCAPE = re.compile(r'\\(?:u[0-9a-fA-F]{4}|["\\/bfnrt])')
_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}$")


class InputUnwrapper:
    """``feed`` takes arguments as they come and gives what of the input is certain."""

    def __init__(self) -> None:
        self._held = ""
        self._given: list[str] = []
        self._inside = False

    def feed(self, text: str) -> str:
        """The next piece of the input, perhaps empty."""
        self._held += text
        if not self._inside and not self._enter():
            return ""
        piece = self._decode()
        self._given.append(piece)
        return piece

    def rest(self, whole: str) -> str:
        """What is missing to make what was given the whole input."""
        given = "".join(self._given)
        return whole[len(given) :] if whole.startswith(given) else ""

    def _enter(self) -> bool:
        head = _HEAD.match(self._held)
        if head:
            self._held = self._held[head.end() :]
            self._inside = True
        return self._inside

    def _decode(self) -> str:
        """Take whole characters off the held text, up to the closing quote or a cut escape."""
        end = 0
        while end < len(self._held):
            char = self._held[end]
            if char == '"':
                break
            if char != "\\":
                end += 1
                continue
            escape = _ESCAPE.match(self._held, end)
            if escape is None:
                break
            end = escape.end()
        ready = self._held[:end]
        half = _SURROGATE.search(ready)  # the other half of the character is still to come
        if half:
            ready = ready[: half.start()]
        self._held = self._held[len(ready) :]
        return _unescape(ready)


def _unescape(text: str) -> str:
    return str(json.loads(f'"{text}"', strict=False)) if text else ""
