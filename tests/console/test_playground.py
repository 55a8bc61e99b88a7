"""The playground: preview, sending, samples, captured requests."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
from flask.testing import FlaskClient

from forwarder.console import playground
from forwarder.console.playground import APIS, list_samples, load_sample
from forwarder.server.extension import get_extension
from tests.helpers.check_cases import check_each
from tests.server.conftest import Serve, make_stream_response

PREVIEW, SEND = "/console/playground/preview", "/console/playground/send"
HOSTILE = "</script><img src=x onerror=alert(1)>"
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def make_chunk(**choice: Any) -> dict[str, Any]:
    return {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": None, **choice}]}


ANSWER_CHUNKS = [make_chunk(delta={"content": "hi"}), make_chunk(finish_reason="stop")]

RESPONSE_EVENTS: list[dict[str, Any]] = [
    {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}},
    {
        "type": "response.output_item.added",
        "output_index": 0,
        "item": {"id": "msg_1", "type": "message", "role": "assistant", "content": []},
    },
    {
        "type": "response.output_text.delta",
        "item_id": "msg_1",
        "output_index": 0,
        "content_index": 0,
        "delta": "hi",
    },
    {
        "type": "response.completed",
        "response": {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": "m",
            "status": "completed",
            "output": [
                {
                    "id": "msg_1",
                    "type": "message",
                    "role": "assistant",
                    "status": "completed",
                    "content": [{"type": "output_text", "text": "hi", "annotations": []}],
                }
            ],
            "usage": {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8},
        },
    },
]

WHOLE_CHAT = {
    **CHUNK,
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
}


class Provider:
    """Answers requests of both protocols, whole or streamed, and records them."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(200, json={"data": [{"id": "m"}]})
        self.requests.append(request)
        is_chat = request.url.path.endswith("completions")
        if self.body.get("stream"):
            return make_stream_response(
                *(ANSWER_CHUNKS if is_chat else RESPONSE_EVENTS), done=is_chat
            )
        whole_answer = WHOLE_CHAT if is_chat else RESPONSE_EVENTS[-1]["response"]
        return httpx2.Response(200, json=whole_answer)

    @property
    def body(self) -> dict[str, Any]:
        """Return the body of the last request."""
        return dict(json.loads(self.requests[-1].content))


def send(client: FlaskClient, body: Any, **options: Any) -> list[dict[str, Any]]:
    """Send a request from the playground; return all events."""
    query = {name: options.pop(name) for name in list(options) if name != "headers"}
    data = body if isinstance(body, str) else json.dumps(body)
    answer = client.post(SEND, data=data, query_string=query, **options)
    assert answer.status_code == 200
    assert answer.mimetype == "text/event-stream"
    return read_events(answer.get_data())


def read_events(data: bytes) -> list[dict[str, Any]]:
    frames = [frame for frame in data.split(b"\n\n") if frame.startswith(b"data: ")]
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def preview(client: FlaskClient, body: Any, **query: str) -> str:
    data = body if isinstance(body, str) else json.dumps(body)
    answer = client.post(PREVIEW, data=data, query_string=query)
    assert answer.status_code == 200
    return answer.text


def join_text(events: list[dict[str, Any]], side: str) -> str:
    parts = [part for each in events if each["side"] == side for part in each.get("parts", ())]
    return "".join(part["text"] for part in parts if part["kind"] == "text")


# -- pages ----------------------------------------------------------------------------------------


def test_page_has_samples_apis_and_upstreams(serve: Serve) -> None:
    page = serve(Provider()).get("/console/playground").text

    for text in ("Chat Completions", "Ollama generate", "upstream:responses", "responses/tools"):
        assert text in page
    assert "<script>" not in page
    assert "style=" not in page.replace('name="style"', "")


SAMPLES = [f"{api.protocol}/{name}" for api in APIS for name, _ in list_samples(api.protocol)]


@check_each("target", ["upstream:chat", "upstream:responses"])
@check_each("name", SAMPLES)
def test_every_sample_can_be_translated_and_sent(name: str, target: str, serve: Serve) -> None:
    provider = Provider()
    client = serve(provider)
    choice, text = load_sample_in(client, name)
    assert json.loads(text)["model"]

    result = preview(client, text, api=choice.api, target=target)
    events = send(client, text, target=target)  # the API is detected

    assert "notice bad" not in result
    assert join_text(events, "client") == join_text(events, "upstream") == "hi", events
    assert provider.requests[-1].url.path.endswith(
        "completions" if target.endswith("chat") else "responses"
    )


