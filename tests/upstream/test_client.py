"""Handlers of an upstream's client: profiles, quirks, whole answers and refused keys."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from forwarder.context.request_context import RequestContext, Route
from forwarder.core.errors import (
    NotFound,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.core.translation_context import LossReport
from forwarder.upstream.client import Upstream
from tests.helpers.check_cases import check_each
from tests.upstream.sending import (
    CHAT,
    CHUNK,
    KEY,
    Provider,
    make_refusing_provider,
    make_stream,
    make_upstream,
    send_compaction,
    send_embedding,
    send_request,
)


def test_a_request_goes_out_under_the_upstream_s_own_name_for_the_model() -> None:
    provider = Provider()

    events, _ = send_request(make_upstream(provider))

    assert events == [CHUNK]
    assert str(provider.requests[0].url) == "http://up.test/v1/chat/completions"
    assert provider.body == {**CHAT, "model": "their-model"}


@check_each(
    ("environment", "client", "role"),
    [
        ({}, "chat", "developer"),
        ({}, "responses", "system"),
        ({"UP_PROVIDER": "deepseek"}, "chat", "system"),
        ({"UP_QUIRKS": '{"join_text_parts": false}'}, "chat", "system"),
    ],
)
def test_own_chat_body_is_adapted_only_by_known_quirks(
    environment: dict[str, str], client: str, role: str
) -> None:
    provider = Provider()
    message = {"role": "developer", "content": "hi"}

    send_request(
        make_upstream(provider, **environment), {**CHAT, "messages": [message]}, client=client
    )

    assert provider.body["messages"][0]["role"] == role


def test_seals_are_not_sent_to_a_responses_upstream() -> None:
    provider = Provider(lambda _: make_stream({"type": "response.completed",
                                            "response": {"output": [{}]}}))  # fmt: skip
    message = {"role": "user", "content": "hi"}
    reasoning = {"type": "reasoning", "summary": [], "encrypted_content": "fwd1.x"}

    send_request(
        make_upstream(provider),
        {"input": [message, reasoning], "stream": True},
        "responses",
        "responses",
    )

    assert provider.body["input"] == [message]


def test_answer_headers_are_added_to_the_request_context() -> None:
    headers = {"x-request-id": "up-1", "x-ratelimit-limit-tokens": "9", "server": "nginx"}
    provider = make_refusing_provider(200, text='data: {"choices": []}\n\n', headers=headers)
    context = RequestContext(id="req_1", route="chat", loss_report=LossReport())
    upstream = make_upstream(provider)

    upstream.make_handler(Route(upstream.settings, "chat", "m"), "chat", context)(CHAT)

    assert context.reply_headers == {
        "x-upstream-request-id": "up-1",
        "x-ratelimit-limit-tokens": "9",
    }


REFUSED_KEYS = [
    httpx2.Response(401, json={"error": {"message": "bad key"}}),
    httpx2.Response(400, json={"error": "Incorrect API key provided."}),
    make_stream({"error": {"message": "bad key", "code": 401}}),
]


@check_each("answer", REFUSED_KEYS, ids=["401", "400", "in a 200"])
@check_each("stream", [False, True])
def test_a_refused_key_is_remembered_until_a_request_succeeds(
    answer: httpx2.Response, stream: bool
) -> None:
    answers = [answer, answer, make_stream(CHUNK)]
    upstream = make_upstream(Provider(lambda _: answers.pop(0)))
    request = {**CHAT, "stream": stream}
    for _ in range(2):
        with pytest.raises(UpstreamKeyRefused, match="UP_API_KEY") as raised:
            send_request(upstream, request)
        assert upstream.key_refusal == raised.value.message
        assert (raised.value.status, raised.value.code) == (403, "upstream_authentication")

    send_request(upstream, request)

    assert upstream.key_refusal is None


TEXT_CHUNK = {"choices": [{"index": 0, "delta": {"content": "Hi"}}]}


BAD_KEY = {"message": "bad key", "code": "invalid_api_key"}


RESPONSE = {"id": "resp_1", "object": "response", "status": "in_progress", "output": []}


DELTA = {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "delta": "Hi"}


REFUSED_LATE = {
    "chat": ("chat", [TEXT_CHUNK], {"error": BAD_KEY}),
    "chat, bare": ("chat", [TEXT_CHUNK], {"object": "error", **BAD_KEY}),
    "responses, error": ("responses", [DELTA], {"type": "error", "error": BAD_KEY}),
    "responses, failed": (
        "responses",
        [{"type": "response.created", "response": RESPONSE}, DELTA],
        {"type": "response.failed", "response": {**RESPONSE, "error": BAD_KEY}},
    ),
}


@check_each("in_one_piece", [False, True])
@check_each("case", REFUSED_LATE)
def test_key_refused_in_midstream_is_an_error_of_the_forwarder(
    case: str, in_one_piece: bool
) -> None:
    protocol, before, last = REFUSED_LATE[case]
    frames = [f"data: {json.dumps(event)}\n\n".encode() for event in [*before, last]]

    def answer(_: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": "text/event-stream"}
        pieces = [b"".join(frames)] if in_one_piece else frames
        return httpx2.Response(200, headers=headers, content=iter(pieces))

    def read_failure(upstream: Upstream) -> tuple[list[Any], UpstreamError]:
        context = RequestContext(id="req_1", route=protocol, loss_report=LossReport())
        route = Route(upstream.settings, protocol, "their-model")
        stream = upstream.make_handler(route, protocol, context)({**CHAT, "model": "ours"})
        events: list[Any] = []
        with pytest.raises(UpstreamError) as raised:
            events.extend(event for batch in stream for event in batch)
        return events, raised.value

    upstream = make_upstream(Provider(answer))
    events, error = read_failure(upstream)
    assert events == before
    assert isinstance(error, UpstreamKeyRefused)
    assert upstream.key_refusal == error.message

    client_key_error = read_failure(make_upstream(Provider(answer), UP_API_KEY="passthrough"))[1]
    assert (client_key_error.status, client_key_error.code) == (401, "invalid_api_key")


@check_each("send", [send_compaction, send_embedding])
@check_each("status", [401, 200])
def test_refused_key_of_a_non_streamed_request_is_remembered(
    send: Callable[[Upstream], list[Any]], status: int
) -> None:
    error = {"error": {"message": "bad key", "code": "invalid_api_key"}}
    upstream = make_upstream(make_refusing_provider(status, json=error))

    with pytest.raises(UpstreamKeyRefused, match="UP_API_KEY") as raised:
        send(upstream)

    assert upstream.key_refusal == raised.value.message


@check_each("provider", ["generic", "minimax"])
@check_each("stream", [True, False])
def test_an_error_in_base_resp_is_found_with_every_profile(provider: str, stream: bool) -> None:
    body = {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "slower"}}
    answer = make_stream(body) if stream else httpx2.Response(200, json=body)
    upstream = make_upstream(Provider(lambda _: answer), UP_PROVIDER=provider)

    with pytest.raises(UpstreamRefused) as raised:
        send_request(upstream, {**CHAT, "stream": stream})

    assert (raised.value.status, raised.value.message) == (429, "slower")


def test_key_is_redacted_in_an_error_instead_of_a_chunk() -> None:
    answer = make_stream(CHUNK, {"object": "error", "message": f"bad {KEY}", "code": 500})
    events, _ = send_request(make_upstream(Provider(lambda _: answer)))

    assert events[-1]["error"]["message"] == "bad ***"


class Watched(httpx2.SyncByteStream):
    """An endless body that records whether it was closed."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece
        self.closed.wait(10)

    def close(self) -> None:
        self.closed.set()


