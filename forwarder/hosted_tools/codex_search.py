"""Codex's own search: the commands of ``POST /v1/alpha/search`` and their results as text.

Codex offers its model the function ``run`` of the namespace ``web`` and sends the arguments of each
call as ``commands``. Reference ids are the URLs of the pages, so no state is kept between calls,
and any worker can serve the next one. A command that fails is a text for the model, because an
error would end Codex's turn; only malformed requests are refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import NamedTuple

from forwarder.core.body_memory import UNLIMITED_MEMORY, BodyMemory
from forwarder.core.errors import ForwarderError, InvalidRequest, shorten_value
from forwarder.core.paced_iteration import iter_paced
from forwarder.core.types import Json
from forwarder.core.validate import (
    DICT,
    INT,
    LIST,
    STR,
    check_enum,
    check_type,
    read_field,
    require_field,
)
from forwarder.hosted_tools.greenlet_call import GreenletCall, ToolFailure
from forwarder.hosted_tools.hosted_function import CallOutcome
from forwarder.hosted_tools.mcp_tools import invalid_value
from forwarder.hosted_tools.page_reader import Page, PageFailure, find_in_text
from forwarder.hosted_tools.tool_context import CallScope
from forwarder.hosted_tools.tool_kind import ClientWatch
from forwarder.hosted_tools.web_search import (
    CITE_NOTE,
    MAX_DOMAINS,
    NO_RESULTS,
    SearchSession,
    SearchTool,
    WebSearch,
    describe_result,
    is_domain,
    read_search_tool,
)
from forwarder.hosted_tools.web_search_backends import SearchFailure, is_subdomain

log = logging.getLogger("forwarder.hosted_tools")

MAX_OPERATIONS = 16
"""Operations of one request that are run; the result says that the others were not run."""

MAX_DOMAIN_TEXT = 1000
"""Characters in which a domain is looked for."""

CHARACTERS_PER_TOKEN = 4
MAX_OUTPUT_LENGTH = 400_000
"""Characters of the output; ``max_output_tokens`` can only lower it."""

RESPONSE_LENGTHS = {"short": "low", "medium": "medium", "long": "high"}
"""``response_length`` -> the corresponding ``search_context_size``."""

CONTEXT_LINES = 5
"""Lines before the one at which a page is opened."""

MAX_LINE_LENGTH = 500
"""Characters of a line of a page; longer ones are split. Otherwise the part of a page that is shown
could end within `CONTEXT_LINES`, and the model would get the same part again."""

REF_NOTE = "The ref_id of a page is its URL."
NOT_LIVE = "Pages are not opened, because the settings of the search allow no live access."
CUT_NOTE = "\n[The output is longer. Its end was left out.]"

_UTC_OFFSET = re.compile(r"([+-])(\d{2}):(\d{2})")


class SearchRequest(NamedTuple):
    """A validated request; ``is_live`` is false if only the index of the engine may be used."""

    commands: Json
    tool: SearchTool
    is_live: bool
    output_length: int


class SearchOperation(NamedTuple):
    """One entry of a command: its name for the model, and the work that returns its result.

    ``work`` gets the call in which it runs. It raises ToolFailure or ForwarderError.
    """

    name: str
    work: Callable[[CallScope], str]


def read_search_request(body: Json) -> SearchRequest:
    """Validate the body of a request. Raises InvalidRequest."""
    commands = read_field(body, "commands", DICT, "commands") or {}
    settings = read_field(body, "settings", DICT, "settings") or {}
    length = read_field(commands, "response_length", STR, "commands.response_length")
    if length is not None:
        check_enum(length, tuple(RESPONSE_LENGTHS), "commands.response_length")
        settings = {**settings, "search_context_size": RESPONSE_LENGTHS[length]}
    # Newer versions name the kind of access instead of a boolean.
    access = read_field(
        settings, "external_web_access", (bool, str), "settings.external_web_access"
    )
    tool = read_search_tool({**settings, "external_web_access": None}, "settings")
    tokens = read_field(body, "max_output_tokens", INT, "max_output_tokens")
    if tokens is not None and tokens < 1:
        raise InvalidRequest(
            "Invalid value for 'max_output_tokens': it must be at least 1.",
            param="max_output_tokens",
            code="invalid_value",
        )
    limit = MAX_OUTPUT_LENGTH if tokens is None else tokens * CHARACTERS_PER_TOKEN
    return SearchRequest(commands, tool, access in (None, True), min(limit, MAX_OUTPUT_LENGTH))


class StandaloneSearch:
    """Runs the commands of one request for the waiting ``client``.

    ``memory`` counts the pages that are opened.
    """

    def __init__(
        self,
        search: WebSearch,
        request: SearchRequest,
        client: CallScope,
        memory: BodyMemory = UNLIMITED_MEMORY,
    ) -> None:
        self._search = search
        self._client = client
        self._request = request
        self._session = SearchSession(search, request.tool, False, {}, memory)

    def run(self) -> str:
        """Run all commands at the same time; return their results.

        Raises InvalidRequest or ClientDisconnected.
        """
        operations = [each for name in COMMANDS for each in self._read_command(name)]
        with closing(self._session):
            results = run_operations(
                operations[:MAX_OPERATIONS], self._search.seconds, self._client
            )
        for operation in operations[MAX_OPERATIONS:]:
            results.append(f"{operation.name}\nToo many commands; run it again.")
        if not results:
            return "The call has no command that could be run."
        output = "\n\n".join([*results, f"{CITE_NOTE} {REF_NOTE}"])
        limit = self._request.output_length
        return output if len(output) <= limit else output[:limit] + CUT_NOTE

    def _read_command(self, name: str) -> Iterator[SearchOperation]:
        """Yield the operations of a command. Raises InvalidRequest."""
        path = f"commands.{name}"
        read_operation = COMMANDS[name]
        entries = read_field(self._request.commands, name, LIST, path) or []
        for index, entry in enumerate(iter_paced(entries)):
            place = f"{path}[{index}]"
            check_type(entry, DICT, place)
            if read_operation is None:
                yield SearchOperation(name, refuse_command)
            else:
                yield read_operation(self, entry, place)

    # -- commands -------------------------------------------------------------------------------

    def _read_search(self, entry: Json, path: str) -> SearchOperation:
        query = require_field(entry, "q", STR, f"{path}.q").strip()
        days = read_field(entry, "recency", INT, f"{path}.recency")
        given = read_field(entry, "domains", LIST, f"{path}.domains") or []
        if len(given) > MAX_DOMAINS:
            raise invalid_value(f"{path}.domains", f"at most {MAX_DOMAINS} domains are allowed")
        domains = [
            check_type(domain, STR, f"{path}.domains[{i}]") for i, domain in enumerate(given)
        ]
        name = f"search_query '{shorten_value(query)}'"
        return SearchOperation(name, lambda call: self._search_web(query, domains, days, call))

    def _read_open(self, entry: Json, path: str) -> SearchOperation:
        url = require_field(entry, "ref_id", STR, f"{path}.ref_id")
        line = read_field(entry, "lineno", INT, f"{path}.lineno") or 0
        return SearchOperation(f"open {shorten_value(url)}", lambda _: self._open_page(url, line))

    def _read_click(self, entry: Json, path: str) -> SearchOperation:
        url = require_field(entry, "ref_id", STR, f"{path}.ref_id")
        number = require_field(entry, "id", INT, f"{path}.id")
        return SearchOperation(f"click {number}", lambda _: self._open_link(url, number))

    def _read_find(self, entry: Json, path: str) -> SearchOperation:
        url = require_field(entry, "ref_id", STR, f"{path}.ref_id")
        pattern = require_field(entry, "pattern", STR, f"{path}.pattern")
        name = f"find '{shorten_value(pattern)}' in {shorten_value(url)}"
        return SearchOperation(name, lambda _: self._find_in_page(url, pattern))

    def _read_time(self, entry: Json, path: str) -> SearchOperation:
        offset = require_field(entry, "utc_offset", STR, f"{path}.utc_offset")
        return SearchOperation(
            f"time {shorten_value(offset)}", lambda _: format_current_time(offset)
        )

    def _search_web(self, query: str, domains: list[str], days: int | None, call: CallScope) -> str:
        if not query:
            raise SearchFailure("The query is empty.")
        options = self._request.tool.options
        wanted = [domain for domain in map(strip_domain, domains) if is_domain(domain)]
        if wanted and options.allowed:
            wanted = [d for d in wanted if any(is_subdomain(d, a) for a in options.allowed)]
            if not wanted:
                raise SearchFailure("The settings of the search do not allow these domains.")
        options = options._replace(
            allowed=tuple(wanted) or options.allowed,
            recent_days=days if days and days > 0 else None,
        )
        answer = self._search.engine.search(query, options, self._search.client, call)
        entries = [describe_result("-", result) for result in answer.results]
        texts = [answer.text, *entries] if answer.text else entries
        return "\n\n".join(texts) if texts else NO_RESULTS

    def _get_page(self, url: str) -> Page:
        if not self._request.is_live:
            raise PageFailure(NOT_LIVE)
        if not url.startswith(("http://", "https://")):
            raise PageFailure(f"The reference is not known. {REF_NOTE}")
        return self._session.open_page(url)

    def _open_page(self, url: str, line: int) -> str:
        page = self._get_page(url)
        lines = [*split_lines(page.text)]
        first = max(0, min(line, len(lines)) - CONTEXT_LINES)
        text = "\n".join(lines[first:])
        shown = text[: self._request.tool.page_length]
        end = first + shown.count("\n") + 1
        if len(shown) < len(text):
            shown += f"\n[The page goes on. Open it with lineno {end} to read on.]"
        blocks = [f"{page.title}\nURL: {url}\nLines {first}-{end} of {len(lines)}", shown]
        if page.links:
            links = [f"{i}: {name} {target}" for i, (name, target) in enumerate(page.links)]
            blocks.append("\n".join(["Links:", *links]))
        return "\n\n".join(blocks)

    def _open_link(self, url: str, number: int) -> str:
        links = self._get_page(url).links
        if not 0 <= number < len(links):
            raise PageFailure("The page has no link of this number.")
        return self._open_page(links[number][1], 0)

    def _find_in_page(self, url: str, pattern: str) -> str:
        if not pattern:
            raise PageFailure("The pattern is empty.")
        passages = find_in_text(self._get_page(url).text, pattern)
        return "\n\n".join(passages) if passages else "The page does not contain this text."


ReadOperation = Callable[[StandaloneSearch, Json, str], SearchOperation]

COMMANDS: dict[str, ReadOperation | None] = {
    "search_query": StandaloneSearch._read_search,
    "open": StandaloneSearch._read_open,
    "click": StandaloneSearch._read_click,
    "find": StandaloneSearch._read_find,
    "time": StandaloneSearch._read_time,
    "image_query": None,
    "screenshot": None,
    "finance": None,
    "weather": None,
    "sports": None,
}
"""Command -> the method that reads an entry of it; ``None`` if it is not served."""


def refuse_command(call: CallScope) -> str:
    raise SearchFailure("This command is not available. Use search_query.")


def split_lines(text: str) -> Iterator[str]:
    """Yield the lines of a page, of at most `MAX_LINE_LENGTH` characters."""
    for line in text.splitlines():
        yield line[:MAX_LINE_LENGTH]
        for start in range(MAX_LINE_LENGTH, len(line), MAX_LINE_LENGTH):
            yield line[start : start + MAX_LINE_LENGTH]


def strip_domain(text: str) -> str:
    """Return the domain in a model's text, which can be a URL instead of a domain."""
    text = text[:MAX_DOMAIN_TEXT].lower()
    return text.partition("://")[2].partition("/")[0] or text.partition("/")[0]


