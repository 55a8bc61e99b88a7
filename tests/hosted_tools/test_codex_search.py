"""Commands of Codex's standalone search."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from forwarder.core.body_memory import BodyMemory, KeptData
from forwarder.core.errors import ClientDisconnected, InvalidRequest, UpstreamTimeout
from forwarder.hosted_tools import codex_search
from forwarder.hosted_tools.codex_search import StandaloneSearch, read_search_request
from forwarder.hosted_tools.page_reader import Page, PageFailure
from forwarder.hosted_tools.web_search import WebSearch
from forwarder.hosted_tools.web_search_backends import (
    SearchAnswer,
    SearchFailure,
    SearchOptions,
    WebSearchResult,
)
from tests.helpers.check_cases import check_each
from tests.hosted_tools.test_responses_loop import FakeClient

Json = dict[str, Any]
URL = "https://example.org/cats"
LINES = [f"Line {number} about cats." for number in range(3000)]


class Engine:
    def __init__(self) -> None:
        self.searches: list[tuple[str, SearchOptions, str]] = []

    def search(self, query: str, options: SearchOptions, client: str, call: Any) -> SearchAnswer:
        self.searches.append((query, options, client))
        if query == "broken":
            raise SearchFailure("The search engine answered 500.")
        if query == "slow":
            raise UpstreamTimeout("The upstream did not answer in time.")
        if query == "bug":
            raise RuntimeError("secret")
        if query == "nothing":
            return SearchAnswer([])
        return SearchAnswer([WebSearchResult("Cats", URL, f"About {query}.", "2026-01-01")])


class Reader:
    def __init__(self) -> None:
        self.opened: list[str] = []

    def read_page(self, url: str, client: str) -> Page:
        self.opened.append(url)
        if "missing" in url:
            raise PageFailure("The page could not be opened: its server answered 404.")
        links = [("Dogs", "https://example.org/dogs"), ("Lost", "https://example.org/missing")]
        return Page("Cats", "\n".join(LINES), links)


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def run(engine: Any, reader: Any) -> Callable[..., str]:
    def run_commands(commands: Json, **more: Any) -> str:
        body = {"id": "s", "model": "m", "commands": commands, **more}
        search = WebSearch(engine, reader, "client", 5.0)
        return StandaloneSearch(search, read_search_request(body), FakeClient()).run()

    return run_commands


def test_results_have_their_urls_as_references(run: Any, engine: Engine) -> None:
    output = run({"search_query": [{"q": "cats"}, {"q": "dogs"}]})
    assert output.startswith(
        "search_query 'cats'\n- Cats\nURL: https://example.org/cats\nPublished: 2026-01-01\n"
        "About cats.\n\nsearch_query 'dogs'\n- Cats\n"
    )
    assert "The ref_id of a page is its URL." in output
    assert {query for query, _, _ in engine.searches} == {"cats", "dogs"}
    assert {client for _, _, client in engine.searches} == {"client"}


def test_queries_and_settings_become_options(run: Any, engine: Engine) -> None:
    settings = {
        "user_location": {"type": "approximate", "country": "de", "city": "Berlin"},
        "filters": {"blocked_domains": ["bad.example"]},
        "search_context_size": "high",
        "allowed_callers": ["direct"],
        "external_web_access": True,
    }
    domains = ["https://Example.org/x", "two words", "a." * 1000 + "org"]
    query = {"q": "cats", "recency": 7, "domains": domains}
    run({"search_query": [query], "response_length": "short"}, settings=settings)
    assert engine.searches[0][1] == SearchOptions(
        4, 300, "DE", "Berlin", ("example.org",), ("bad.example",), 7
    )


def test_domains_of_a_query_cannot_widen_the_settings(run: Any, engine: Engine) -> None:
    settings = {"filters": {"allowed_domains": ["example.org"]}}
    queries = [{"q": "a", "domains": ["sub.example.org", "other.example"]},
               {"q": "b", "domains": ["other.example"]}]  # fmt: skip
    output = run({"search_query": queries}, settings=settings)
    assert [options.allowed for _, options, _ in engine.searches] == [("sub.example.org",)]
    assert "search_query 'b'\nFailed: The settings of the search do not allow" in output


def test_page_is_opened_at_a_line_with_its_links(run: Any) -> None:
    output = run({"open": [{"ref_id": URL, "lineno": 100}], "response_length": "short"})
    assert output.startswith(f"open {URL}\nCats\nURL: {URL}\nLines 95-")
    assert "\n\nLine 95 about cats.\nLine 96 about cats." in output
    next_line = int(re.findall(r"Open it with lineno (\d+)", output)[0])
    assert f"Line {next_line - 2} about" in output
    assert f"Line {next_line + 1} about" not in output
    assert "Links:\n0: Dogs https://example.org/dogs\n1: Lost" in output


def test_page_of_long_lines_is_read_to_its_end(run: Any, reader: Any) -> None:
    text = "\n".join(f"{letter}" * 5_000 for letter in "abcdefgh")
    reader.read_page = lambda url, client: Page("Cats", text)
    seen, line = "", 0
    for _ in range(20):
        output = run({"open": [{"ref_id": URL, "lineno": line}], "response_length": "short"})
        seen += output
        following = re.findall(r"Open it with lineno (\d+)", output)
        if not following:
            break
        line = int(following[0])
    assert not following
    assert all(letter * 500 in seen for letter in "abcdefgh")


def test_line_number_after_the_end_returns_the_end(run: Any) -> None:
    output = run({"open": [{"ref_id": URL, "lineno": 10**9}]})
    assert "Line 2999 about cats." in output


def test_link_is_opened_by_its_number(run: Any, reader: Reader) -> None:
    clicks = [{"ref_id": URL, "id": 0}, {"ref_id": URL, "id": 1}, {"ref_id": URL, "id": 2}]
    output = run({"click": clicks})
    assert "click 0\nCats\nURL: https://example.org/dogs" in output
    assert "click 1\nFailed: The page could not be opened: its server answered 404." in output
    assert "click 2\nFailed: The page has no link of this number." in output


def test_text_is_found(run: Any) -> None:
    find_commands = [{"ref_id": URL, "pattern": "LINE 77 "}, {"ref_id": URL, "pattern": "dogs"}]
    output = run({"find": find_commands})
    assert "Line 77 about cats." in output
    assert f"find 'dogs' in {URL}\nThe page does not contain this text." in output


@check_each(
    ("commands", "reason"),
    [
        ({"search_query": [{"q": " "}]}, "The query is empty."),
        ({"search_query": [{"q": "broken"}]}, "The search engine answered 500."),
        ({"search_query": [{"q": "slow"}]}, "The upstream did not answer in time."),
        ({"open": [{"ref_id": "turn0search0"}]}, "The reference is not known. The ref_id"),
        ({"open": [{"ref_id": "http://[docs"}]}, "The URL is not valid, or the domain"),
        ({"click": [{"ref_id": "http://[docs", "id": 1}]}, "The URL is not valid, or the domain"),
        ({"find": [{"ref_id": URL, "pattern": ""}]}, "The pattern is empty."),
        ({"weather": [{"location": "Bern"}]}, "This command is not available."),
        ({"time": [{"utc_offset": "3"}]}, "The offset must have the form +03:00."),
        ({"time": [{"utc_offset": "+24:00"}]}, "The offset must have the form +03:00."),
    ],
)
def test_failure_is_returned_as_text_for_the_model(run: Any, commands: Json, reason: str) -> None:
    assert f"\nFailed: {reason}" in run(commands)


def test_unexpected_failure_shows_no_details(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    output = run({"search_query": [{"q": "bug"}]})
    assert "\nFailed: The command failed unexpectedly." in output
    assert "secret" not in output
    assert caplog.records[0].__dict__["event"] == "search_command_failed"


def test_opened_pages_count_until_the_request_ends(engine: Any, reader: Any) -> None:
    memory, kept_bytes = BodyMemory(10_000_000), list[int]()
    request = read_search_request({"commands": {"find": [{"ref_id": URL, "pattern": "12"}]}})
    search = StandaloneSearch(WebSearch(engine, reader), request, FakeClient(), memory)
    keep = memory.keep

    def keep_and_record(data: KeptData, size: int) -> None:
        keep(data, size)
        kept_bytes.append(memory.kept)

    memory.keep = keep_and_record  # type: ignore[method-assign]
    assert "Line 12 about cats." in search.run()
    assert kept_bytes[0] > sum(map(len, LINES))
    assert memory.kept == 0


def test_search_without_results_returns_a_note(run: Any) -> None:
    assert "The search has no results." in run({"search_query": [{"q": "nothing"}]})


def test_time_is_returned_for_an_offset(run: Any) -> None:
    output = run({"time": [{"utc_offset": "-03:30"}]})
    assert re.match(r"time -03:30\n\d{4}-\d\d-\d\d \d\d:\d\d:\d\d -0330\n", output)


@pytest.mark.parametrize("access", [False, "index_only"])
def test_without_live_access_pages_are_not_opened(run: Any, reader: Reader, access: object) -> None:
    commands = {"search_query": [{"q": "cats"}], "open": [{"ref_id": URL}]}
    output = run(commands, settings={"external_web_access": access})
    assert "About cats." in output
    assert "allow no live access" in output
    assert reader.opened == []


def test_output_is_cut_to_max_output_tokens(run: Any) -> None:
    output = run({"open": [{"ref_id": URL}]}, max_output_tokens=100)
    assert len(output) == 400 + len(codex_search.CUT_NOTE)
    assert output.endswith("Its end was left out.]")


def test_operations_above_the_limit_are_reported(run: Any, engine: Engine) -> None:
    count = codex_search.MAX_OPERATIONS
    output = run({"search_query": [{"q": f"q{number}"} for number in range(count + 1)]})
    assert len(engine.searches) == count
    assert f"search_query 'q{count}'\nToo many commands" in output


def test_slow_operation_is_abandoned(engine: Any, reader: Any) -> None:
    release = threading.Event()

    def read_slowly(url: str, client: str) -> Page:
        release.wait(10)
        raise PageFailure("late")

    reader.read_page = read_slowly
    body = {"commands": {"open": [{"ref_id": URL}], "search_query": [{"q": "cats"}]}}
    search = WebSearch(engine, reader, "client", 0.2)
    try:
        output = StandaloneSearch(search, read_search_request(body), FakeClient()).run()
    finally:
        release.set()
    assert "About cats." in output
    assert f"open {URL}\nFailed: The call took too long." in output


class WaitingEngine:
    """An engine whose searches wait until they are cancelled."""

    def __init__(self) -> None:
        self.started, self.cancelled = threading.Event(), threading.Event()

    def search(self, query: str, options: SearchOptions, client: str, call: Any) -> SearchAnswer:
        call.cancel_callbacks.add(self.cancelled.set)
        self.started.set()
        assert self.cancelled.wait(10)
        raise ClientDisconnected


def run_search(engine: Any, client: FakeClient, seconds: float) -> str:
    request = read_search_request({"commands": {"search_query": [{"q": "cats"}]}})
    return StandaloneSearch(WebSearch(engine, None, "client", seconds), request, client).run()


def test_search_that_takes_too_long_is_cancelled() -> None:
    engine, client = WaitingEngine(), FakeClient()
    assert "The call took too long." in run_search(engine, client, 0.1)
    assert engine.cancelled.wait(1)
    assert not client.is_cancelled


def test_search_is_cancelled_when_the_client_leaves() -> None:
    engine, client = WaitingEngine(), FakeClient()
    disconnecting = threading.Thread(target=lambda: engine.started.wait(5) and client.cancel())
    disconnecting.start()
    with pytest.raises(ClientDisconnected):
        run_search(engine, client, 5.0)
    assert engine.cancelled.wait(1)
    disconnecting.join()


@pytest.mark.parametrize("commands", [None, {}, {"search_query": []}, {"unknown": [{}]}])
def test_call_without_commands_returns_a_note(run: Any, commands: Any) -> None:
    assert run(commands) == "The call has no command that could be run."


@check_each(
    ("body", "param"),
    [
        ({"commands": []}, "commands"),
        ({"commands": {"search_query": {}}}, "commands.search_query"),
        ({"commands": {"search_query": ["cats"]}}, "commands.search_query[0]"),
        ({"commands": {"search_query": [{}]}}, "commands.search_query[0].q"),
        ({"commands": {"search_query": [{"q": 5}]}}, "commands.search_query[0].q"),
        (
            {"commands": {"search_query": [{"q": "a", "domains": [5]}]}},
            "commands.search_query[0].domains[0]",
        ),
        (
            {"commands": {"search_query": [{"q": "a", "domains": ["a.org"] * 101}]}},
            "commands.search_query[0].domains",
        ),
        (
            {"commands": {"search_query": [{"q": "a", "recency": "7"}]}},
            "commands.search_query[0].recency",
        ),
        ({"commands": {"open": [{"lineno": 5}]}}, "commands.open[0].ref_id"),
        ({"commands": {"click": [{"ref_id": URL}]}}, "commands.click[0].id"),
        ({"commands": {"find": [{"ref_id": URL}]}}, "commands.find[0].pattern"),
        ({"commands": {"response_length": "huge"}}, "commands.response_length"),
        ({"settings": 5}, "settings"),
        ({"settings": {"search_context_size": "huge"}}, "settings.search_context_size"),
        (
            {"settings": {"filters": {"allowed_domains": ["a b"]}}},
            "settings.filters.allowed_domains[0]",
        ),
        ({"settings": {"external_web_access": 1}}, "settings.external_web_access"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
def test_malformed_request_is_rejected_by_name(
    engine: Any, reader: Any, body: Json, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        StandaloneSearch(WebSearch(engine, reader), read_search_request(body), FakeClient()).run()
    assert caught.value.param == param