@check_each(
    ("body", "kind"),
    [
        (Watched(httpx2.ReadError("x")), UpstreamUnreachable),
        (Watched(b": hm\n\n", httpx2.ReadTimeout("x")), UpstreamTimeout),
        (Watched(b'data: {"error": {"message": "no", "code": 503}}\n\n', b"more"), UpstreamRefused),
        (Watched(b"<html>", b"more"), UpstreamProtocolError),
    ],
)
def test_an_answer_that_breaks_before_it_begins_fails_at_once_and_is_closed(
    body: Watched, kind: type[UpstreamError]
) -> None:
    upstream = make_upstream(Provider(lambda _: httpx2.Response(200, stream=body)))
    context = RequestContext(id="req_1", route="chat", loss_report=LossReport())

    with pytest.raises(kind):
        upstream.make_handler(Route(upstream.settings, "chat", "m"), "chat", context)(CHAT)

    assert body.closed.is_set()


def test_models_are_plain_objects_with_an_id() -> None:
    listed = {"data": [{"id": "a", "x": 1}, {"id": ""}, "b", {"name": "c"}]}
    provider = make_refusing_provider(200, json=listed)

    assert make_upstream(provider, UP_API_KEY="").list_models(1.0) == [{"id": "a", "x": 1}]
    assert provider.requests[0].url.path == "/v1/models"


def test_list_of_models_without_a_wrapper_is_read() -> None:
    listed = [{"id": "a", "type": "chat"}, {"id": 7}, "b"]  # Together AI's format

    assert make_upstream(make_refusing_provider(200, json=listed)).list_models(1.0) == [
        {"id": "a", "type": "chat"}
    ]


@check_each("body", [b"<html>", b"[]", b"{}", b"7", b'{"data": null}', b'{"data": 7}'])
def test_invalid_list_of_models_is_empty_or_an_error(body: bytes) -> None:
    upstream = make_upstream(make_refusing_provider(200, content=body))
    try:
        assert upstream.list_models(1.0) == []
    except UpstreamError as error:
        assert error.status == 502


