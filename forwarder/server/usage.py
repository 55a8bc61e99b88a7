"""Reports of usage: ``GET /forwarder/usage``, and in the form of OpenAI's usage API.

Administrators see all usage, a client with a key of its own sees its own.
"""

from __future__ import annotations

import re
import time

from flask import Blueprint, Response, request

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import Json
from forwarder.core.validate import check_enum
from forwarder.server import request_hooks
from forwarder.server.auth import has_key, is_client_key, read_key, require_administrator
from forwarder.server.extension import get_services
from forwarder.server.serving import json_answer
from forwarder.storage.db.usage import DAY_SECONDS, HOUR_SECONDS
from forwarder.usage.report import (
    UsageLine,
    invalid_parameter,
    parse_group,
    parse_range,
)

blueprint = Blueprint("usage", __name__)

BUCKET_WIDTHS = {"1d": (DAY_SECONDS, 7, 31), "1h": (HOUR_SECONDS, 24, 168)}
"""Width -> seconds, default and largest number of buckets of a page, as OpenAI has them."""

OPENAI_GROUPS = {"model": "model", "api_key_id": "client", "project_id": "upstream"}
"""OpenAI's fields to group by -> the forwarder's."""


@blueprint.get("/forwarder/usage")
def show_usage() -> Response:
    """Report usage from ``?from=`` to ``?to=``, grouped by ``?group=``, as JSON or CSV."""
    client = authorize_reader()
    form = check_enum(request.args.get("format", "json"), ("json", "csv"), "format")
    group = parse_group(request.args.get("group"))
    start, end = parse_range(request.args.get("from"), request.args.get("to"), time.time())
    reports = get_services().usage_reports
    report = reports.make_report(start, end, group, client)
    encoded = reports.encode(report, form)
    answer = Response(encoded, mimetype="text/csv" if form == "csv" else "application/json")
    if form == "csv":
        answer.headers["Content-Disposition"] = f'attachment; filename="{report.file_name}"'
    answer.headers["Cache-Control"] = "no-store"
    return answer


@blueprint.get("/v1/organization/usage/completions")
def show_completions_usage() -> Response:
    """Report usage in the form of OpenAI's API, to administrators only."""
    require_administrator(get_services().settings)
    width, default_count, max_count = BUCKET_WIDTHS[
        check_enum(request.args.get("bucket_width", "1d"), tuple(BUCKET_WIDTHS), "bucket_width")
    ]
    count = read_number("limit", 1, max_count, default_count)
    start = read_number("start_time", 0, 2**34, None)
    start -= start % width
    now = int(time.time())
    end = read_number("end_time", 0, 2**34, now - now % width + width)
    page = read_number("page", 0, 2**34, start)
    texts = [*request.args.getlist("group_by"), *request.args.getlist("group_by[]")]
    names = [check_enum(name, tuple(OPENAI_GROUPS), "group_by")
             for text in texts for name in text.split(",")]  # fmt: skip
    if page % width or page < start:
        raise invalid_parameter("page", "the 'next_page' of an earlier page")
    rounded_end = -(-end // width) * width  # rounded up
    last = min(rounded_end, page + count * width)
    report = get_services().usage_reports.make_report(
        page,
        last,
        ["hour" if width == HOUR_SECONDS else "day", *(OPENAI_GROUPS[name] for name in names)],
    )
    if report.is_truncated:  # the last bucket is not whole; the next page begins with it
        last = max(report.lines[-1].start or 0, page + width)
    results: dict[int, list[Json]] = {at: [] for at in range(page, last, width)}
    for line in report.lines:
        if (line.start or 0) in results:
            results[line.start or 0].append(make_result(line, names))
    has_more = last < end
    return json_answer(
        {
            "object": "page",
            "data": [make_bucket(at, width, found) for at, found in results.items()],
            "has_more": has_more,
            "next_page": str(last) if has_more else None,
        }
    )


def authorize_reader() -> str | None:
    """Return the client whose usage may be read, None for an administrator.

    Raises Unauthorized, Forbidden or RateLimited.
    """
    settings, key = get_services().settings, read_key()
    if not is_client_key(key) or has_key(key, settings.admin_keys):
        require_administrator(settings)
        return None
    context = request_hooks.current_context()
    request_hooks.authenticate(context, has_body=False)
    return context.client_name


def read_number(name: str, low: int, high: int, default: int | None) -> int:
    """Return a parameter that is a number; ``default`` is None if it is required."""
    text = request.args.get(name)
    if text is None:
        if default is None:
            raise InvalidRequest(
                f"Missing required parameter: '{name}'.",
                param=name,
                code="missing_required_parameter",
            )
        return default
    if not re.fullmatch(r"\d{1,11}", text, re.ASCII) or not low <= int(text) <= high:
        raise invalid_parameter(name, f"a number from {low} to {high}")
    return int(text)


def make_bucket(start: int, width: int, results: list[Json]) -> Json:
    """Return OpenAI's bucket of an hour or day."""
    return {
        "object": "bucket",
        "start_time": start,
        "end_time": start + width,
        "results": results,
    }


def make_result(line: UsageLine, names: list[str]) -> Json:
    values = {name: getattr(line, OPENAI_GROUPS[name]) for name in names}
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": line.counts.input_tokens,
        "input_cached_tokens": line.counts.cached_tokens,
        "input_audio_tokens": 0,
        "output_tokens": line.counts.output_tokens,
        "output_audio_tokens": 0,
        "num_model_requests": line.counts.requests,
        "project_id": None,
        "user_id": None,
        "api_key_id": None,
        "model": None,
        "batch": None,
        **values,
    }