def load_sample_in(client: FlaskClient, name: str) -> tuple[Any, str]:
    with client.application.test_request_context():
        return load_sample(name)


@check_each("name", ["", "x", "chat/x", "../chat/text", "embeddings/text"])
def test_unknown_samples_are_not_found(name: str, serve: Serve) -> None:
    answer = serve(Provider()).get("/console/playground", query_string={"sample": name or "/"})

    assert answer.status_code == 404


def test_features_have_samples_for_both_apis() -> None:
    names = ["text", "streaming", "reasoning", "tools", "image", "schema", "hosted", "turns"]
    for api in ("chat", "responses"):
        assert [name for name, _ in list_samples(api)] == names


# -- preview --------------------------------------------------------------------------------------


def test_preview_shows_the_upstream_request_and_each_disposition(serve: Serve) -> None:
    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise AssertionError("an upstream was called")

    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "seed": 1,
        "temperature": 0,
        "logit_bias": {},
        "n": 2,
    }
    result = html.unescape(preview(serve(refuse), body))

    assert '"input": [' in result
    rows = dict(re.findall(r"<code>(\w+)</code></th>\s*<td><span[^>]*>(\w+)<", result))
    assert rows == {
        "model": "carried", "messages": "mapped", "seed": "dropped", "temperature": "carried",
        "logit_bias": "neutral", "n": "emulated",
    }  # fmt: skip
    assert "http://up.test/v1/responses" in result
    assert "curl -sN http://localhost/v1/chat/completions" in result
    assert "client.chat.completions.create(" in result


BODY = {"model": "m", "input": "hi"}

MISTAKES: list[tuple[Any, dict[str, str], str]] = [
    ('{"model": "m",\n "input": hi}', {}, "Line 2, column 11"),
    ("{", {}, "Line 1, column 2"),
    ("", {}, "Line 1, column 1"),
    ("[]", {}, "must be a JSON object"),
    ('{"input": "\x01"}', {}, "column 12"),
    ('{"model": "m", "input": NaN}', {}, "<code>input</code>"),
    ({"model": "m"}, {}, "<code>api</code>"),
    ({"model": "m", "input": 7}, {}, "<code>input</code>"),
    (BODY, {"api": "embeddings"}, "<code>api</code>"),
    (BODY, {"api": "chat"}, "<code>messages</code>"),
    (BODY, {"style": "loud"}, "loud"),
    (BODY, {"style": "a\nb"}, "<code>style</code>"),
    (BODY, {"target": "upstream:x"}, "<code>target</code>"),
    (BODY, {"target": "model:x"}, "<code>target</code>"),
    ({**BODY, "model": 7}, {"target": "upstream:chat"}, "<code>model</code>"),
    ({**BODY, "background": True}, {}, "<code>background</code>"),
    ({**BODY, "conversation": "conv_1"}, {}, "<code>conversation</code>"),
    ({**BODY, "top_logprobs": 1, "tools": [{"type": "web_search"}]}, {"strict": "1"}, "tools"),
]


@check_each(("body", "query", "expected"), MISTAKES)
def test_mistakes_are_shown_at_their_position(
    body: Any, query: dict[str, str], expected: str, serve: Serve
) -> None:
    provider = Provider()
    client = serve(provider)

    result = preview(client, body, **query)
    assert "notice bad" in result
    assert expected in result

    event = send(client, body, **query)[0]
    if event["kind"] == "refused":
        assert event["message"]
    else:  # the request itself was refused, in the client's protocol
        assert provider.requests == []
        assert event["status"] == 400


def test_a_syntax_error_has_a_line_and_a_column(serve: Serve) -> None:
    (event,) = send(serve(Provider()), '{"model": "m",\n "input": hi}')

    assert (event["line"], event["column"], event["code"]) == (2, 11, "invalid_json")


def test_hostile_text_is_escaped(serve: Serve) -> None:
    client = serve(Provider(), FORWARDER_CAPTURE="memory")
    body = {"model": "m", "input": HOSTILE, HOSTILE: HOSTILE}

    result = preview(client, body)
    client.post("/v1/responses", json=body)
    name = client.get("/forwarder/exchanges").json["data"][0]["id"]
    page = client.get("/console/playground", query_string={"exchange": name}).text
    sample = client.get("/console/playground", query_string={"sample": HOSTILE}).text

    for text in (result, page, sample):
        assert "<img" not in text.replace('<img src="/console', "")
        assert "onerror" not in re.sub(r"&lt;.*?&gt;", "", text)