def test_compaction_is_sent_to_the_upstream_compact_path() -> None:
    compaction = {"object": "response.compaction", "output": [], "usage": {"input_tokens": 1}}
    provider = Provider(lambda _: httpx2.Response(200, json=compaction))
    upstream = make_upstream(provider, UP_PROVIDER="openai")
    context = RequestContext(id="req_1", route="responses", loss_report=LossReport())
    route = Route(upstream.settings, "responses", "their-model")

    batches = list(
        upstream.make_compaction_handler(route, context)({"model": "ours", "input": "hi"})
    )

    assert batches == [[compaction]]
    assert provider.requests[0].url.path.endswith("/responses/compact")
    assert provider.body == {"model": "their-model", "input": "hi"}


def test_refusal_to_compact_is_passed_on() -> None:
    provider = make_refusing_provider(404, json={"error": {"message": "no such path"}})
    context = RequestContext(id="req_1", route="responses", loss_report=LossReport())
    upstream = make_upstream(provider)
    route = Route(upstream.settings, "responses", "their-model")

    with pytest.raises(UpstreamRefused, match="no such path"):
        upstream.make_compaction_handler(route, context)({"model": "ours", "input": "hi"})


def test_embeddings_request_is_sent_unchanged() -> None:
    answer = {"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 1}, "more": 2}
    provider = Provider(lambda _: httpx2.Response(200, json=answer))

    assert send_embedding(make_upstream(provider)) == [[answer]]
    assert str(provider.requests[0].url) == "http://up.test/v1/embeddings"
    assert provider.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert provider.body == {"model": "their-model", "input": ["a"], "vendor": {"x": 1}}


@check_each(
    ("status", "answer"),
    [
        (404, {"json": {"error": {"message": "Invalid URL (POST /v1/embeddings)"}}}),
        (404, {"json": {"detail": "Not Found"}}),
        (405, {"text": "<html>"}),
        (501, {}),
    ],
)
def test_an_upstream_without_embeddings_is_named(status: int, answer: dict[str, Any]) -> None:
    with pytest.raises(NotFound, match="'up' has no embeddings") as caught:
        send_embedding(make_upstream(make_refusing_provider(status, **answer)))
    assert caught.value.code == "no_embeddings"


@check_each(
    ("status", "message"), [(404, "The model 'x' does not exist"), (400, "Too long"), (500, "Oh")]
)
def test_refusal_to_embed_is_passed_on(status: int, message: str) -> None:
    with pytest.raises(UpstreamRefused, match=message) as caught:
        send_embedding(
            make_upstream(make_refusing_provider(status, json={"error": {"message": message}}))
        )
    assert caught.value.status == status


def test_answer_without_embeddings_is_an_upstream_error() -> None:
    with pytest.raises(UpstreamProtocolError):
        send_embedding(
            make_upstream(Provider(lambda _: httpx2.Response(200, json={"object": "list"})))
        )


ONLY_STREAMS = {"error": {"message": "This model only support stream mode, please enable it."}}


@check_each("protocol", ["chat", "responses"])
def test_whole_answer_is_folded_from_a_stream_if_the_upstream_only_streams(protocol: str) -> None:
    done = {"type": "response.completed", "response": {"output": [{"type": "message"}]}}

    def answer(request: httpx2.Request) -> httpx2.Response:
        if not json.loads(request.content)["stream"]:
            return httpx2.Response(400, json=ONLY_STREAMS)
        return make_stream(CHUNK if protocol == "chat" else done)

    provider = Provider(answer)
    upstream = make_upstream(provider)
    for _ in range(2):
        body: dict[str, Any] = {"input": "hi"} if protocol == "responses" else CHAT
        events, _ = send_request(upstream, {**body, "stream": False}, protocol, client=protocol)
        assert events == [CHUNK if protocol == "chat" else done]

    streams = [json.loads(request.content)["stream"] for request in provider.requests]
    assert streams == [False, True, True]  # the quirk is known from the first request
    assert provider.body.get("stream_options") == (
        {"include_usage": True} if protocol == "chat" else None
    )


def test_compressed_answers_are_refused_and_compressed_errors_keep_their_status() -> None:
    packed = {"Content-Encoding": "br"}

    def answer(status: int) -> Upstream:
        stream = httpx2.ByteStream(b"packed")
        return make_upstream(
            Provider(lambda _: httpx2.Response(status, headers=packed, stream=stream))
        )

    with pytest.raises(UpstreamProtocolError, match="Content-Encoding 'br', though 'identity'"):
        send_request(answer(200))
    with pytest.raises(UpstreamRefused) as refused:
        send_request(answer(429))
    assert refused.value.status == 429


def test_chat_answer_does_not_change_includes_reasoning() -> None:
    completed = {"type": "response.completed", "response": {"id": "r", "status": "completed"}}

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/chat/completions"):
            return make_stream(CHUNK)
        response = make_stream(completed)
        response.headers["x-reasoning-included"] = "true"
        return response

    upstream = make_upstream(Provider(answer))
    send_request(upstream, {"model": "m", "input": "hi"}, "responses", "responses")
    send_request(upstream)

    assert upstream.includes_reasoning
