"""Reads upstream errors of any shape, and classifies them into the kinds that clients know.

``UpstreamRefused`` applies this to all errors, so that HTTP errors, errors inside a stream or a
whole answer, retries and fallbacks agree.

The evidence is checked in this order: a code or type in the tables of `error_kinds`, the wording of
the message, the HTTP status.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from forwarder.core.error_kinds import (
    CODES_FOR_CLIENTS,
    COMPLETION_LIMIT_NUMBER,
    CONTEXT_LIMIT_NUMBER,
    FIELD_ERROR_CODES,
    KEY_REFUSAL_STATUSES,
    KIND_BY_CODE,
    KIND_BY_STATUS,
    QUOTED_INPUT_MARK,
    RULES,
    SCHEMA_ERROR_WORDING,
    STATUS_BY_CODE,
    WORDINGS,
    ErrorKind,
    normalize_code,
)
from forwarder.core.json_lenient import parse_lenient
from forwarder.core.types import Json

MAX_SEARCHED_CHARACTERS = 4096
"""Characters of an error's text that are searched."""

MAX_WRAPPER_DEPTH = 4
"""Levels of wrapping around an error object that are removed."""


# -- reading an error ---------------------------------------------------------------------------

_NESTED_ERROR_FIELDS = ("error", "errors", "detail")
"""Fields that hold an error object or a list of them; with a ``message``, only ``error`` counts."""

_MESSAGE_FIELDS = (
    "message",
    "detail",
    "msg",
    "error_msg",
    "error_message",
    "errorMessage",
    "Message",
    "status_msg",
    "error_description",
    "description",
    "title",
    "error",
    "errors",
)
"""Fields that hold an error's text, in the order in which they are taken."""

_CODE_FIELDS = ("code", "error_code", "errorCode", "__type")
"""Fields that hold an error's code."""

_WRAPPER_FIELDS = ("message", "code", "type", "param")
"""Fields that an inner error object inherits from the objects around it if it lacks them."""

_EVENT_FIELDS = frozenset({"sequence_number", "event_id", "stream_id"})
"""Fields of a stream event that do not belong to its error."""


def read_error(body: object) -> Json:
    """Extract the error object from an error body of any shape; it always has a ``message``.

    ``code``, ``type`` and ``param`` are present if the body has them; other fields are kept.
    """
    error = unwrap_error(body)
    source = next((name for name in _MESSAGE_FIELDS if error.get(name)), "message")
    code = next((error[name] for name in _CODE_FIELDS if error.get(name) is not None), None)
    if code is None and source != "error" and isinstance(error.get("error"), str):
        code = error["error"]  # a short name beside the text that explains it
    fields = {k: v for k, v in error.items() if k not in (*_EVENT_FIELDS, source, "error")}
    if fields.get("type") == "error":  # the type of the event
        del fields["type"]
    if code is not None:
        fields["code"] = code
    return {"message": str(error.get(source) or ""), **fields}


def unwrap_error(body: object) -> Json:
    """Return the object with the message, plus fields that only its wrappers have."""
    value = parse_body(body)
    for _ in range(MAX_WRAPPER_DEPTH):
        has_message = isinstance(value.get("message"), str)
        names = ("error",) if has_message else _NESTED_ERROR_FIELDS
        inner = next(filter(None, (find_inner_error(value.get(name)) for name in names)), None)
        if inner is None:
            break
        outer = {k: value[k] for k in _WRAPPER_FIELDS if value.get(k) is not None}
        value = {**outer, **inner}
    return value


def parse_body(body: object) -> Json:
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    if isinstance(body, str):
        text = body.strip()
        body = parse_embedded_json(text)
        if not isinstance(body, dict | list):
            return {"message": text}
    if isinstance(body, dict):
        return body
    return find_inner_error(body) or {"message": str(body)}


def find_inner_error(value: object) -> Json | None:
    """Return the error object in a field: directly, in a list, or as JSON in a string."""
    if isinstance(value, str):
        value = parse_embedded_json(value)
    if isinstance(value, list) and value and isinstance(value[0], dict) and "loc" not in value[0]:
        value = value[0]  # a list of pydantic's errors stays the message text
    return value if isinstance(value, dict) and value else None


def parse_embedded_json(text: str) -> object:
    """Parse the JSON object or list in a text, which may be framed as an SSE event, else None."""
    text = text.strip().removeprefix("data:").strip()
    if not text.startswith(("{", "[")):
        return None
    try:
        return parse_lenient(text.encode(errors="surrogatepass"))
    except ValueError:
        return None


# -- classifying --------------------------------------------------------------------------------


class Classification(NamedTuple):
    """An error in OpenAI's terms; ``kind`` is None if it belongs to no kind."""

    kind: ErrorKind | None
    status: int
    code: str | None
    type: str | None


