"""Log lines as JSON objects, one a line, on standard error."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import orjson

from forwarder.core.errors import shorten

_OWN_WORDS = frozenset({"event", "message", "detail"})
"""Fields with texts of the forwarder; names and ids in the other fields may be a client's."""

_MAX_NAMES = 40


class JsonLines(logging.Formatter):
    """A record as ``{"time", "level", "logger", …}``; a message that is a dict is merged in."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if isinstance(record.msg, dict):
            line |= {k: v if k in _OWN_WORDS else _shorten(v) for k, v in record.msg.items()}
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def _shorten(value: Any) -> Any:
    """A text or a list of names as far as it says what was asked; bodies are logged whole."""
    if isinstance(value, str):
        return shorten(value)
    if not isinstance(value, list):
        return value
    more = len(value) - _MAX_NAMES
    return [*map(_shorten, value[:_MAX_NAMES]), *([f"and {more} more"] if more > 0 else [])]


def configure(level: str) -> None:
    """Send the forwarder's records to standard error, once."""
    root = logging.getLogger("forwarder")
    root.setLevel(level)
    root.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root.handlers[:] = [handler]
