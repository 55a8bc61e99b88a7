"""Pages that the model opens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest

from forwarder.core.body_memory import BodyMemory, BodyReservation
from forwarder.core.data_urls import Blob
from forwarder.core.ssrf import AddressGuard
from forwarder.hosted_tools import page_reader
from forwarder.hosted_tools.page_reader import PageCache, PageFailure, PageReader, find_in_text
from forwarder.middleware.media import Fetcher
from forwarder.text_extraction import extraction_process
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import Peer, run_server
from tests.text_extraction.documents import make_pdf

HTML = b"""<html><head><title>Cats</title></head><body><nav>Menu Home About</nav><article>
<h1>Cats</h1><p>The cat is a small carnivorous mammal, and it sleeps for most of the day.</p>
<p>It is the only domesticated species of its family, which has many wild members.</p>
<script>alert('never')</script></article><footer>Imprint</footer></body></html>"""


def make_page_server(body: bytes, kind: bytes) -> Callable[[Peer], None]:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.answer(body, b"Content-Type: " + kind, b"Connection: close")

    return serve


def read_served_page(
    script: Callable[[Peer], None], guard: AddressGuard | None = None
) -> page_reader.Page:
    reader = PageReader(Fetcher(guard or AddressGuard(["127.0.0.1"]), 2**22, 5))
    with run_server(script) as server:
        return reader.read_page(f"http://127.0.0.1:{server.port}/cats", "client")


def test_page_is_read_as_its_text() -> None:
    page = read_served_page(make_page_server(HTML, b"text/html; charset=utf-8"))
    assert page.title == "Cats"
    assert "small carnivorous mammal" in page.text
    assert "never" not in page.text
    assert "<p>" not in page.text


def test_plain_text_is_read_unchanged() -> None:
    assert read_served_page(make_page_server("höi".encode(), b"text/plain")).text == "höi"


def test_pdf_is_read() -> None:
    assert read_served_page(make_page_server(make_pdf("Hello"), b"application/pdf")).text == "Hello"


def refuse(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


@check_each(
    ("script", "reason"),
    [
        (refuse, "its server answered 404"),
        (make_page_server(b"%PDF-1.7", b"application/pdf"), "could not be read: The PDF file"),
        (make_page_server(b"<html></html>", b"text/html"), "no readable text"),
        (make_page_server(b"x", b"video/mp4"), "could not be opened"),
    ],
)
def test_page_that_cannot_be_read_fails(script: Callable[[Peer], None], reason: str) -> None:
    with pytest.raises(PageFailure, match=reason):
        read_served_page(script)


def test_private_address_is_refused() -> None:
    with pytest.raises(PageFailure, match="no public address"):
        read_served_page(make_page_server(HTML, b"text/html"), AddressGuard())


def test_large_page_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_reader, "MAX_PAGE_BYTES", 100)
    with pytest.raises(PageFailure, match="too large"):
        read_served_page(make_page_server(HTML, b"text/html"))


def test_page_that_takes_too_long_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction_process, "PAGE_SECONDS", 0.0)
    with pytest.raises(PageFailure, match="could not be read: .* limits of time and memory"):
        read_served_page(make_page_server(HTML, b"text/html"))


@pytest.mark.parametrize("limit", ["MAX_READERS", "MAX_PARSERS"])
def test_page_fails_after_waiting_for_a_slot(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(page_reader, limit, 0)
    monkeypatch.setattr(page_reader, "WAIT_SECONDS", 0.01)
    with pytest.raises(PageFailure, match="too many pages"):
        read_served_page(make_page_server(HTML, b"text/html"))


@pytest.mark.parametrize("limit", ["MAX_READERS", "MAX_PARSERS"])
def test_client_with_slow_pages_leaves_slots_for_others(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(page_reader, limit, 4)
    monkeypatch.setattr(page_reader, "WAIT_SECONDS", 0.01)
    started, release = threading.Event(), threading.Event()

    def extract(blob: Blob, url: str) -> page_reader.Page:
        if url.endswith("slow"):
            started.set()
            assert release.wait(10)
        return page_reader.Page("Cats", "text")

    monkeypatch.setattr(page_reader, "extract_document", extract)
    reader = PageReader(Fetcher(AddressGuard(["127.0.0.1"]), 2**22, 5))
    with run_server(make_page_server(HTML, b"text/html")) as server, ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{server.port}/"
        slow_page = pool.submit(reader.read_page, f"{url}slow", "a")
        try:
            assert started.wait(5)
            with pytest.raises(PageFailure, match="too many pages"):
                reader.read_page(url, "a")
            assert reader.read_page(url, "b").text == "text"
        finally:
            release.set()
        assert slow_page.result().text == "text"


def test_passages_around_matches_are_found() -> None:
    text = "a" * 1000 + " The Needle " + "b" * 1000 + " needle needle " + "c" * 1000
    passages = find_in_text(text, "needle")
    assert len(passages) == 2
    assert all("eedle" in passage and len(passage) < 700 for passage in passages)
    assert find_in_text(text, "n.edle") == []
    assert len(find_in_text(("x" + "y" * 700) * 50, "x")) == page_reader.MAX_MATCHES


def test_case_is_ignored_if_lower_case_is_longer() -> None:
    (passage,) = find_in_text("\u0130stanbul, \u0130ZM\u0130R", "izmir")
    assert passage.endswith("\u0130ZM\u0130R")


def test_final_sigma_matches_sigma() -> None:
    capitals = "\u03a3\u039f\u03a6\u039f\u03a3"
    lower = capitals.lower()
    assert lower[-1] != lower[0]
    assert find_in_text(capitals, lower) == [capitals]
    assert find_in_text(f"{capitals}\u03a4", capitals) == [f"{capitals}\u03a4"]


def test_pattern_that_is_longer_than_the_text_is_not_searched_for() -> None:
    with mock.patch.object(page_reader, "fold_case") as fold:
        assert find_in_text("needle", "needle needle") == []
    fold.assert_not_called()


def test_title_is_searched_for_at_the_beginning() -> None:
    html = b"<title>Cats</title>"
    assert page_reader.find_title(b" " * 1000 + html) == "Cats"
    assert page_reader.find_title(b" " * page_reader.MAX_TITLE_BYTES + html) == ""


def test_search_for_a_near_match_takes_linear_time() -> None:
    started_at = time.process_time()
    assert find_in_text("a" * 500_000, "a" * 5_000 + "b") == []
    assert time.process_time() - started_at < 2  # an expression that ignores case takes a minute


def test_long_page_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_reader, "MAX_PAGE_CHARACTERS", 4)
    assert read_served_page(make_page_server(b"purring", b"text/plain")).text == "purr"


def test_pages_are_cached_as_utf_8_and_counted() -> None:
    memory = BodyMemory(10_000_000)
    cache = PageCache(memory)
    page = page_reader.Page("Cats \ud800", "x" * 100_000 + "\U0001f600", [("Dogs", "http://a/")])
    cache.add_page("http://b/", page)
    assert cache.get_page("http://b/") == page
    assert cache.get_page("http://a/") is None
    assert 100_000 < memory.kept < 101_000
    cache.close()
    assert (memory.kept, cache.get_page("http://b/")) == (0, None)


def test_pages_are_evicted_when_bodies_need_their_memory() -> None:
    memory = BodyMemory(1_000_000)
    cache = PageCache(memory)
    cache.add_page("http://a/", page_reader.Page("Cats", "x" * 500_000))
    BodyReservation(memory).resize(300_000)
    assert (memory.kept, cache.get_page("http://a/")) == (0, None)


def test_number_of_cached_pages_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_reader, "MAX_PAGES", 1)
    cache = PageCache(BodyMemory(1_000_000))
    for url in ("http://a/", "http://b/"):
        cache.add_page(url, page_reader.Page(url, "text"))
    assert cache.get_page("http://a/") is not None
    assert cache.get_page("http://b/") is None
