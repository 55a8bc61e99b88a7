"""Web pages that the model opens: fetched within the guard's limits, as readable text."""

from __future__ import annotations

import re
from typing import NamedTuple

from forwarder.core.concurrency import BlockingPool
from forwarder.core.data_urls import Blob
from forwarder.core.errors import InvalidRequest
from forwarder.hosted_tools.web_search_backends import clean_text
from forwarder.middleware.media import Fetcher

MAX_PAGE_BYTES = 3 * 2**20
"""Larger pages are not parsed."""

MAX_PARSERS = 2
"""Pages that are parsed at the same time, in native threads."""

MAX_MATCHES = 10
MATCH_CONTEXT = 300
"""Characters before and after a match of `find_in_text`."""

_TITLE = re.compile(rb"<title[^<>]{0,200}>([^<>]{1,1000})</title", re.IGNORECASE)
_PARSED_TYPES = ("text/html", "application/xhtml")
_TEXT_TYPES = ("text/", "application/json", "application/xml")


class Page(NamedTuple):
    title: str
    text: str


class PageFailure(Exception):
    """A page could not be read; the message is for the model and the client."""


class PageReader:
    """Reads pages for all clients. ``fetcher`` limits addresses, sizes and times."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._pool = BlockingPool(MAX_PARSERS)

    def read_page(self, url: str, client: str) -> Page:
        """Fetch a page and return its readable text. Raises PageFailure."""
        try:
            blob = self._fetcher.fetch_all({url: "url"}, client)[url]
        except InvalidRequest as error:
            reason = error.message.partition(": ")[2] or error.message
            raise PageFailure(f"The page could not be opened: {reason}") from None
        if len(blob.data) > MAX_PAGE_BYTES:
            raise PageFailure("The page could not be opened: it is too large.")
        # In a native thread, because parsing a page takes up to seconds.
        return self._pool.run(lambda: extract_page(blob, url))


def extract_page(blob: Blob, url: str) -> Page:
    """Return the readable text of a document. Raises PageFailure if it has none."""
    kind = blob.type or ""
    if not kind.startswith((*_PARSED_TYPES, *_TEXT_TYPES)):
        raise PageFailure(f"The page has no readable text: it is of type {kind}.")
    if not kind.startswith(_PARSED_TYPES):
        return Page(url, blob.data.decode("utf-8", "replace"))
    from trafilatura import bare_extraction  # slow to import

    document = bare_extraction(blob.data, url=url, favor_recall=True, include_links=False)
    text = getattr(document, "text", None)
    if not text:
        raise PageFailure("The page has no readable text.")
    title = _TITLE.search(blob.data)
    name = clean_text(title[1].decode("utf-8", "replace")) if title else ""
    return Page(name or url, str(text))


def find_in_text(text: str, pattern: str) -> list[str]:
    """Return passages around the matches of a pattern, which is plain text of any case."""
    passages: list[str] = []
    end = 0
    for match in re.finditer(re.escape(pattern), text, re.IGNORECASE):
        if match.start() < end:  # in the last passage
            continue
        begin = max(0, match.start() - MATCH_CONTEXT)
        end = match.end() + MATCH_CONTEXT
        passages.append(text[begin:end].strip())
        if len(passages) == MAX_MATCHES:
            break
    return passages