def test_long_requests_are_cut_in_the_preview(serve: Serve) -> None:
    url = "data:image/png;base64," + "A" * 300_000
    text = "word " * 100_000
    content = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": text}]
    body = {"model": "m", "input": [{"role": "user", "content": content}]}

    result = preview(serve(Provider()), body)

    assert len(result) < 500_000
    assert "characters left out" in result


def test_the_size_of_a_request_is_limited(serve: Serve) -> None:
    client = serve(Provider(), FORWARDER_MAX_BODY="10k")
    body = {"model": "m", "input": "x" * 20_000}

    assert "(413" in preview(client, body)
    (event,) = send(client, body)
    assert (event["kind"], event["type"]) == ("refused", "invalid_request_error")


@check_each(
    ("body", "title"),
    [
        ({"model": "m", "prompt": "hi"}, "Ollama generate"),
        ({"model": "m", "messages": [], "options": {}}, "Ollama chat"),
        (
            {
                "model": "m",
                "max_tokens": 9,
                "system": "s",
                "messages": [{"role": "user", "content": "hi"}],
            },
            "Anthropic Messages",
        ),
        ({"model": "m", "messages": [{"role": "user", "content": "hi"}]}, "Chat Completions"),
        ({"model": "m", "input": "hi"}, "Responses"),
    ],
)
def test_the_api_is_detected(body: Any, title: str, serve: Serve) -> None:
    result = preview(serve(Provider()), body)

    assert f"{title} →" in result or "notice bad" in result


# -- sending --------------------------------------------------------------------------------------


@check_each("stream", [True, False])
@check_each("target", ["upstream:chat", "upstream:responses"])
@check_each(
    ("api", "body"),
    [
        ("chat", {"messages": [{"role": "user", "content": "hi"}]}),
        ("responses", {"input": "hi"}),
        ("ollama", {"messages": [{"role": "user", "content": "hi"}]}),
    ],
)
def test_both_sides_are_shown_in_both_directions(
    api: str, body: Any, target: str, stream: bool, serve: Serve
) -> None:
    events = send(
        serve(Provider()), {"model": "m", "stream": stream, **body}, api=api, target=target
    )

    assert join_text(events, "client") == join_text(events, "upstream") == "hi"
    heads = [event for event in events if event["kind"] == "head"]
    assert {(head["side"], head["status"]) for head in heads} == {
        ("client", 200),
        ("upstream", 200),
    }
    assert events[-1]["kind"] == "end"
    assert events[-1]["upstream"] == target.partition(":")[2]


def test_events_arrive_while_the_upstream_answers(serve: Serve) -> None:
    sent: list[int] = []

    def answer(_: httpx2.Request) -> httpx2.Response:
        def pieces() -> Iterator[bytes]:
            for number in range(1000):
                sent.append(number)
                delta = make_chunk(delta={"content": "text " * 1000})
                yield f"data: {json.dumps(delta)}\n\n".encode()

        return httpx2.Response(200, content=pieces(), headers={"content-type": "text/event-stream"})

    client = serve(answer)
    answer_ = client.post(SEND, json={"model": "chat/m", "input": "hi", "stream": True})
    frames = iter(answer_.response)
    while b'"text"' not in next(frames):
        pass

    assert len(sent) < 1000
    answer_.close()


