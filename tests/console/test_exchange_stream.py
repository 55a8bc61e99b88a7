"""The stream of rows that pages follow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from forwarder.console import exchange_stream, session
from forwarder.observability.capture import feed
from forwarder.server.extension import get_extension
from tests.console.records import HOSTILE, make_record
from tests.console.test_exchanges import PATH, get_capture, put_record, send_request
from tests.server.conftest import Serve
from tests.server.test_diagnostics import answer as answer_chat

Event = dict[str, str]


@pytest.fixture(autouse=True)
def _poll_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(exchange_stream, "PAUSE_SECONDS", 0.005)


@pytest.fixture
def client(serve: Serve) -> FlaskClient:
    return serve(answer_chat, FORWARDER_CAPTURE="memory", FORWARDER_KEEPALIVE="0.05")


class Stream:
    """The events of the stream of a client."""

    def __init__(self, client: FlaskClient, query: str = "", **headers: str) -> None:
        self.response = client.get(f"{PATH}/stream{query}", headers=headers)
        assert self.response.status_code == 200, self.response.text
        self._blocks = self._split()

    def _split(self) -> Iterator[str]:
        for data in self.response.response:
            yield from filter(None, data.decode().split("\n\n"))

    def read_block(self) -> str:
        return next(self._blocks)

    def read(self) -> Event:
        """Return the next event; comments are skipped."""
        while (block := self.read_block()).startswith((":", "retry")):
            pass
        event: Event = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            event[name] = f"{event[name]}\n{value}" if name in event else value
        return event

    def close(self) -> None:
        self.response.close()


def test_stream_has_the_format_of_server_sent_events(client: FlaskClient) -> None:
    stream = Stream(client)

    assert stream.response.mimetype == "text/event-stream"
    assert stream.response.headers["Cache-Control"] == "no-store"
    assert stream.read_block() == "retry: 3000"
    assert stream.read() | {"id": ""} == {"id": "", "event": "running", "data": ""}
    stream.close()


def test_new_exchange_is_sent_as_a_row(client: FlaskClient) -> None:
    stream = Stream(client)
    assert stream.read()["event"] == "running"
    send_request(client)

    row = stream.read()

    assert row["event"] == "row"
    assert row["data"].startswith(f'<tr id="{get_capture(client).store.list_names()[0]}"')
    assert float(row["id"]) == pytest.approx(time.time(), abs=60)
    stream.close()


def test_row_of_a_running_exchange_changes_when_it_ends(client: FlaskClient) -> None:
    stream = Stream(client)
    stream.read()
    body = {"model": "chat/m", "input": "hi", "stream": True}
    with client.post("/v1/responses", json=body) as answer:
        chunks = iter(answer.response)
        next(chunks)
        first = stream.read()
        other = Stream(client)
        assert 'data-state="running"' in other.read()["data"]
        name = other.read()
        other.close()
        assert list(chunks)
    second = stream.read()

    assert 'data-state="running"' in first["data"]
    assert 'data-state="ok"' in second["data"]
    assert name["event"] == "running"
    assert all(f'<tr id="{name["data"]}"' in each["data"] for each in (first, second))
    stream.close()


def test_reconnected_page_gets_missed_rows(client: FlaskClient) -> None:
    now = time.time()
    put_record(client, make_record({}), now - 500)
    missed_id = put_record(client, make_record({}), now - 50)

    by_header = Stream(client, "?since=0", **{"Last-Event-ID": f"{now - 100}"})
    by_argument = Stream(client, f"?since={now - 100}")
    fresh = Stream(client, "?since=nan", **{"Last-Event-ID": "nonsense"})

    for stream in (by_header, by_argument):
        assert missed_id in stream.read()["data"]
        assert stream.read()["event"] == "running"
    assert fresh.read()["event"] == "running"
    for stream in (by_header, by_argument, fresh):
        stream.close()


def test_filters_are_those_of_the_list(client: FlaskClient) -> None:
    stream = Stream(client, "?model=other&status=errors")
    stream.read()
    matching_record = make_record({})
    matching_record["exchange"] |= {"model": "other", "status": 500}
    put_record(client, make_record({}))
    name = put_record(client, matching_record)

    assert name in stream.read()["data"]
    assert client.get(f"{PATH}/stream?status=what").status_code == 400
    stream.close()


def test_stream_ends_with_the_session(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(
        answer_chat,
        FORWARDER_CAPTURE="memory",
        FORWARDER_KEEPALIVE="0.05",
        FORWARDER_ADMIN_KEYS="adm-one",
    )
    client.post("/console/sign-in", data={"key": "adm-one"})
    stream = Stream(client)
    client.post("/console/sign-out")
    key_stream = Stream(client, Authorization="Bearer adm-one")
    for each in (stream, key_stream):
        assert each.read()["event"] == "running"
    now = time.time() + session.SESSION_SECONDS
    monkeypatch.setattr(time, "time", lambda: now)

    with pytest.raises(StopIteration):
        stream.read_block()

    assert key_stream.read_block() == ": heartbeat"
    key_stream.close()


def test_exchange_that_ends_leaves_the_list_of_running_ones(client: FlaskClient) -> None:
    stream = Stream(client, "?status=running")
    stream.read()
    send_request(client)

    assert stream.read() | {"id": ""} == {
        "id": "", "event": "gone", "data": get_capture(client).store.list_names()[0],
    }  # fmt: skip
    stream.close()


def test_rows_are_escaped(client: FlaskClient) -> None:
    stream = Stream(client)
    stream.read()
    record = make_record({})
    record["exchange"] |= {"model": f"{HOSTILE}\nevent: gone\ndata: x\r\n\r\n", "client": "\x85"}
    put_record(client, record)

    row = stream.read()

    assert row["event"] == "row"
    assert "<img" not in row["data"]
    assert "\u202e" not in row["data"]
    assert stream.read_block() == ": heartbeat"
    stream.close()


def test_idle_stream_has_heartbeats(client: FlaskClient) -> None:
    stream = Stream(client)
    stream.read()

    assert stream.read_block() == ": heartbeat"
    stream.close()


def test_streams_of_a_worker_are_limited(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_stream, "MAX_STREAMS", 2)
    streams = [Stream(client) for _ in range(2)]
    for stream in streams:
        stream.read()

    refused = client.get(f"{PATH}/stream")
    assert refused.status_code == 503
    assert "2 pages" in refused.text

    for stream in streams:
        stream.close()
    assert get_capture(client).feed.followers == 0
    Stream(client).close()


def test_pages_of_other_sites_get_no_stream(client: FlaskClient) -> None:
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}):
        assert client.get(f"{PATH}/stream", headers=headers).status_code == 403

    Stream(client, **{"Sec-Fetch-Site": "same-origin"}).close()


def test_shutdown_ends_streams(client: FlaskClient) -> None:
    stream = Stream(client)
    stream.read()
    in_flight = get_extension(client.application).services.running
    assert len(in_flight) == 0, "a shutdown would wait for the stream"

    in_flight.announce()

    blocks: list[Any] = list(stream._blocks)
    assert len(blocks) <= 1
    assert get_capture(client).feed.followers == 0
