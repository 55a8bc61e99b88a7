"""Detects a base URL without its version path, such as ``/v1``.

The server has no API below such a URL: it answers 404, or a web page for every path.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from functools import partial
from urllib.parse import urlsplit

import httpx2
import orjson

from forwarder.core.errors import UpstreamMisconfigured
from forwarder.upstream.connection import UpstreamConnection

_CHECK_CACHE_SECONDS = 60.0
"""Seconds for which the result of a check is cached."""

_VERSION_PATTERN = re.compile(r"/v\d+[a-z\d]*(/|$)")
"""The version in a path: ``/v1``, ``/api/v1``, ``/v1beta/openai``."""

_CANDIDATE_PATHS = ("/v1", "/api/v1", "/openai/v1")
"""Paths that providers have between their host and the API."""

ABSENT_STATUSES = (404, 405, 501)
"""Statuses of servers for an unknown path; some servers use them for an unknown model too."""

Probe = Callable[[str, str], "httpx2.Response | None"]
"""Method and URL -> the response to a request without content; ``None`` if there was none."""


class BaseUrlCheck:
    """Checks the base URL of one upstream after answers that an incomplete URL would explain."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        self._missing_path: str | None = None
        self._checked_at = float("-inf")

    def require_complete_url(self, client_key: str | None) -> None:
        """Raise UpstreamMisconfigured if the API is below the base URL instead of at it."""
        settings, connection = self._connection.settings, self._connection
        if has_version(settings.base_url):
            return
        if time.monotonic() - self._checked_at > _CHECK_CACHE_SECONDS:
            self._checked_at = time.monotonic()
            calls = [connection.urls[api] for api in settings.apis]
            probe = partial(connection.probe, client_key=client_key)
            self._missing_path = find_missing_path(settings.base_url, calls, probe)
        if self._missing_path:
            setting = connection.errors.name_setting("BASE_URL", "remote_host")
            host = urlsplit(settings.base_url).netloc  # the path may contain a key
            raise UpstreamMisconfigured(
                f"The upstream '{settings.name}' on {host} has no API at its base URL "
                f"({setting}): the base URL lacks '{self._missing_path}' at its end."
            )


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