def test_stop_closes_the_upstream(serve: Serve) -> None:
    is_closed: list[bool] = []

    class Endless(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while not is_closed:
                yield f"data: {json.dumps(ANSWER_CHUNKS[0])}\n\n".encode()

        def close(self) -> None:
            is_closed.append(True)

    client = serve(lambda _: httpx2.Response(200, stream=Endless()))
    answer = client.post(SEND, json={"model": "chat/m", "input": "hi", "stream": True})
    frames = iter(answer.response)
    for _ in range(3):
        next(frames)
    answer.close()

    assert is_closed == [True]


def test_dropped_parameters_and_errors_are_shown(serve: Serve) -> None:
    provider = Provider()
    client = serve(provider)
    end = send(client, {"model": "m", "input": "hi", "tools": [{"type": "web_search"}]})[-1]
    assert list(end["dropped"]) == ["tools.web_search"]

    events = send(client, {"model": "m", "input": "hi"}, style="loud")
    head, event, end = events
    assert (head["status"], end["error"]) == (400, "invalid_value")
    assert event["data"]["error"]["param"] == "X-Forwarder-Reasoning"


def test_style_and_strictness_are_sent(serve: Serve) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return make_stream_response(make_chunk(delta={"reasoning_content": "hm"}), *ANSWER_CHUNKS)

    client = serve(answer)
    body = {"model": "chat/m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    assert join_text(send(client, body, style="think"), "client") == "<think>hm</think>\n\nhi"

    strict = send(client, {**body, "model": "responses/m", "seed": 1}, strict="1")
    assert strict[0]["status"] == 400
    assert strict[1]["data"]["error"]["param"] == "seed"


# -- storage, keys, limits ------------------------------------------------------------------------


@check_each("target", ["upstream:chat", "upstream:responses"])
@check_each(("query", "is_stored"), [({}, False), ({"store": "1"}, True)])
@check_each("fields", [{}, {"store": True}, {"store": None}])
def test_answers_are_stored_only_if_chosen(
    query: dict[str, str], is_stored: bool, fields: Any, target: str, serve: Serve
) -> None:
    provider = Provider()
    client = serve(provider)

    events = send(client, {"model": "m", "input": "hi", **fields}, target=target, **query)
    (answer,) = [e["data"] for e in events if (e["side"], e["kind"]) == ("client", "event")]

    if target == "upstream:chat":
        status = client.get(f"/v1/responses/{answer['id']}").status_code
        assert (status == 200) is answer["store"] is is_stored
    else:
        assert provider.body["store"] is is_stored


@check_each(("query", "is_stored"), [({}, False), ({"store": "1"}, True)])
def test_chat_completions_are_stored_only_if_chosen(
    query: dict[str, str], is_stored: bool, serve: Serve, tmp_path: Path
) -> None:
    client = serve(Provider(), FORWARDER_DATABASE_URL=f"sqlite:///{tmp_path}/{is_stored}.db")
    body = {"model": "chat/m", "messages": [{"role": "user", "content": "hi"}], "store": True}

    send(client, body, **query)

    assert bool(client.get("/v1/chat/completions").json["data"]) is is_stored


def with_keys(serve: Serve, answer: Callable[[httpx2.Request], httpx2.Response]) -> FlaskClient:
    return serve(
        answer,
        FORWARDER_API_KEYS="sk-client",
        FORWARDER_ADMIN_KEYS="sk-admin",
        CHAT_API_KEY="passthrough",
        RESPONSES_API_KEY="sk-upstream-secret",
    )


ADMIN = {"Authorization": "Bearer sk-admin"}


@check_each("path", [PREVIEW, SEND])
@check_each(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer sk-client"}, 403),
        ({"Authorization": "Bearer sk-other"}, 401),
        ({**ADMIN, "Origin": "https://evil.example"}, 403),
        ({**ADMIN, "Sec-Fetch-Site": "cross-site"}, 403),
        (ADMIN, 200),
    ],
)
def test_only_operators_use_the_playground(
    path: str, headers: dict[str, str], status: int, serve: Serve
) -> None:
    provider = Provider()
    client = with_keys(serve, provider)

    answer = client.post(path, json={"model": "responses/m", "input": "hi"}, headers=headers)

    assert answer.status_code == status
    assert answer.get_data() is not None
    assert bool(provider.requests) is (status == 200 and path == SEND)


def test_the_client_key_goes_to_its_upstream_only(serve: Serve) -> None:
    provider = Provider()
    client = with_keys(serve, provider)
    headers = {**ADMIN, playground.KEY_HEADER: "sk-the-clients-own"}
    body = {"model": "m", "messages": [{"role": "user", "content": "hi sk-the-clients-own"}]}

    events = send(client, body, target="upstream:chat", headers=headers)
    assert provider.requests[-1].headers["authorization"] == "Bearer sk-the-clients-own"
    send(client, body, target="upstream:responses", headers=headers)
    assert provider.requests[-1].headers["authorization"] == "Bearer sk-upstream-secret"
    assert "sk-the-clients-own" not in json.dumps(events)

    wrong = {**ADMIN, playground.KEY_HEADER: "schlüssel"}
    (event,) = send(client, body, headers=wrong)
    assert (event["kind"], event["param"]) == ("refused", "key")


def test_keys_of_the_settings_are_not_shown(serve: Serve) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(401, json={"error": {"message": "bad key sk-upstream-secret"}})

    client = with_keys(serve, answer)
    answer_ = client.post(SEND, json={"model": "responses/m", "input": "hi"}, headers=ADMIN)

    assert b"sk-upstream-secret" not in answer_.get_data()


def test_the_limit_of_concurrent_requests_applies(serve: Serve) -> None:
    client = serve(Provider(), FORWARDER_MAX_CONCURRENT="1")
    body = {"model": "chat/m", "input": "hi", "stream": True}
    first = client.post("/v1/responses", json=body)
    next(iter(first.response))

    events = send(client, body)
    first.close()

    assert events[0]["status"] == 503
    assert join_text(send(client, body), "client") == "hi"


def test_requests_are_captured_like_others(serve: Serve) -> None:
    client = serve(Provider(), FORWARDER_CAPTURE="memory")
    end = send(client, {"model": "chat/m", "input": "hi", "stream": True})[-1]

    record = client.get(f"/forwarder/exchanges/{end['id']}").json
    assert record["exchange"]["status"] == 200
    assert record["client"]["request"]["path"] == "/v1/responses"
    assert record["client"]["answer"]["events"]
    assert record["upstream"][0]["answer"]["events"]


# -- captured requests ----------------------------------------------------------------------------


@check_each(
    ("path", "body", "api", "style"),
    [
        ("/v1/responses", {"model": "m", "input": "hi"}, "responses", ""),
        ("/think/v1/chat/completions", {"model": "m", "messages": [1]}, "chat", "think"),
        ("/api/generate", {"model": "m", "prompt": "hi"}, "ollama_generate", ""),
        ("/v1/responses", "{not json", "responses", ""),
    ],
)
def test_a_captured_request_opens(path: str, body: Any, api: str, style: str, serve: Serve) -> None:
    client = serve(Provider(), FORWARDER_CAPTURE="memory")
    data = body if isinstance(body, str) else json.dumps(body)
    client.post(path, data=data, buffered=True)
    name = client.get("/forwarder/exchanges").json["data"][0]["id"]

    page = html.unescape(client.get(f"/console/playground?exchange={name}").text)

    text = page.partition("required>\n")[2].partition("</textarea>")[0]
    assert (text if isinstance(body, str) else json.loads(text)) == body
    assert f'<option value="{api}" selected>' in page
    assert (f'<option value="{style}" selected>' in page) is bool(style)
    assert f'href="/console/exchanges/{name}"' in page


def test_exchanges_without_a_request_do_not_open(serve: Serve) -> None:
    response = serve(Provider()).get("/console/playground?exchange=x")
    assert response.status_code == 404
    assert "FORWARDER_CAPTURE" in response.text

    client = serve(Provider(), FORWARDER_CAPTURE="memory")
    assert client.get("/console/playground?exchange=x").status_code == 404
    client.post("/v1/embeddings", json={"model": "m", "input": "hi"})
    name = client.get("/forwarder/exchanges").json["data"][0]["id"]
    assert client.get(f"/console/playground?exchange={name}").status_code == 400


def test_page_says_that_it_needs_scripts(serve: Serve) -> None:
    page = serve(Provider()).get("/console/playground").text

    assert "JavaScript" in page.partition("<noscript>")[2].partition("</noscript>")[0]
    assert '<button id="send" disabled>' in page  # the script enables it


@check_each(
    ("method", "path"),
    [
        ("GET", "/console/playground?exchange=x"),
        ("GET", "/console/exchanges/x/replay"),
        ("POST", "/console/exchanges/x/replay"),
    ],
)
def test_exchanges_are_searched_off_the_event_loop(method: str, path: str, serve: Serve) -> None:
    client = serve(Provider(), FORWARDER_CAPTURE="memory")
    capture = get_extension(client.application).services.capture
    assert capture is not None
    found_by: list[Callable[[], object]] = []
    capture.run_blocking = found_by.append  # type: ignore[assignment]

    assert client.open(path, method=method).status_code == 404
    assert len(found_by) == 1


def test_registered_models_can_be_chosen(serve: Serve) -> None:
    client = serve(Provider())
    created = client.post(
        "/api/create",
        json={"model": "mine", "from": "chat/m", "stream": False},
    )
    assert created.status_code == 200, created.text

    page = client.get("/console/playground").text
    (value,) = re.findall(r'value="(model:[^"]*)"', page)
    events = send(client, {"model": "other", "input": "hi"}, target=value)

    assert events[-1]["upstream"] == "chat"
    assert join_text(events, "client") == "hi"


def test_a_signed_in_browser_uses_the_playground(serve: Serve) -> None:
    provider = Provider()
    client = with_keys(serve, provider)
    body = {"model": "responses/m", "input": "hi"}
    assert client.post(SEND, json=body).status_code == 401

    client.post("/console/sign-in", data={"key": "sk-admin"})
    headers = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}

    assert join_text(send(client, body, headers=headers), "client") == "hi"
    assert "sk-admin" not in str(provider.requests[-1].headers)
