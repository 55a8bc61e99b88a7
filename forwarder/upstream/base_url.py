"""Detects a base URL that lacks its ``/v1``.

The server does not know the paths below such a URL: it answers 404, or a web page to everything.
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
"""What providers have between their host and the paths of the API."""

ABSENT_STATUSES = (404, 405, 501)
"""Statuses of servers for an unknown path; some use them for an unknown model too."""

Probe = Callable[[str, str], "httpx2.Response | None"]
"""Method and URL -> the answer to a request without content; ``None`` if there was none."""


def has_version(base_url: str) -> bool:
    """Does the path of a base URL name the API's version?"""
    return _VERSION_PATTERN.search(urlsplit(base_url).path) is not None


def find_missing_path(base_url: str, calls: Iterable[str], probe: Probe) -> str | None:
    """The path that ``base_url`` lacks, such as ``/v1``; ``None`` if it is complete.

    A server may answer requests at its base URL without listing models there.  So the URLs that
    requests go to, ``calls``, are tried too, with a body that every API refuses.
    """
    if has_version(base_url):
        return None
    for path in _CANDIDATE_PATHS:
        if is_model_list(probe("GET", f"{base_url}{path}/models")):
            return path if all(is_missing_endpoint(probe("POST", url)) for url in calls) else None
    return None


def is_model_list(answer: httpx2.Response | None) -> bool:
    """Is this a list of models, or JSON that refuses it to a stranger?"""
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
