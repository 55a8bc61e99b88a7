"""Web pages that the model opens: fetched within the guard's limits, as readable text."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import NamedTuple

from forwarder.core.data_urls import Blob
from forwarder.core.errors import InvalidRequest
from forwarder.hosted_tools.background_call import ToolFailure
from forwarder.hosted_tools.web_search_backends import clean_text
from forwarder.middleware.media import Fetcher
from forwarder.text_extraction.extraction_process import (
    ExtractionError,
    extract_file,
    extract_page,
)

MAX_PAGE_BYTES = 3 * 2**20
"""Larger pages are not parsed."""

MAX_PARSERS = 2
"""Pages that are parsed at the same time, each in a process; others wait `WAIT_SECONDS`."""

WAIT_SECONDS = 20.0

MAX_MATCHES = 10
MATCH_CONTEXT = 300
"""Characters before and after a match of `find_in_text`."""

_TITLE = re.compile(rb"<title[^<>]{0,200}>([^<>]{1,1000})</title", re.IGNORECASE)
_HTML_TYPES = ("text/html", "application/xhtml")
_TEXT_TYPES = ("text/", "application/json", "application/xml")
_PDF_TYPE = "application/pdf"


class Page(NamedTuple):
    """A page; ``links`` are the texts and URLs of its first links."""

    title: str
    text: str
    links: Sequence[tuple[str, str]] = ()


class PageFailure(ToolFailure):
    """A page could not be read; the message is for the model and the client."""


class PageReader:
    """Reads pages for all clients. ``fetcher`` limits addresses, sizes and times."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._slots = threading.BoundedSemaphore(MAX_PARSERS)

    def read_page(self, url: str, client: str) -> Page:
        """Fetch a page and return its readable text. Raises PageFailure."""
        try:
            blob = self._fetcher.fetch_all({url: "url"}, client)[url]
        except InvalidRequest as error:
            reason = error.message.partition(": ")[2] or error.message
            raise PageFailure(f"The page could not be opened: {reason}") from None
        if len(blob.data) > MAX_PAGE_BYTES:
            raise PageFailure("The page could not be opened: it is too large.")
        kind = blob.type or ""
        if kind.startswith((*_HTML_TYPES, _PDF_TYPE)):
            return self._parse_page(blob, url)
        if kind.startswith(_TEXT_TYPES):
            return Page(url, blob.data.decode("utf-8", "replace"))
        raise PageFailure(f"The page has no readable text: it is of type {kind}.")

    def _parse_page(self, blob: Blob, url: str) -> Page:
        if not self._slots.acquire(timeout=WAIT_SECONDS):
            raise PageFailure("The page could not be read: too many pages are being read.")
        try:
            if (blob.type or "").startswith(_PDF_TYPE):
                return Page(url, extract_file([blob.data], "page.pdf", lambda: False))
            return Page(find_title(blob.data) or url, *extract_page(blob.data, url))
        except ExtractionError as failure:
            raise PageFailure(f"The page could not be read: {failure.message}") from None
        finally:
            self._slots.release()


def find_title(html: bytes) -> str:
    title = _TITLE.search(html)
    return clean_text(title[1].decode("utf-8", "replace")) if title else ""


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
