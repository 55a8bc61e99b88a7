"""Requests that the forwarder itself makes to upstreams."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from forwarder.config.settings import Settings
from forwarder.context.client_identity import make_account_id
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.errors import (
    ClientDisconnected,
    UpstreamError,
    UpstreamMalformedEvent,
    UpstreamRefused,
)
from forwarder.hosted_tools.tool_context import GeneratedImage
from forwarder.pipeline.own_upstream_requests import InternalUpstreamClient, make_internal_context
from forwarder.pipeline.upstream_calls import UpstreamCalls
from forwarder.services import ReplayOverrides, Services
from forwarder.upstream.files import MultipartForm, PassthroughResponse
from tests.helpers.check_cases import check_each

Json = dict[str, Any]
ANSWER: Json = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": "m",
    "output": [],
    "usage": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
}
SEARCH = {"type": "web_search"}


class PaymentObserver(RequestObserver):
    """Records the paying client and the tokens."""

    def __init__(self) -> None:
        self.paid: list[tuple[str | None, Any, int]] = []

    def on_complete(self, context: RequestContext, seconds: float) -> None:
        self.paid.append((context.account_id, context.token_counts, context.status))


class Call:
    def __init__(self) -> None:
        self.cancel_callbacks: set[Callable[[], None]] = set()
        self.is_cancelled = False


def build_services(
    handle: Any, **more: str
) -> tuple[Services, InternalUpstreamClient, PaymentObserver]:
    environment = {
        "CHAT_BASE_URL": "http://chat.test/v1",
        "CHAT_API_KEY": "sk-chat",
        "RESPONSES_BASE_URL": "http://up.test/v1",
        "RESPONSES_API_KEY": "sk-up",
        "RESPONSES_MAX_RETRIES": "0",
        "FORWARDER_DATABASE_URL": "none",
        "FORWARDER_WEB_SEARCH": "searxng",
        "FORWARDER_WEB_SEARCH_URL": "http://127.0.0.1:9",
        **more,
    }
    services = Services.build(
        Settings.from_env(environment), ReplayOverrides(httpx2.MockTransport(handle))
    )
    payments = PaymentObserver()
    services.observers.append(payments)
    return services, InternalUpstreamClient(services, UpstreamCalls(services)), payments


def make_request(model: str) -> Json:
    return {"model": model, "input": "cats", "tools": [SEARCH], "store": False, "stream": False}


def test_client_pays_for_the_answer() -> None:
    sent: list[tuple[str, Json]] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        sent.append((str(request.url), json.loads(request.read())))
        return httpx2.Response(200, json=ANSWER)

    services, client, payments = build_services(handle)
    with services:
        response = client.ask(make_request("responses/m"), "account", Call())
    assert (response["id"], response["status"]) == ("resp_1", "completed")
    [(url, body)] = sent
    assert url == "http://up.test/v1/responses"
    assert (body["model"], body["tools"]) == ("m", [SEARCH])
    assert payments.paid == [("account", (3, 4), 200)]


def test_request_can_be_cancelled_with_its_call() -> None:
    call, waiting = Call(), []

    def handle(request: httpx2.Request) -> httpx2.Response:
        waiting.append([*call.cancel_callbacks])
        return httpx2.Response(200, json=ANSWER)

    services, client, _ = build_services(handle)
    with services:
        client.ask(make_request("responses/m"), "account", call)
        assert [len(each) for each in waiting] == [1]
        assert not call.cancel_callbacks
        call.is_cancelled = True
        with pytest.raises(ClientDisconnected):
            client.ask(make_request("responses/m"), "account", call)
    assert len(waiting) == 1


def test_tools_of_the_request_are_not_run_by_the_forwarder() -> None:
    sent: list[Json] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.read()))
        message = {"role": "assistant", "content": "Cats sleep."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        completion = {"id": "c", "object": "chat.completion", "choices": [choice]}
        return httpx2.Response(200, json=completion)

    services, client, _ = build_services(handle)
    with services:
        client.ask(make_request("chat/m"), "account", Call())
    assert "tools" not in sent[0]


def test_model_is_asked_for_an_image() -> None:
    sent: list[Json] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        sent.append(json.loads(request.read()))
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR"}}
        message = {"role": "assistant", "content": "Here.", "images": [image]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        completion = {"id": "c", "object": "chat.completion", "choices": [choice]}
        return httpx2.Response(200, json=completion)

    services, client, payments = build_services(handle)
    request = {
        "model": "chat/pics",
        "messages": [{"role": "user", "content": "a cat"}],
        "modalities": ["image", "text"],
        "stream": False,
    }
    with services:
        completion = client.ask_chat(request, "account", Call())
    url = completion["choices"][0]["message"]["images"][0]["image_url"]["url"]
    assert url == "data:image/png;base64,iVBOR"
    assert (sent[0]["model"], sent[0]["modalities"]) == ("pics", ["image", "text"])
    assert payments.paid[0][0] == "account"


def read_image(response: PassthroughResponse) -> GeneratedImage:
    answer = json.loads(b"".join(response.chunks))
    return GeneratedImage(answer["data"][0]["b64_json"], {}, answer["usage"])


def test_images_are_requested_with_the_upstreams_key_and_paid_by_the_client() -> None:
    sent: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        answer = {"data": [{"b64_json": "iVBOR"}], "usage": ANSWER["usage"]}
        return httpx2.Response(200, json=answer)

    services, client, payments = build_services(handle)
    form = MultipartForm(
        {"prompt": "darker"}, [("image", ("a.png", io.BytesIO(b"x"), "image/png"))]
    )
    contents: list[Any] = [{"prompt": "a cat"}, form]
    with services:
        for content in contents:
            image = client.send_images(
                "responses", "/images/edits", content, "account", Call(), read_image
            )
            assert image.data == "iVBOR"
    assert {str(request.url) for request in sent} == {"http://up.test/v1/images/edits"}
    assert {request.headers["authorization"] for request in sent} == {"Bearer sk-up"}
    assert json.loads(sent[0].content) == {"prompt": "a cat"}
    assert sent[1].headers["content-type"].startswith("multipart/form-data; boundary=")
    assert payments.paid == [("account", (3, 4), 200)] * 2


def test_refusal_of_the_images_api_is_passed_on() -> None:
    answer = httpx2.Response(400, json={"error": {"message": "no such size"}})
    services, client, payments = build_services(lambda request: answer)
    with services, pytest.raises(UpstreamRefused, match="no such size"):
        client.send_images("responses", "/images/generations", {}, "account", Call(), read_image)
    assert payments.paid[0][2] == 400


@check_each(
    ("answer", "kind"),
    [
        (httpx2.Response(400, json={"error": {"message": "no search"}}), UpstreamRefused),
        (httpx2.Response(200, content=b"{"), UpstreamError),
        (httpx2.Response(200, json=[]), UpstreamError),
    ],
)
def test_failure_is_an_upstream_error(answer: httpx2.Response, kind: type[Exception]) -> None:
    services, client, payments = build_services(lambda request: answer)
    with services, pytest.raises(kind):
        client.ask(make_request("responses/m"), "account", Call())
    assert payments.paid[0][2] >= 400


def test_malformed_answer_is_counted_as_a_failure() -> None:
    def read_malformed_answer(response: PassthroughResponse) -> GeneratedImage:
        raise KeyError("data")

    services, client, payments = build_services(lambda request: httpx2.Response(200, json={}))
    with services, pytest.raises(UpstreamMalformedEvent):
        client.send_images("responses", "/images", {}, "account", Call(), read_malformed_answer)
    assert payments.paid[0][2] == UpstreamMalformedEvent.status


def test_internal_request_has_the_name_of_its_client() -> None:
    services, *_ = build_services(
        lambda request: httpx2.Response(500), FORWARDER_API_KEYS="alice:k"
    )
    with services:
        account = make_account_id("k", None, services.settings)

        assert make_internal_context(services, "chat", account).client_name == "alice"
        assert make_internal_context(services, "chat").client_name == "unknown"
