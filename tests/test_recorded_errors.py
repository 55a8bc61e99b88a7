"""Real error answers of providers, each through an upstream's client: its status and its code.

The recordings are not part of this repository.  The environment variable RECORDINGS names their
folder; without it the test is skipped.  Their lessons are tests of test_error_classification.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from forwarder.core.errors import UpstreamKeyRefused, UpstreamRefused
from tests.helpers.check_cases import check_each
from tests.upstream.sending import make_refusing_provider, make_upstream, send_request

FOLDER = os.environ.get("RECORDINGS", "")

pytestmark = pytest.mark.skipif(not FOLDER, reason="RECORDINGS names no folder of recordings")

EXPECTED: list[tuple[str, int, str]] = [
    # a fragment of the body, and the status and code that the client gets
    ("prompt is too long", 400, "context_length_exceeded"),
    ("prompt too long", 400, "context_length_exceeded"),
    ("maximum context length", 400, "context_length_exceeded"),
    ("exceeds the context window", 400, "context_length_exceeded"),
    ("total length of all messages", 400, "context_length_exceeded"),
    ("input token count", 400, "context_length_exceeded"),
    ("available context size", 400, "context_length_exceeded"),
    ("model: claude-", 404, "model_not_found"),
    ("does not exist", 404, "model_not_found"),
    ("is not found for API version", 404, "model_not_found"),
    ("model not found", 404, "model_not_found"),
    ("' not found, make sure the correct model", 404, "model_not_found"),
    ("end of its life", 404, "model_not_found"),
    ("Invalid model: ", 404, "model_not_found"),
    ("model identifier is invalid", 404, "model_not_found"),
    ("Model nonexistent is not supported", 404, "model_not_found"),
    ("API key is invalid", 401, "invalid_api_key"),
    ("API key not valid", 401, "invalid_api_key"),
    ("Invalid API Key", 401, "invalid_api_key"),
    ("Incorrect API key", 401, "invalid_api_key"),
    ("invalid x-api-key", 401, "invalid_api_key"),
    ("invalid subscription key", 401, "invalid_api_key"),
    ("Missing Authentication", 401, "invalid_api_key"),
    ("Unauthorized", 401, "invalid_api_key"),
    ("security token included", 403, "invalid_api_key"),
    ("exceeded rate limit", 429, "rate_limit_exceeded"),
]


def list_recorded_errors() -> list[Any]:
    """The recorded errors, each with its place in the file."""
    path = Path(FOLDER) / "errors.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if FOLDER and path.exists() else []
    return [pytest.param(json.loads(line), id=str(i)) for i, line in enumerate(lines)]


@check_each("line", list_recorded_errors())
def test_recorded_error_has_its_status_and_code(line: dict[str, Any]) -> None:
    body: Any = line["body"]
    text = body if isinstance(body, str) else json.dumps(body)
    expected = next(((s, c) for fragment, s, c in EXPECTED if fragment in text), None)
    provider = make_refusing_provider(line["status"], content=text.encode())

    with pytest.raises(UpstreamRefused) as excinfo:
        send_request(make_upstream(provider, UP_API_KEY="passthrough"), key="theirs")

    error = excinfo.value
    assert (error.status, error.code) == (expected or (line["status"], _own_code(text)))
    assert error.message
    assert error.message in " ".join(_list_strings(_parse_text(text)))
    assert error.make_body()["error"].keys() >= {"message", "type", "param", "code"}


@check_each("line", list_recorded_errors())
def test_recorded_key_refusal_is_recognised(line: dict[str, Any]) -> None:
    body: Any = line["body"]
    text = body if isinstance(body, str) else json.dumps(body)
    is_key = any(f in text and code == "invalid_api_key" for f, _, code in EXPECTED)

    with pytest.raises(UpstreamKeyRefused if is_key else UpstreamRefused):
        send_request(make_upstream(make_refusing_provider(line["status"], content=text.encode())))


def _parse_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


def _own_code(text: str) -> str | None:
    """The provider's own code, wherever the body has it."""
    body = _parse_text(text)
    holders = [body.get("error"), body] if isinstance(body, dict) else []
    codes = [each.get("code") for each in holders if isinstance(each, dict)]
    return next((str(code) for code in codes if code is not None), None)


def _list_strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _list_strings(inner)]
    return [str(value)] if not isinstance(value, list) else [str(value), *map(str, value)]