def format_current_time(offset: str) -> str:
    parts = _UTC_OFFSET.fullmatch(offset)
    if parts is None or int(parts[2]) > 23 or int(parts[3]) > 59:
        raise SearchFailure("The offset must have the form +03:00.")
    distance = timedelta(hours=int(parts[2]), minutes=int(parts[3]))
    zone = timezone(-distance if parts[1] == "-" else distance)
    return datetime.now(UTC).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %z")


def run_operations(
    operations: list[SearchOperation], seconds: float, client: CallScope
) -> list[str]:
    """Run operations at the same time, for at most ``seconds``; return their results as texts.

    Raises ClientDisconnected.
    """
    watch = ClientWatch(client)
    calls = [GreenletCall(partial(run_operation, o), make_outcome, seconds) for o in operations]
    with watch.cancel_on_disconnect(*calls):
        for call in calls:
            call.wait(None)
        watch.check()
        outcomes = [call.read_outcome({}) for call in calls]
    pairs = zip(operations, outcomes, strict=True)
    return [f"{operation.name}\n{outcome.output}" for operation, outcome in pairs]


def run_operation(operation: SearchOperation, call: CallScope) -> tuple[str, Json]:
    """Return the result of an operation. Raises ToolFailure or ForwarderError."""
    try:
        return operation.work(call), {}
    except (ToolFailure, ForwarderError):
        raise
    except Exception:
        log.exception("a search command failed", extra={"event": "search_command_failed"})
        raise SearchFailure("The command failed unexpectedly.") from None


def make_outcome(item: Json, status: str, output: str, fields: Json | None = None) -> CallOutcome:
    return CallOutcome(item, (), output if status == "completed" else f"Failed: {output}")
