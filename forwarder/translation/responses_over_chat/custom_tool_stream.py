"""Unwraps ``{"input": "…"}`` while it streams in, so that freeform input streams out.

A chat upstream writes the input of a freeform tool as the one string field of a JSON object.
As long as the text begins as it should, the string's characters are given out as they come; what
looks different is held back for the tolerant reading of the whole.
"""

from __future__ import annotations

import re

from forwarder.translation.responses_over_chat.custom_tool_input import (
    INPUT_HEAD,
    read_custom_input,
    read_json,
)

_CERTAIN_TEXT = re.compile(
    r"""(?: [^"\\]++                                  # plain text
          | \\ [^u]                                   # a short escape
          | \\u (?! [dD][89abAB]) [0-9a-fA-F]{4}      # a character
          | \\u [0-9a-fA-F]{4} (?= \\u[0-9a-fA-F]{4}  # half of one, and the half that follows
                                 | \\[^u] | [^\\])    # or what follows instead
          | \\u (?! [0-9a-fA-F]{0,3}\Z | [0-9a-fA-F]{4})  # no escape at all
        )*+""",
    re.VERBOSE,
)
"""The part of a JSON string that no further text can change, up to its closing quote."""


class InputUnwrapper:
    """``feed`` takes arguments as they come and gives what of the input is certain."""

    def __init__(self) -> None:
        self._held = ""
        self._given: list[str] = []
        self._in_string = False

    def feed(self, text: str) -> str:
        """The next piece of the input, perhaps empty."""
        self._held += text
        if not self._in_string and not self._skip_head():
            return ""
        piece = self._decode()
        self._given.append(piece)
        return piece

    def finish(self, arguments: str) -> str:
        """The whole input, once all the arguments are there; what was given out stays."""
        given = "".join(self._given)
        read = read_custom_input(arguments)
        if self._in_string and (read == arguments or not read.startswith(given)):
            return given  # it was cut off, or is no JSON after all
        return read

    def _skip_head(self) -> bool:
        head = INPUT_HEAD.match(self._held)
        if head:
            self._held = self._held[head.end() :]
            self._in_string = True
        return self._in_string

    def _decode(self) -> str:
        certain = _CERTAIN_TEXT.match(self._held)
        ready = certain.group() if certain else ""
        self._held = self._held[len(ready) :]
        return str(read_json(f'"{ready}"')) if ready else ""
