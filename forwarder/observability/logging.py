"""Logging: one JSON object per line on standard error, and the lines about the configuration."""

from __future__ import annotations

import logging
import sys
import time
from functools import lru_cache
from typing import Any

import orjson

from forwarder.config.settings import Settings
from forwarder.core.encryption import MIN_STRONG_SECRET_LENGTH
from forwarder.core.errors import shorten_value

log = logging.getLogger("forwarder.app")

UNSHORTENED_FIELDS = frozenset({"event", "message", "detail"})
"""Fields that the forwarder writes itself. Other fields may hold client input: cut their length."""

MAX_LOGGED_NAMES = 40


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: ``{"time", "level", "logger", "event", …}``.

    ``event`` names the kind of record. A log call passes it as ``extra={"event": ...}``
    or as a key of a dict message. The formatter merges a dict message into the object
    and writes any other message as ``"message"``.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{format_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if event := getattr(record, "event", None):
            line["event"] = event
        if isinstance(record.msg, dict):
            line |= {
                k: v if k in UNSHORTENED_FIELDS else shorten_field(v) for k, v in record.msg.items()
            }
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


@lru_cache(maxsize=1)
def format_second(seconds: int) -> str:
    """Return a Unix time in RFC 3339 format, without the time zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def shorten_field(value: Any) -> Any:
    """Shorten a string or a list of names. Other values, such as bodies, stay whole."""
    if isinstance(value, str):
        return shorten_value(value)
    if not isinstance(value, list):
        return value
    more = len(value) - MAX_LOGGED_NAMES
    return [
        *map(shorten_field, value[:MAX_LOGGED_NAMES]),
        *([f"and {more} more"] if more > 0 else []),
    ]


def configure_logging(level: str) -> None:
    """Send the forwarder's log records to standard error. Repeated calls replace the handler."""
    root = logging.getLogger("forwarder")
    root.setLevel(level)
    root.propagate = False
    # Skip what no formatter here shows: a walk through the stack, and the names of threads.
    # https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root.handlers[:] = [handler]


def log_configuration(settings: Settings) -> None:
    """Log the upstreams, and warn about settings that are unsafe or surprising."""
    if settings.demo:
        log.warning(
            "No upstream is configured: answering from the built-in demo. "
            "Set CHAT_BASE_URL or RESPONSES_BASE_URL to use a provider.",
            extra={"event": "demo_upstream"},
        )
    if any(len(secret) < MIN_STRONG_SECRET_LENGTH for secret in settings.secret_keys):
        log.warning(
            "FORWARDER_SECRET_KEY contains a secret of fewer than %d characters, which an attacker "
            "may guess. Put a long random secret in front of it (openssl rand -base64 32).",
            MIN_STRONG_SECRET_LENGTH,
            extra={"event": "weak_secret_key"},
        )
    for upstream in settings.upstreams:
        log.info(
            "upstream '%s' speaks %s",
            upstream.name,
            "/".join(sorted(upstream.apis)),
            extra={"event": "upstream_configured"},
        )
