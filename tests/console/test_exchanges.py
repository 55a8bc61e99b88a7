"""The pages of captured exchanges: the list and one exchange."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask import Flask
from flask.testing import FlaskClient

from forwarder.console import exchange_text, exchanges
from forwarder.console.exchange_text import ReadableJsonFormatter
from forwarder.observability.capture import CaptureObserver, running
from forwarder.observability.capture.stores import generate_name
from forwarder.server.extension import get_extension
from tests.console.records import HOSTILE, Json, make_attempt, make_chunk, make_event, make_record
from tests.helpers.check_cases import check_each
from tests.helpers.waiting import wait_until
from tests.server.conftest import Serve, make_stream_response
from tests.server.test_diagnostics import DELTA, STOP
from tests.server.test_diagnostics import answer as answer_chat

PATH = "/console/exchanges"

PART = {"HX-Request": "true"}
"""Header of htmx, which asks for a part of a page."""


@pytest.fixture
def client(serve: Serve) -> FlaskClient:
    return serve(answer_chat, FORWARDER_CAPTURE="memory")


def send_request(client: FlaskClient, path: str = "/v1/responses", **body: Any) -> None:
    body = {"model": "chat/m", "input": "hi", **body}
    client.post(path, json=body, buffered=True)


def get_capture(client: FlaskClient) -> CaptureObserver:
    app: Flask = client.application
    capture = get_extension(app).services.capture
    assert capture is not None
    return capture


def list_rows(page: str) -> list[str]:
    """Return the ids of the rows of a list."""
    return re.findall(r'<tr id="(ex_\w+)"', page)


def put_record(client: FlaskClient, record: Json, at: float = 0.0) -> str:
    """Store a record that began at this time; returns its name."""
    name = generate_name(at or time.time())
    exchange = {**record["exchange"], "id": name}
    other_fields = {k: v for k, v in record.items() if k != "exchange"}
    head = b'{"exchange":' + json.dumps(exchange).encode()
    get_capture(client).store.put(
        name, head + b",\n" + json.dumps(other_fields).encode()[1:] + b"\n"
    )
    return name


def show_first(client: FlaskClient) -> str:
    """Return the page of the newest exchange."""
    name = get_capture(client).store.list_names()[0]
    page = client.get(f"{PATH}/{name}")
    assert page.status_code == 200, page.text
    return page.text


# -- list -----------------------------------------------------------------------------------------


def test_page_says_how_to_switch_capturing_on(demo: FlaskClient) -> None:
    page = demo.get(PATH)

    assert page.status_code == 200
    assert "<code>FORWARDER_CAPTURE</code> is off" in page.text
    assert demo.get(f"{PATH}/x").status_code == 404
    assert demo.get(f"{PATH}/stream").status_code == 404


def test_list_shows_the_newest_first_with_their_clients(serve: Serve, tmp_path: Path) -> None:
    for storage, has_hint in (("memory", True), (f"{tmp_path}/x", False)):
        client = serve(answer_chat, FORWARDER_CAPTURE=storage)
        assert "No exchanges yet" in client.get(PATH).text
        for _ in range(3):
            send_request(client)
            time.sleep(0.002)  # names have milliseconds

        page = client.get(PATH).text

        assert list_rows(page) == get_capture(client).store.list_names()
        assert ("in its own memory" in page) is has_hint


def test_pages_continue_where_the_previous_one_ended(client: FlaskClient) -> None:
    names = [
        put_record(client, make_record({}), time.time() - 200 + number) for number in range(60)
    ]
    page = client.get(PATH).text
    older = client.get(html.unescape(re.findall(r'href="([^"]*before=[^"]*)"', page)[0])).text

    assert list_rows(page) + list_rows(older) == names[::-1]
    assert "data-stream" in page
    assert "data-stream" not in older
    assert "before=" not in older


@check_each(
    ("query", "expected"),
    [
        ("status=ok", [200]),
        ("status=errors", [502, 429, 200]),
        ("status=429", [429]),
        ("model=GPT", [429]),
        ("client=alice&status=ok", [200]),
        ("route=chat", [502]),
        ("upstream=nowhere", []),
        ("status=running", []),
        ("model=+&status=", [502, 429, 200, 200]),
    ],
)
def test_list_is_filtered_by_its_arguments(
    query: str, expected: list[int], client: FlaskClient
) -> None:
    if not get_capture(client).store.list_names():
        for number, fields in enumerate(
            [
                {"client": "Alice"},
                {"error": "upstream_failed"},
                {"status": 429, "model": "gpt-5"},
                {"status": 502, "route": "chat"},
            ]
        ):
            record = make_record({})
            record["exchange"] |= fields
            put_record(client, record, time.time() - 100 + number)

    page = client.get(f"{PATH}?{query}").text

    tags = re.findall(r'<span class="tag [a-z]+">(\d+)</span>', page)
    assert [int(tag) for tag in tags] == expected


@check_each("query", ["status=good", "status=4", "before=x", "before=../../x"])
def test_wrong_arguments_are_refused(query: str, client: FlaskClient) -> None:
    page = client.get(f"{PATH}?{query}")

    assert page.status_code == 400
    assert f"<code>{query.partition('=')[0]}</code>" in page.text


def test_search_for_rare_exchanges_ends(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "MAX_SEARCHED", 5)
    record = make_record({})
    record["exchange"]["status"] = 500
    oldest = put_record(client, record, time.time() - 100)
    for number in range(8):
        put_record(client, make_record({}), time.time() - 90 + number)

    page = client.get(f"{PATH}?status=500").text
    assert list_rows(page) == []
    assert "The search ended" in page
    older = html.unescape(re.findall(r'href="([^"]*before=[^"]*)"', page)[0])
    assert "status=500" in older
    assert list_rows(client.get(older).text) == [oldest]


def test_list_reads_only_the_summaries_of_its_page(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(answer_chat, FORWARDER_CAPTURE=str(tmp_path), FORWARDER_CAPTURE_COUNT="1000")
    for number in range(300):
        put_record(client, make_record({}), time.time() - 500 + number)
    store = get_capture(client).store
    read: list[str] = []
    read_summary = store.read_summary
    monkeypatch.setattr(
        store, "read_summary", lambda name: (read.append(name), read_summary(name))[1]
    )

    page = client.get(PATH).text

    assert len(list_rows(page)) == len(read) == exchanges.PAGE_SIZE


def test_hostile_names_are_escaped_in_the_list(client: FlaskClient) -> None:
    record = make_record({})
    record["exchange"] |= {"model": HOSTILE, "client": HOSTILE, "error": HOSTILE}
    put_record(client, record)

    page = client.get(PATH).text

    assert "<img src=x" not in page
    assert "</script><script>" not in page
    assert "\u202e" not in page
    assert "&lt;img src=x" in page


# -- one exchange -----------------------------------------------------------------------------------


def test_exchange_shows_both_sides(client: FlaskClient) -> None:
    send_request(client, stream=True, truncation="auto", access_programs={}, instructions="be kind")

    page = show_first(client)

    assert '<span class="tag bad">dropped</span>' in page
    assert "applies only to accounts at OpenAI" in page
    assert '<span class="tag info">emulated</span>' in page
    assert "http://up.test/v1/chat/completions" in page
    assert "response.output_text.delta" in page
    assert "chat.completion.chunk" in page
    assert '<rect class="phase text"' in page
    assert "curl -sN" in page
    assert 'aria-label="Events"' in page


@check_each(
    ("path", "body", "expected"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, "messages"),
        ("/api/chat", {"messages": [{"role": "user", "content": "hi"}], "options": {"top_k": 3}}, "options.top_k"),
        ("/api/generate", {"prompt": "hi", "stream": False}, "prompt"),
        ("/v1/embeddings", {"input": "hi"}, "input"),
        ("/v1/responses", {"input": 5}, "No upstream was called."),
        ("/v1/chat/completions", {"model": 3}, "No upstream was called."),
    ],
)  # fmt: skip
def test_every_api_is_shown(path: str, body: Json, expected: str, client: FlaskClient) -> None:
    client.post(path, json={"model": "chat/m", **body}, buffered=True)

    assert expected in show_first(client)


def test_background_work_is_an_exchange_of_its_own(client: FlaskClient) -> None:
    send_request(client, background=True)
    store = get_capture(client).store
    names = wait_until(lambda: store.list_names() if len(store.list_names()) == 2 else [])

    routes = {str((store.read_summary(name) or {})["route"]): name for name in names}
    assert routes.keys() == {"responses", "background"}
    work, queued = (client.get(f"{PATH}/{routes[r]}").text for r in ("background", "responses"))
    assert "chat.completion.chunk" in work
    assert "response.completed" in work
    assert "No upstream was called." in queued


def test_turns_of_a_websocket_become_commands_for_http(client: FlaskClient) -> None:
    record = make_record({"type": "response.create", "model": "m", "input": "hi"})
    record["client"]["request"] |= {"method": "GET", "path": "/v1/responses"}
    record["client"]["answer"] = {"events": [make_event(5.0, "response.created", response={})]}
    put_record(client, record)

    page = html.unescape(show_first(client))

    assert """-d '{"model": "m", "input": "hi", "stream": true}'""" in page
    assert "response.created" in page


def test_damaged_record_is_reported(serve: Serve, tmp_path: Path) -> None:
    client = serve(answer_chat, FORWARDER_CAPTURE=str(tmp_path))
    name = put_record(client, make_record({}))
    pages = [f"{PATH}/{name}{part}" for part in ("", "/events", "/replay")]
    pages.append(f"/console/playground?exchange={name}")

    for content in (b'{"exchange":{},\n"client"', b"{}", b"[]"):
        (tmp_path / f"{name}.json").write_bytes(content)
        for path in pages:
            page = client.get(path)
            assert (page.status_code, "damaged" in page.text) == (404, True), (path, content)


def test_each_parameter_has_its_disposition(client: FlaskClient) -> None:
    send_request(client, instructions="be kind", user=None, access_programs={})
    page = show_first(client)
    rows = {
        name: row
        for row in re.findall(r"<tr>.*?</tr>", page, re.DOTALL)
        for name in re.findall(r'<th scope="row"><bdi>([a-z_]+)</bdi>', row)
    }

    assert "no parameter of its own" in rows["instructions"]
    assert "not sent" in rows["access_programs"]
    assert "the client did not send it" in rows["stream"]


def test_times_of_a_row_differ_only_if_that_is_visible(client: FlaskClient) -> None:
    attempt = make_attempt({"model": "m"})
    attempt["answer"]["events"] = [make_chunk(at, content="a") for at in (13.6, 14.2)]
    put_record(client, make_record({"model": "m", "input": "hi"}, attempt))

    assert '<td class="number">14</td>' in show_first(client)


@pytest.mark.usefixtures("_short_backoff")
def test_failed_attempts_are_shown(serve: Serve) -> None:
    busy = httpx2.Response(503, text="<b>busy</b>", headers={"Retry-After": "0"})
    answers = iter([busy, make_stream_response(DELTA, STOP)])
    client = serve(lambda _: next(answers), FORWARDER_CAPTURE="memory", CHAT_MAX_RETRIES="1")
    send_request(client, stream=True)

    page = show_first(client)

    assert "attempt 2" in page
    assert "The same request as attempt 1." in page
    assert '<span class="tag bad">503</span>' in page
    assert "<b>busy</b>" not in page


def test_hostile_prompts_are_escaped(client: FlaskClient) -> None:
    send_request(client, input=HOSTILE, metadata={HOSTILE[:60]: HOSTILE}, stream=True)
    page = show_first(client)

    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "\\u202e" in page


def test_images_of_the_record_are_shown_and_no_others(client: FlaskClient) -> None:
    png = "data:image/png;base64,iVBORw0KGgo="
    content = [
        {"type": "input_image", "image_url": png},
        {"type": "input_image", "image_url": "https://evil.test/pixel.png"},
        {"type": "input_image", "image_url": "data:image/svg+xml;base64,PHN2Zz4="},
    ]
    put_record(client, make_record({"input": [{"role": "user", "content": content}]}))

    sources = re.findall(r'<img src="([^"]*)"', show_first(client))

    assert [each for each in sources if "icon.svg" not in each] == [png]


def test_more_events_are_loaded_in_parts(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "EVENT_ROWS", 10)
    attempt = make_attempt({})
    attempt["answer"]["events"] = [{"at": n, "data": {"object": f"kind {n}"}} for n in range(5, 30)]
    name = put_record(client, make_record({"model": "m"}, attempt))

    page = client.get(f"{PATH}/{name}").text
    (more,) = set(re.findall(r'hx-get="([^"]*from=10)"', page))
    second_part = client.get(more, headers=PART).text
    last = client.get(more.replace("from=10", "from=20")).text

    kinds = [kind for each in (page, second_part, last) for kind in re.findall(r"kind \d+", each)]
    assert kinds == [f"kind {n}" for n in range(5, 30)]
    assert "More (" in second_part
    assert "More (" not in last
    assert second_part.lstrip().startswith("<tr")
    full_page = client.get(more).text
    assert second_part in full_page
    assert "<h1>Events</h1>" in full_page
    assert client.get(f"{PATH}/{name}/events?from=x").status_code == 400


def test_json_of_events_is_loaded_on_demand(client: FlaskClient) -> None:
    attempt = make_attempt({})
    attempt["answer"]["events"] = [
        make_chunk(10 + n / 10, content=f"{HOSTILE} {n}") for n in range(140)
    ]
    name = put_record(client, make_record({"model": "m"}, attempt))
    page = client.get(f"{PATH}/{name}").text
    address = re.findall(r'hx-get="([^"]*side=upstream)"', page)[0]

    part = client.get(html.unescape(address), headers=PART).text

    assert part.lstrip().startswith("<p")
    assert part in client.get(html.unescape(address)).text
    assert part.count("<pre") == exchanges.MAX_SHOWN_EVENTS
    assert "40 more events" in part
    assert "<img src=x" not in part
    assert client.get(f"{PATH}/{name}/events/999").status_code == 404
    assert client.get(f"{PATH}/{name}/events/0?side=upstream").status_code == 404


def test_json_of_a_row_has_a_common_limit_and_is_formatted_off_the_event_loop(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {f"field{number}": "word " * 400 for number in range(30)}
    attempt = make_attempt({})
    attempt["answer"]["events"] = [
        make_chunk(10 + n / 10, content="a", **texts) for n in range(exchanges.MAX_SHOWN_EVENTS)
    ]
    name = put_record(client, make_record({"model": "m"}, attempt))
    page = client.get(f"{PATH}/{name}").text
    address = html.unescape(re.findall(r'hx-get="([^"]*side=upstream)"', page)[0])
    capture, work_in_pool = get_capture(client), []
    run_blocking, format_document = capture.run_blocking, ReadableJsonFormatter.format

    def run(work: Callable[[], Any]) -> Any:
        work_in_pool.append(work)
        try:
            return run_blocking(work)
        finally:
            work_in_pool.pop()

    def check_and_format(formatter: ReadableJsonFormatter, value: Any) -> str:
        assert work_in_pool
        return format_document(formatter, value)

    monkeypatch.setattr(capture, "run_blocking", run)
    monkeypatch.setattr(ReadableJsonFormatter, "format", check_and_format)

    response = client.get(address)

    assert response.status_code == 200, response.text
    assert response.text.count("<pre") == exchanges.MAX_SHOWN_EVENTS
    assert exchange_text.MAX_PAGE_TEXT < len(response.text) < 2 * exchange_text.MAX_PAGE_TEXT


def test_record_is_available_as_json(client: FlaskClient) -> None:
    send_request(client)
    name = get_capture(client).store.list_names()[0]

    got = client.get(f"{PATH}/{name}/record")

    assert got.mimetype == "application/json"
    assert got.json["exchange"]["id"] == name
    assert got.headers["X-Content-Type-Options"] == "nosniff"


def test_neighbours_are_linked(client: FlaskClient) -> None:
    names = [put_record(client, make_record({}), time.time() - 10 + number) for number in range(3)]

    pages = [client.get(f"{PATH}/{name}").text for name in names]

    links = [re.findall(r'href="/console/exchanges/(ex_\w+)" rel="(\w+)"', page) for page in pages]
    assert links == [
        [(names[1], "prev")],
        [(names[2], "prev"), (names[0], "next")],
        [(names[1], "next")],
    ]


def test_unknown_exchange_is_a_page_with_a_hint(client: FlaskClient) -> None:
    page = client.get(f"{PATH}/<b>x")

    assert page.status_code == 404
    assert "&lt;b&gt;x" in page.text
    assert "FORWARDER_CAPTURE" in page.text


def test_command_has_a_placeholder_for_the_key(serve: Serve) -> None:
    client = serve(answer_chat, FORWARDER_CAPTURE="memory", FORWARDER_API_KEYS="sk-client-1234")
    body = {"model": "chat/m", "input": f"it's {HOSTILE}"}
    client.post("/v1/responses", json=body, headers={"Authorization": "Bearer sk-client-1234"})

    page = show_first(client)

    (command,) = re.findall(r'<pre id="curl"[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert "$FORWARDER_KEY" in command
    assert "sk-client" not in page
    assert html.unescape(command).isascii()
    assert "it'\"'\"'s" in html.unescape(command)


def test_only_operators_see_exchanges(serve: Serve) -> None:
    client = serve(answer_chat, FORWARDER_CAPTURE="memory", FORWARDER_ADMIN_KEYS="adm")
    send_request(client)
    name = get_capture(client).store.list_names()[0]

    for path in (
        "",
        "/stream",
        f"/{name}",
        f"/{name}/record",
        f"/{name}/events",
        f"/{name}/events/1",
    ):
        assert client.get(PATH + path).status_code == 302


# -- running ----------------------------------------------------------------------------------------


def test_running_time_counts_from_the_start_and_not_from_the_last_summary() -> None:
    summary = {"id": generate_name(time.time() - 90), "running": True, "duration_ms": 800.0}

    assert float(exchanges.make_row(summary, PATH)["seconds"].removesuffix(" s")) >= 90


@pytest.mark.parametrize("storage", ["memory", "files"])
def test_running_exchange_is_listed_and_opened(
    storage: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "MIN_PUBLISHED_SECONDS", 0.0)
    capture_setting = "memory" if storage == "memory" else str(tmp_path)
    client = serve(answer_chat, FORWARDER_CAPTURE=capture_setting)
    body = {"model": "chat/m", "input": "hi", "stream": True}
    with client.post("/v1/responses", json=body) as answer:
        next(iter(answer.response))
        get_capture(client).running.publish()
        page = client.get(PATH).text
        (name,) = list_rows(page)
        exchange_page = client.get(f"{PATH}/{name}").text
    finished = client.get(f"{PATH}/{name}").text

    assert '<span class="tag info">running</span>' in page
    assert list_rows(client.get(f"{PATH}?status=running").text) == []
    assert 'hx-trigger="every 2s"' in exchange_page
    assert "response.created" in exchange_page
    assert "every 2s" not in finished
    for page, has_record in ((exchange_page, False), (finished, True)):
        assert ("Replay</a>" in page) is has_record
        assert ("Open in playground</a>" in page) is has_record
    assert list_rows(client.get(PATH).text) == [name]
