"""HTTP of the MCP client."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2

from forwarder.hosted_tools.mcp_http import (
    MAX_LOOKUPS,
    AddressResolver,
    HttpOutcome,
    describe_status,
    make_http_client,
    record_http_outcome,
)
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import Peer, encode_chunk, find_unused_port, run_server

LOOPBACK = [(2, ("127.0.0.1", 0))]


def send_get(
    script: Callable[[Peer], None] | None,
    lookup: Callable[[str, int], Any] = lambda host, port: LOOPBACK,
    seconds: float = 2.0,
    **headers: str,
) -> tuple[httpx2.Response | Exception, HttpOutcome, list[bytes]]:
    """Send a request to a server with this script; returns the outcome and the server's requests."""

    async def send(port: int) -> tuple[httpx2.Response | Exception, HttpOutcome]:
        resolver = AddressResolver(lookup)
        async with make_http_client(headers, resolver, 1000, seconds) as client:
            with record_http_outcome() as outcome:
                try:
                    return await client.get(f"http://tool.example:{port}/"), outcome
                except httpx2.HTTPError as error:
                    return error, outcome

    if script is None:
        return (*asyncio.run(send(find_unused_port())), [])
    with run_server(script) as server:
        result = asyncio.run(send(server.port))
    return (*result, server.requests)


def make_answer_script(body: bytes, *headers: bytes) -> Callable[[Peer], None]:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.answer(body, *headers)

    return serve


def test_headers_are_sent_and_the_body_is_read() -> None:
    response, outcome, requests = send_get(make_answer_script(b"body"), **{"X-Key": "k"})
    assert isinstance(response, httpx2.Response)
    assert response.content == b"body"
    assert outcome == HttpOutcome()
    assert outcome.message is None
    assert b"X-Key: k" in requests[0]
    assert b"Accept-Encoding: identity" in requests[0]


def test_refusal_is_recorded() -> None:
    def refuse(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    _, outcome, _ = send_get(refuse)
    assert outcome.status == 403
    assert outcome.message == "its server answered 403 (Forbidden)"
    assert describe_status(799) == "799"


def stay_silent(peer: Peer) -> None:
    peer.request()
    peer.server.wait()


def send_large_body(peer: Peer) -> None:
    peer.request()
    peer.start_chunked()
    for _ in range(5):
        peer.send(encode_chunk(b"x" * 500))
    peer.send(encode_chunk(b""))


def hang_up(peer: Peer) -> None:
    peer.request()
    peer.close()


@check_each(
    ("script", "reason"),
    [
        (stay_silent, "took too long"),
        (send_large_body, "too large"),
        (make_answer_script(b"x", b"Content-Encoding: gzip"), "compressed"),
        (None, "cannot be reached"),
        (hang_up, "connection to its server failed"),
    ],
)
def test_failure_is_recorded_with_its_reason(script: Any, reason: str) -> None:
    error, outcome, _ = send_get(script, seconds=0.15 if script is stay_silent else 2.0)
    assert isinstance(error, httpx2.HTTPError)
    assert reason in str(outcome.message)


@check_each("error", [OSError("no"), UnicodeError("no"), None])
def test_host_without_allowed_address_is_not_connected_to(error: Exception | None) -> None:
    def look_up(host: str, port: int) -> list[Any]:
        if error is not None:
            raise error
        return []

    _, outcome, requests = send_get(make_answer_script(b"never"), look_up)
    assert outcome.message == "its host has no address that may be connected to"
    assert not requests


def test_next_address_is_tried() -> None:
    addresses = [(2, ("127.0.0.2", 0)), *LOOPBACK]
    response, outcome, _ = send_get(make_answer_script(b"second"), lambda host, port: addresses)
    assert isinstance(response, httpx2.Response)
    assert outcome.message is None


def test_look_ups_are_bounded_even_if_they_are_abandoned() -> None:
    running = max_running = 0

    def look_up(host: str, port: int) -> list[Any]:
        nonlocal running, max_running
        running += 1
        max_running = max(max_running, running)
        time.sleep(0.1)
        running -= 1
        return []

    async def start_and_cancel() -> None:
        resolver = AddressResolver(look_up)
        tasks = [asyncio.create_task(resolver.resolve("h", 80)) for _ in range(20)]
        await asyncio.sleep(0.05)
        for task in tasks[:MAX_LOOKUPS]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(start_and_cancel())
    assert max_running <= MAX_LOOKUPS


def test_client_with_slow_names_leaves_look_ups_to_others() -> None:
    started, release = threading.Semaphore(0), threading.Event()

    def look_up(host: str, port: int) -> Any:
        if host == "slow.test":
            started.release()
            release.wait(10)
        return LOOPBACK

    async def look_up_slow_names() -> None:
        resolver = AddressResolver(look_up)
        slow = [
            asyncio.create_task(resolver.limit_to_share("a").resolve("slow.test", 1))
            for _ in range(3 * MAX_LOOKUPS)
        ]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in slow)
        for task in slow[: MAX_LOOKUPS // 2]:
            task.cancel()  # started look-ups keep their slots
        other_lookup = resolver.limit_to_share("b").resolve("tool.test", 1)
        assert await asyncio.wait_for(other_lookup, 5) == LOOPBACK
        started_count = 0
        while started.acquire(blocking=False):
            started_count += 1
        assert started_count == MAX_LOOKUPS // 4
        release.set()
        answers = await asyncio.gather(*slow[MAX_LOOKUPS // 2 :])
        assert answers == [LOOPBACK] * len(answers)

    asyncio.run(look_up_slow_names())
