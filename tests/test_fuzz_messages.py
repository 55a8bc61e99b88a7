"""Clients of the Messages API get an answer or a refusal for every request and upstream answer.

The application in this process, between requests of the SDK's types that are then broken, and an
upstream with answers that are broken in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from forwarder import services
from forwarder.app import create_app
from forwarder.config.settings import Settings
from tests.fake_provider import Answer, Call
from tests.helpers import generated
from tests.helpers.cases import list_cases
from tests.helpers.messages import event_mistakes

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

Json = dict[str, Any]
Ask = Callable[[str, bytes], TestResponse]

KEY = "sk-upstream-secret"
ANSWERS = (
    Answer(text="Hello there."),
    Answer(text="So.", reasoning="Because."),
    Answer(text="<think>Because.</think>So."),
    Answer(text="Now.", calls=[Call("f", {"a": 1}), Call("g")]),
    Answer(refusal="No."),
    Answer(text="This is cut", finish="length"),
)
BODIES_WITH_HISTORY = [
    case.values[0].read("request.json")
    for upstream_api in ("chat", "responses")
    for case in list_cases(f"messages_over_{upstream_api}")
]
PLAIN: Json = {"max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}

randoms = st.randoms(use_true_random=False)
upstream_apis = st.sampled_from(["chat", "responses"])
broadly = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Upstream:
    """Answers each request with the body of a stream."""

    body = b""

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, content=self.body, headers=headers)


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture(scope="module")
def client(upstream: Upstream) -> FlaskClient:
    environment = {
        f"{name}_{key}": value
        for name in ("CHAT", "RESPONSES")
        for key, value in (
            ("BASE_URL", "http://up.test/v1"),
            ("API_KEY", KEY),
            ("MAX_RETRIES", "0"),
            ("BREAKER_FAILURES", "0"),
            ("BREAKER_SHARE", "0"),
        )
    }
    with pytest.MonkeyPatch.context() as patch:
        transport = httpx2.MockTransport(upstream)
        patch.setattr(services, "select_transport", lambda *arguments: transport)
        patch.setenv("FORWARDER_LOG_LEVEL", "error")
        app = create_app(Settings.from_env({**environment, "FORWARDER_DATABASE_URL": "none"}))
    return app.test_client()


def send_request(client: FlaskClient, body: Any) -> TestResponse:
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    data = generated.encode_json(body)
    return client.post("/v1/messages", data=data, headers=headers, buffered=True)


def assert_answered_or_refused(answer: TestResponse) -> None:
    """One whole message, one stream with one end, or one error of Anthropic's form."""
    text = answer.get_data(as_text=True)
    for secret in (KEY, "Traceback", 'File "', "failed unexpectedly"):
        assert secret not in text
    if answer.status_code != 200:
        body = json.loads(text)
        assert body["type"] == "error"
        assert body["error"].keys() == {"type", "message"}
    elif answer.mimetype == "application/json":
        assert json.loads(text)["type"] == "message"
    else:
        data = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        kinds = [json.loads(each)["type"] for each in data]
        terminal_flags = [kind in ("message_stop", "error") for kind in kinds if kind != "ping"]
        assert terminal_flags == [False] * (len(terminal_flags) - 1) + [True]


@broadly
@given(
    random=randoms,
    upstream_api=upstream_apis,
    breaks=st.integers(0, 3),
    answer=st.sampled_from(ANSWERS),
)
def test_requests_are_answered_or_refused(
    random: Random,
    upstream_api: Any,
    breaks: int,
    answer: Answer,
    client: FlaskClient,
    upstream: Upstream,
) -> None:
    generated_body = random.choice([PLAIN, *BODIES_WITH_HISTORY])
    body: Json = {
        **generated_body,
        "model": f"{upstream_api}/m",
        "stream": random.choice((True, False)),
    }
    for _ in range(breaks):
        body = generated.break_document(random, body) if body else body
    upstream.body = generated.frame_events(
        random, generated.generate_events(random, upstream_api, answer)
    )

    assert_answered_or_refused(send_request(client, body))


@broadly
@given(
    random=randoms,
    upstream_api=upstream_apis,
    breaks=st.integers(0, 3),
    answer=st.sampled_from(ANSWERS),
)
def test_answers_of_upstreams_are_translated_or_reported(
    random: Random,
    upstream_api: Any,
    breaks: int,
    answer: Answer,
    client: FlaskClient,
    upstream: Upstream,
) -> None:
    events: Any = generated.generate_events(random, upstream_api, answer)
    for _ in range(breaks):
        events = generated.break_document(random, events) if events else events
    upstream.body = generated.frame_events(random, events)
    parameters = random.choice(({}, {"thinking": {"type": "adaptive"}}, {"stop_sequences": ["e"]}))

    response = send_request(
        client, {**PLAIN, **parameters, "model": f"{upstream_api}/m", "stream": True}
    )

    assert_answered_or_refused(response)
    if response.status_code == 200 and not breaks:
        text = response.get_data(as_text=True)
        sent = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
        assert [mistake for event in sent for mistake in event_mistakes(event)] == []
