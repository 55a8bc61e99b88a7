"""Web pages that the model opens: fetched within the guard's limits, as readable text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from forwarder.core.blocking_work import ClientSlots
from forwarder.core.body_memory import BodyMemory, KeptData
from forwarder.core.data_urls import Blob
from forwarder.core.errors import InvalidRequest
from forwarder.hosted_tools.greenlet_call import ToolFailure
from forwarder.hosted_tools.web_search_backends import clean_text
from forwarder.middleware.media import Fetcher
from forwarder.text_extraction.extract import MAX_PAGE_CHARACTERS
from forwarder.text_extraction.extraction_process import (
    ExtractionError,
    extract_page,
    extract_pdf_page,
)

MAX_PAGE_BYTES = 3 * 2**20
"""Maximum size of a page that is parsed."""

MAX_READERS = 32
"""Maximum number of pages in memory at the same time. One client may have a quarter of them.
Further requests wait up to `WAIT_SECONDS`."""

MAX_PARSERS = 2
"""Maximum number of pages that are parsed at the same time, each in a process of its own. One
client may have one of them. Further requests wait up to `WAIT_SECONDS`."""

WAIT_SECONDS = 20.0

MAX_PAGES = 16
"""Pages that a `PageCache` keeps."""

MAX_TITLE_BYTES = 2**20
"""Bytes of a page in which its title is looked for."""

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
        self._readers = ClientSlots(MAX_READERS)
        self._parsers = ClientSlots(MAX_PARSERS)

    def read_page(self, url: str, client: str) -> Page:
        """Fetch a page and return its readable text. Raises PageFailure."""
        with self._readers.hold(client, WAIT_SECONDS, make_wait_failure()):
            page = self._read_whole_page(url, client)
        return page._replace(text=page.text[:MAX_PAGE_CHARACTERS])

    def _read_whole_page(self, url: str, client: str) -> Page:
        try:
            blob = self._fetcher.fetch_all({url: "url"}, client)[url]
        except InvalidRequest as error:
            reason = error.message.partition(": ")[2] or error.message
            raise PageFailure(f"The page could not be opened: {reason}") from None
        if len(blob.data) > MAX_PAGE_BYTES:
            raise PageFailure("The page could not be opened: it is too large.")
        kind = blob.type or ""
        if kind.startswith((*_HTML_TYPES, _PDF_TYPE)):
            return self._parse_page(blob, url, client)
        if kind.startswith(_TEXT_TYPES):
            return Page(url, blob.data.decode("utf-8", "replace"))
        raise PageFailure(f"The page has no readable text: it is of type {kind}.")

    def _parse_page(self, blob: Blob, url: str, client: str) -> Page:
        try:
            with self._parsers.hold(client, WAIT_SECONDS, make_wait_failure()):
                return extract_document(blob, url)
        except ExtractionError as failure:
            raise PageFailure(f"The page could not be read: {failure.message}") from None


def make_wait_failure() -> PageFailure:
    return PageFailure("The page could not be read: too many pages are being read.")


class PageCache:
    """The pages that were opened in one response. They are dropped if bodies need the memory.

    They are kept as UTF-8: a Python string with one emoji takes four bytes for each character.
    """

    def __init__(self, memory: BodyMemory) -> None:
        self._kept = KeptData(memory, self._forget_all)
        self._pages: dict[str, bytes] = {}

    def get_page(self, url: str) -> Page | None:
        data = self._pages.get(url)
        if data is None:
            return None
        title, text, links = json.loads(data.decode("utf-8", "surrogatepass"))
        return Page(title, text, [(name, target) for name, target in links])

    def add_page(self, url: str, page: Page) -> None:
        """Keep a page, if there are not too many."""
        pages = self._pages
        if len(pages) < MAX_PAGES:
            text = json.dumps(page, ensure_ascii=False)
            pages[url] = text.encode("utf-8", "surrogatepass")
            self._kept.resize(sum(map(len, pages.values())))

    def close(self) -> None:
        """Forget the pages: the response has ended."""
        self._kept.close()
        self._forget_all()

    def _forget_all(self) -> None:
        self._pages = {}


def extract_document(blob: Blob, url: str) -> Page:
    """Return a page of HTML or PDF. Raises ExtractionError."""
    if (blob.type or "").startswith(_PDF_TYPE):
        return Page(url, extract_pdf_page(blob.data))
    return Page(find_title(blob.data) or url, *extract_page(blob.data, url))


def find_title(html: bytes) -> str:
    title = _TITLE.search(html, 0, MAX_TITLE_BYTES)
    return clean_text(title[1].decode("utf-8", "replace")) if title else ""


def find_in_text(text: str, pattern: str) -> list[str]:
    """Return passages around the matches of a pattern, which is plain text of any case.

    The time grows with the sum of both lengths. A regular expression that ignores case needs time
    for their product, so that a crafted pattern and page could block the worker.
    """
    if len(pattern) > len(text):
        return []  # a pattern may have megabytes
    folded, wanted = fold_case(text), fold_case(pattern)
    passages: list[str] = []
    begin = folded.find(wanted)
    while begin >= 0 and len(passages) < MAX_MATCHES:
        end = begin + len(wanted) + MATCH_CONTEXT
        passages.append(text[max(0, begin - MATCH_CONTEXT) : end].strip())
        begin = folded.find(wanted, end)
    return passages


def fold_case(text: str) -> str:
    """Return a text in lower case, of the same length."""
    text = text.replace("\u0130", "i").lower()  # the only letter with a longer lower-case form
    return text.replace("\u03c2", "\u03c3")  # `lower` makes another sigma at the end of a word
