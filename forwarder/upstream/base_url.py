"""Detects a base URL without its version path, such as ``/v1``.

The server has no API below such a URL: it answers 404, or a web page for every path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import httpx2
import orjson

_VERSION_PATTERN = re.compile(r"/v\d+[a-z\d]*(/|$)")
"""The version in a path: ``/v1``, ``/api/v1``, ``/v1beta/openai``."""

_CANDIDATE_PATHS = ("/v1", "/api/v1", "/openai/v1")
"""Paths that providers have between their host and the API."""

ABSENT_STATUSES = (404, 405, 501)
"""Statuses of servers for an unknown path; some servers use them for an unknown model too."""

Probe = Callable[[str, str], "httpx2.Response | None"]
"""Method and URL -> the response to a request without content; ``None`` if there was none."""


def has_version(base_url: str) -> bool:
    """Return whether the path of a base URL names the version of the API."""
    return _VERSION_PATTERN.search(urlsplit(base_url).path) is not None


def find_missing_path(base_url: str, calls: Iterable[str], probe: Probe) -> str | None:
    """Return the path that ``base_url`` lacks, such as ``/v1``; ``None`` if it is complete.

    A server may serve requests at its base URL without listing models there.  So the URLs of
    requests, ``calls``, are tried too, with a body that every API refuses.
    """
    if has_version(base_url):
        return None
    for path in _CANDIDATE_PATHS:
        if is_model_list(probe("GET", f"{base_url}{path}/models")):
            return path if all(is_missing_endpoint(probe("POST", url)) for url in calls) else None
    return None


def is_model_list(answer: httpx2.Response | None) -> bool:
    """Return whether ``answer`` is a list of models, or a JSON error that demands a key."""
    if answer is None or answer.status_code not in (200, 401, 403):
        return False
    try:
        body = orjson.loads(answer.content)
    except ValueError:
        return False
    if answer.status_code != 200:
        return isinstance(body, dict)
    return isinstance(body, dict) and isinstance(body.get("data"), list)


def is_missing_endpoint(answer: httpx2.Response | None) -> bool:
    if answer is None:
        return False
    is_page = answer.content.lstrip()[:1] == b"<"
    return (
        answer.status_code in ABSENT_STATUSES or is_page or b"Unexpected endpoint" in answer.content
    )
