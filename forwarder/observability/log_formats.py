"""The two formats of log records: JSON for machines, text for people.

Values in both may come from clients and remote servers. JSON escapes them itself; text escapes
their control characters, which could change the display of a terminal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from textwrap import indent
from typing import Any

import click
import orjson

from forwarder.config.parsers import ANONYMOUS_CLIENT
from forwarder.core.errors import MAX_QUOTED_CHARACTERS, shorten_value
from forwarder.core.terminal_text import escape_control_characters, escape_line

UNSHORTENED_FIELDS = frozenset({"event", "message", "detail"})
"""Fields that the forwarder writes itself. Other fields may hold client input: cut their length."""

MAX_LOGGED_NAMES = 40

_LEVEL_COLORS = {"DEBUG": "bright_black", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
_STATUS_COLORS = {2: "green", 3: "cyan", 4: "yellow", 5: "red"}
_LABEL_WIDTH = 11
_ROUTE_WIDTH = 14
MAX_SHOWN_NAMES = 12
"""Names of one list, such as the dropped fields, that a line of text shows."""

# -- JSON ------------------------------------------------------------------------------------------


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
            line |= shorten_fields(record.msg)
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


@lru_cache(maxsize=1)
def format_second(seconds: int) -> str:
    """Return a Unix time in RFC 3339 format, without the time zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def shorten_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record with the values of clients cut to a length."""
    return {
        k: shorten_field(v) if isinstance(v, str | list) and k not in UNSHORTENED_FIELDS else v
        for k, v in fields.items()
    }


def shorten_field(value: Any) -> Any:
    """Shorten a string or a list of names. Other values, such as bodies, stay whole."""
    if isinstance(value, str):
        return value if len(value) <= MAX_QUOTED_CHARACTERS else shorten_value(value)
    if not isinstance(value, list):
        return value
    more = len(value) - MAX_LOGGED_NAMES
    return [
        *map(shorten_field, value[:MAX_LOGGED_NAMES]),
        *([f"and {more} more"] if more > 0 else []),
    ]


# -- text ------------------------------------------------------------------------------------------


class TextFormatter(logging.Formatter):
    """Formats a record as one line of text, with colours if ``color`` is true.

    The record of a request has its own form, and so has the record of the start. Tracebacks follow
    on lines of their own.
    """

    def __init__(self, color: bool) -> None:
        super().__init__()
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = shorten_fields(record.msg) if isinstance(record.msg, dict) else {}
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        if fields.get("event") == "started":
            return "\n".join(self._format_banner(record.msg))  # type: ignore[arg-type]
        if fields.get("event") == "request_done":
            message = getattr(record, "error_message", None)
            parts = list(self._format_request(fields, message))
        else:
            parts = [self._paint(record.levelname, _LEVEL_COLORS.get(record.levelname)), " "]
            parts.append(format_fields(fields) if fields else escape_line(record.getMessage()))
        line = "".join([self._paint(clock, "bright_black"), "  ", *parts])
        if record.exc_info:
            trace = escape_control_characters(self.formatException(record.exc_info))
            line += "\n" + self._paint(indent(trace, "    "), "bright_black")
        return line

    def _format_request(self, fields: Mapping[str, Any], message: str | None) -> Iterator[str]:
        """Yield the parts of the line of a request; ``message`` is that of its error."""
        status = int(fields["status"])
        yield format_route(fields).ljust(_ROUTE_WIDTH)
        yield "  " + self._paint(str(status), _STATUS_COLORS.get(status // 100), bold=True)
        client = fields.get("client", ANONYMOUS_CLIENT)
        if client != ANONYMOUS_CLIENT:
            yield "  " + self._paint(format_value(client), "magenta")
        if target := format_target(fields):
            yield "  " + target
        yield "  " + self._paint(format_times(fields), "bright_black")
        if tokens := format_tokens(fields):
            yield "  " + tokens
        if fields.get("failed"):
            yield self._paint(f"  failed at {format_names(fields['failed'])}", "yellow")
        if fields.get("retries"):
            yield self._paint(f"  {fields['retries']} retried", "yellow")
        if fields.get("error"):
            text = format_value(fields["error"])
            message = message or fields.get("detail")
            text += f": {format_value(message)}" if message else ""
            yield "  " + self._paint(text, _STATUS_COLORS.get(max(status // 100, 4)))
        if fields.get("dropped"):
            yield self._paint(f"  dropped {format_names(fields['dropped'])}", "yellow")
        if status >= 400:
            yield "  " + self._paint(format_value(fields["id"]), "bright_black")

    def _format_banner(self, fields: Mapping[str, Any]) -> Iterator[str]:
        """Yield the lines about a process that has started."""
        yield self._paint(f"Forwarder {fields['version']}", "cyan", bold=True)
        for upstream in fields["upstreams"]:
            apis = " and ".join(upstream["protocols"])
            notes = f"{apis}, profile {upstream['profile']}, {_KEY_TEXTS[upstream['key']]}"
            yield _format_row("upstream", f"{upstream['name']}  {upstream['url']}  ({notes})")
        yield _format_row("clients", _CLIENT_TEXTS[fields["needs_keys"]])
        yield _format_row("capture", fields["capture"])
        yield _format_row("store", fields["store"])
        for name, urls in (("serves", fields["addresses"]), ("console", fields["console"])):
            for url in urls:
                yield _format_row(name, url)

    def _paint(self, text: str, color: str | None, bold: bool = False) -> str:
        return click.style(text, fg=color, bold=bold or None) if self._color else text


_KEY_TEXTS = {"own": "with a key", "client": "the clients' keys", "none": "no key"}
_CLIENT_TEXTS = {True: "need a key", False: "need no key"}


def _format_row(label: str, value: str) -> str:
    return f"  {label:<{_LABEL_WIDTH}}{format_value(value)}"


def format_value(value: object) -> str:
    """Return a value on one line, cut and without control characters."""
    return escape_line(shorten_value(value))


def format_names(names: list[str]) -> str:
    more = len(names) - MAX_SHOWN_NAMES
    shown = ", ".join(map(format_value, names[:MAX_SHOWN_NAMES]))
    return f"{shown} and {more} more" if more > 0 else shown


def format_fields(fields: Mapping[str, Any]) -> str:
    """Return the event and the other fields of a record as ``name=value``."""
    pairs = (
        f"{name}={escape_line(value if isinstance(value, str) else encode_value(value))}"
        for name, value in fields.items()
        if name != "event"
    )
    return "  ".join([str(fields.get("event", "")), *pairs]).strip()


def encode_value(value: object) -> str:
    return orjson.dumps(value, default=str).decode()


def format_route(fields: Mapping[str, Any]) -> str:
    """Return ``POST chat``. A route that does not exist has its method in its name already."""
    method, route = fields.get("method"), str(fields["route"])
    return format_value(route if method is None or " " in route else f"{method} {route}")


def format_target(fields: Mapping[str, Any]) -> str:
    """Return ``gpt-4o → qwen-max at chat``: the client's model, the upstream's, and the upstream.

    The client's name is left out if it is the upstream's too.
    """
    names = (fields.get("requested_model"), fields.get("model"))
    models = [format_value(name) for name in dict.fromkeys(names) if name]
    upstream = fields.get("upstream")
    return " → ".join(models) + (f" at {format_value(upstream)}" if upstream else "")


def format_times(fields: Mapping[str, Any]) -> str:
    """Return the duration and the time to the first event."""
    first = fields.get("first_event_ms")
    waited = "" if first is None else f" (first {format_milliseconds(first)})"
    return format_milliseconds(fields["duration_ms"]) + waited


def format_milliseconds(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def format_tokens(fields: Mapping[str, Any]) -> str:
    """Return ``12 in, 34 out``, as far as the upstream has reported them."""
    counts = (("in", fields.get("input_tokens")), ("out", fields.get("output_tokens")))
    return ", ".join(f"{count} {name}" for name, count in counts if count is not None)
