"""The page of one exchange: turns a record into the values for its template.

Pure. All texts are bounded, and their control characters are escaped; the template escapes HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from forwarder.console.answer_events import get_dict, list_dicts
from forwarder.console.exchange_comparison import AttemptBuilder, AttemptView, find_request
from forwarder.console.exchange_events import (
    CLIENT,
    AnswerPart,
    Phase,
    Row,
    collect_parts,
    find_phases,
    fold_entries,
    list_entries,
)
from forwarder.console.exchange_text import (
    ReadableJsonFormatter,
    shorten_text,
    show_body,
    show_headers,
    show_label,
    show_pairs,
)
from forwarder.core.terminal_text import escape_control_characters
from forwarder.core.types import Json
from forwarder.observability.capture.replay import is_content_redacted

MAX_ATTEMPTS = 8
"""Requests to upstreams that are compared with the client's; the first ones and the last."""

MAX_IMAGES = 6
MAX_IMAGE_LENGTH = 1_500_000
"""Characters of the data URL of an image that is shown."""

MAX_IMAGES_LENGTH = 3_000_000
MAX_SEARCHED_VALUES = 50_000

IMAGE_URL = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")


class ImageView(NamedTuple):
    """An image to show, or the reason why it is not shown."""

    url: str | None
    note: str


class ExchangeView(NamedTuple):
    """All that the page shows of a record; ``rows`` are its events."""

    summary: Json
    notices: list[str]
    facts: list[tuple[str, str]]
    dropped: list[tuple[str, str]]
    usage: str
    phases: list[Phase]
    attempts: list[AttemptView]
    more_attempts: int
    request_text: str
    request_headers: list[tuple[str, str]]
    answer_headers: list[tuple[str, str]]
    answer_parts: list[AnswerPart]
    images: list[ImageView]
    rows: list[Row]


def build_view(record: Json) -> ExchangeView:
    """Build the view of a record, which may be incomplete."""
    client = get_dict(record, "client")
    request, answer = get_dict(client, "request"), get_dict(client, "answer")
    client_request = find_request(client)
    attempts = list(enumerate(list_dicts(record.get("upstream")), 1))
    shown = (
        attempts if len(attempts) <= MAX_ATTEMPTS else [*attempts[: MAX_ATTEMPTS - 1], attempts[-1]]
    )
    entries, formatter = list_entries(record), ReadableJsonFormatter()
    builder = AttemptBuilder(record, client_request, entries, formatter)
    answers = [entry.data for entry in entries if entry.side == CLIENT and not entry.is_delta]
    return ExchangeView(
        summary=show_summary(get_dict(record, "exchange")),
        notices=list(list_notices(record)),
        facts=list(list_facts(record)),
        dropped=show_pairs(get_dict(record, "dropped").items()),
        usage=formatter.format(record["usage"]) if record.get("usage") else "",
        phases=find_phases(record, entries),
        attempts=[builder.build_attempt(number, attempt) for number, attempt in shown],
        more_attempts=len(attempts) - len(shown),
        request_text=show_body(request, formatter),
        request_headers=show_headers(request.get("headers")),
        answer_headers=show_headers(answer.get("headers")),
        answer_parts=collect_parts(entry for entry in entries if entry.side == CLIENT),
        images=find_images([request.get("body"), answers]),
        rows=fold_entries(entries),
    )


# -- facts ----------------------------------------------------------------------------------------


def show_summary(summary: Json) -> Json:
    """Return a summary with texts that are safe to show."""
    return {name: show_label(v) if isinstance(v, str) else v for name, v in summary.items()}


def list_facts(record: Json) -> Iterator[tuple[str, str]]:
    """Yield names and values about the whole exchange."""
    summary, request = get_dict(record, "exchange"), get_dict(get_dict(record, "client"), "request")
    yield "Request", f"{request.get('method', '')} {request.get('path', '')}".strip()
    for title, name in (
        ("Client", "client"), ("Route", "route"), ("Model", "model"), ("Upstream", "upstream"),
        ("Started", "time"), ("Request id", "request_id"), ("Error", "error"),
    ):  # fmt: skip
        if summary.get(name):
            yield title, show_label(summary[name])
    if record.get("retries"):
        yield "Retries", show_label(record["retries"])
    if record.get("failed"):
        yield "Failed upstreams", show_label(", ".join(map(str, record["failed"])))
    usage = get_dict(record, "usage")
    for title, names in (
        ("Input tokens", ("input_tokens", "prompt_tokens")),
        ("Output tokens", ("output_tokens", "completion_tokens")),
    ):
        count = next((usage[name] for name in names if type(usage.get(name)) is int), None)
        if count is not None:
            yield title, f"{count:,}"


def list_notices(record: Json) -> Iterator[str]:
    """Yield notices about the record as a whole."""
    summary = get_dict(record, "exchange")
    if summary.get("whole") is False:
        yield "The exchange is larger than FORWARDER_CAPTURE_MAX. Parts of it are left out."
    if summary.get("redacted") and is_content_redacted(record):
        yield "Secrets and the fields of FORWARDER_CAPTURE_REDACT are replaced by ***."
    if record.get("left"):
        yield "The client disconnected before the end."
    if "resumed" in get_dict(record, "client"):
        yield "The request continues stored history, which is part of the comparison below."
    if not record.get("upstream") and not summary.get("running"):
        yield "No upstream was called."


# -- images ---------------------------------------------------------------------------------------


def find_images(values: list[Any]) -> list[ImageView]:
    """Return the images in JSON values: data URLs of limited size, notes for all others."""
    images: list[ImageView] = []
    used = 0
    for found in dict.fromkeys(walk_images(values)):  # events repeat the images of an answer
        if len(images) >= MAX_IMAGES:
            images.append(ImageView(None, "There are more images, which are not shown."))
            break
        can_show = used + len(found) <= MAX_IMAGES_LENGTH and len(found) <= MAX_IMAGE_LENGTH
        if can_show and IMAGE_URL.fullmatch(found):
            used += len(found)
            images.append(ImageView(found, f"{len(found):,} characters"))
        elif found.startswith("data:"):
            head = shorten_text(found.partition(",")[0], 60)
            images.append(
                ImageView(None, escape_control_characters(f"{head}, {len(found):,} characters"))
            )
        else:
            images.append(ImageView(None, show_label(found)))
    return images


def walk_images(values: list[Any]) -> Iterator[str]:
    """Yield the URLs of images in JSON values, without recursion."""
    stack = list(reversed(values))
    for _ in range(MAX_SEARCHED_VALUES):
        if not stack:
            return
        value = stack.pop()
        if isinstance(value, list):
            stack += reversed(value)
        elif isinstance(value, dict):
            url = value.get("image_url")
            url = url.get("url") if isinstance(url, dict) else url
            if isinstance(url, str) and not url.startswith("data:image/"):
                yield url  # of another host: never loaded
            if value.get("type") == "image_generation_call" and isinstance(
                value.get("result"), str
            ):
                yield f"data:image/{value.get('output_format', 'png')};base64,{value['result']}"
            stack += reversed(list(value.values()))
        elif isinstance(value, str) and value.startswith("data:image/"):
            yield value