def classify(status: int | None, error: Mapping[str, Any]) -> Classification:
    """Classify an error object; ``status`` is None if it came inside a 200 response."""
    errors = [error, *iter_nested_errors(error)]
    codes = [code for each in errors for code in iter_codes(each)]
    known_status = status or next(filter(None, map(parse_status, codes)), None)
    code, type_ = to_text(error.get("code")), to_text(error.get("type"))
    kind, client_code = find_kind_by_code(codes, known_status)
    if kind is None:
        texts = (
            QUOTED_INPUT_MARK.split(part, 1)[0] for each in errors for part in iter_texts(each)
        )
        text = "\n".join(texts)[:MAX_SEARCHED_CHARACTERS]
        kind = find_kind_by_wording(known_status or find_status_by_code(codes), text, code or "")
    if kind is None:
        kind = KIND_BY_STATUS.get(known_status or 0)
        client_code = code if code and not _is_generic_code(code) else None
    if kind is None:
        return Classification(None, known_status or infer_status(code, type_), code, type_)
    rule = RULES[kind]
    final = known_status if known_status in rule.statuses else rule.statuses[0]
    code = client_code or kind.value
    if kind is ErrorKind.QUOTA_EXHAUSTED:  # OpenAI repeats the code as the type, which Codex reads
        type_ = code
    return Classification(kind, final, code, rule.type or type_)


def find_kind_by_code(codes: list[str], status: int | None) -> tuple[ErrorKind | None, str | None]:
    """Return the kind of the first code that has one, and the code if the client may see it."""
    for code in codes:
        name = normalize_code(code)
        kind = KIND_BY_CODE.get(name)
        if kind is ErrorKind.KEY_REFUSED and status not in KEY_REFUSAL_STATUSES:
            continue  # for example, a key that is invalid because the account has no credit
        if kind is not None:
            return kind, CODES_FOR_CLIENTS.get(name)
    return None, None


def find_kind_by_wording(status: int | None, text: str, code: str) -> ErrorKind | None:
    if FIELD_ERROR_CODES.search(code) or SCHEMA_ERROR_WORDING.search(text):
        return None
    for kind, statuses, pattern in WORDINGS:
        if status in statuses and pattern.search(text):
            if kind is ErrorKind.CONTEXT_TOO_LONG and is_completion_limit_too_large(text):
                continue
            if kind is ErrorKind.OVERLOADED and code and parse_status(code) is None:
                continue  # the provider's specific code is better evidence than the wording
            return kind
    return None


def is_completion_limit_too_large(text: str) -> bool:
    """Return whether the output limit alone exceeds the context, so that no prompt would fit."""
    limit = find_number(CONTEXT_LIMIT_NUMBER, text)
    completion = find_number(COMPLETION_LIMIT_NUMBER, text)
    return limit is not None and completion is not None and completion >= limit


def find_number(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return match and int(next(filter(None, match.groupdict().values()))[:18])


def iter_nested_errors(error: Mapping[str, Any]) -> Iterator[Json]:
    """Yield the errors that an error quotes: a router quotes its provider's error."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    for inner in (raw, error.get("innererror"), error.get("inner_error")):
        if inner:
            yield read_error(inner)


def iter_codes(error: Mapping[str, Any]) -> Iterator[str]:
    for name in ("code", "type", "status"):
        if isinstance(error.get(name), str | int):
            yield str(error[name])
    for detail in list_details(error):
        if isinstance(detail.get("reason"), str):
            yield detail["reason"]


def iter_texts(error: Mapping[str, Any]) -> Iterator[str]:
    yield str(error.get("message") or "")
    details = error.get("details")
    if isinstance(details, str):
        yield details
    for detail in list_details(error):
        yield str(detail.get("message") or "")


def list_details(error: Mapping[str, Any]) -> list[Json]:
    details = error.get("details")
    return [d for d in details if isinstance(d, dict)] if isinstance(details, list) else []


def parse_status(code: str) -> int | None:
    """Return the HTTP status if the code is one, as with some providers."""
    return int(code) if re.fullmatch(r"[45]\d\d", code) else None


def _is_generic_code(code: str) -> bool:
    """Return whether a code only repeats the HTTP status, as a number or in words."""
    return parse_status(code) is not None or normalize_code(code) in STATUS_BY_CODE


def find_status_by_code(codes: Iterable[str]) -> int | None:
    """Return the HTTP status that belongs to the first known code or type."""
    names = map(normalize_code, codes)
    return next((STATUS_BY_CODE[name] for name in names if name in STATUS_BY_CODE), None)


def infer_status(code: str | None, type_: str | None) -> int:
    """Infer the HTTP status from code or type; an unknown code without a type means 400."""
    meant = find_status_by_code(filter(None, (code, type_)))
    return meant or (400 if code and (not type_ or FIELD_ERROR_CODES.search(code)) else 502)


def to_text(value: object) -> str | None:
    return None if value is None else str(value)
