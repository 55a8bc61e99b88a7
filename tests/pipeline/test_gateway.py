"""The path of a request: its wrappers and their order, for each pair of protocols."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext
from forwarder.core.data_urls import Blob
from forwarder.core.errors import InternalError, InvalidRequest, Overloaded, Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.pipeline.gateway import Gateway
from forwarder.protocols.fold import fold_chat
from forwarder.services import ReplayOverrides, Services
from forwarder.storage import NullConversationStore

Json = dict[str, Any]

CHUNKS = [
    {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}, "finish_reason": None}]},
    {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
]
RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [
        {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "Hi"}]}
    ],
}
BODIES: dict[str, Json] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}], "stream": True},
    "responses": {"input": "hi", "stream": True},
}


class Upstreams:
    """A mock of both default upstreams."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bodies: list[Json] = []
        self.keys: list[str | None] = []
        """The ``Idempotency-Key`` of each request."""
        self.failing: dict[str, int] = {}
        """The last word of a path -> how often it still fails."""
        self.refused: dict[str, Json] = {}
        """A parameter -> the error that a request with it gets."""
        self.response: Json = RESPONSE
        transport = httpx2.MockTransport(self._answer)
        monkeypatch.setattr(
            "forwarder.services.select_transport", lambda settings, heartbeat: transport
        )

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(json.loads(request.read()))
        self.keys.append(request.headers.get("idempotency-key"))
        resource = request.url.path.rpartition("/")[2]
        if self.failing.get(resource, 0) > 0:
            self.failing[resource] -= 1
            return httpx2.Response(503, headers={"retry-after-ms": "1"})
        for name in self.refused.keys() & self.bodies[-1].keys():
            return httpx2.Response(400, json={"error": self.refused[name]})
        events: list[Json] = CHUNKS
        if request.url.path.endswith("responses"):
            events = [{"type": "response.completed", "response": self.response}]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return httpx2.Response(200, text=text + "data: [DONE]\n\n")


@pytest.fixture
def upstreams(monkeypatch: pytest.MonkeyPatch) -> Upstreams:
    return Upstreams(monkeypatch)


def make_services(replay: ReplayOverrides | None = None, **environment: str) -> Services:
    url = "http://up.test/v1"
    settings = {"CHAT_BASE_URL": url, "RESPONSES_BASE_URL": url, **environment}
    return Services.build(Settings.from_env(settings), replay)


def make_gateway(**environment: str) -> Gateway:
    return Gateway(make_services(**environment))


def read_answer(
    gateway: Gateway, client: str, model: Any = "m", style: str | None = None, **more: Any
) -> tuple[list[Json], RequestContext]:
    exchange = RequestContext(id="req_1", route=client, loss_report=LossReport())
    request = {**BODIES[client], "model": model, **more}
    stream = gateway.stream(client, request, style, exchange)
    return [event for batch in stream for event in batch], exchange


@pytest.mark.parametrize(
    ("client", "model", "upstream", "input_field"),
    [
        ("chat", "m", "responses", "input"),
        ("responses", "m", "chat", "messages"),
        ("chat", "chat/m", "chat", "messages"),
        ("responses", "responses/m", "responses", "input"),
    ],
)
def test_request_context_has_the_upstream_and_model(
    client: str, model: str, upstream: str, input_field: str, upstreams: Upstreams
) -> None:
    _, exchange = read_answer(make_gateway(), client, model)

    assert (exchange.upstream, exchange.model) == (upstream, "m")
    assert input_field in upstreams.bodies[0]
    assert upstreams.bodies[0]["model"] == "m"


@pytest.mark.parametrize(("client", "model"), [("chat", "chat/m"), ("responses", "responses/m")])
def test_the_same_protocol_passes_through(client: str, model: str, upstreams: Upstreams) -> None:
    events, _ = read_answer(make_gateway(), client, model, vendor={"x": 1})

    passed = CHUNKS[:2] if client == "chat" else [
        {"type": "response.completed", "response": RESPONSE}
    ]  # fmt: skip
    if client == "responses":  # except for the fields of the stored response
        [event] = events
        stored_fields = {"id": event["response"]["id"], "store": True, "previous_response_id": None}
        passed = [{**passed[0], "response": {**RESPONSE, **stored_fields}}]
    assert events == passed
    assert upstreams.bodies[0]["vendor"] == {"x": 1}


def test_usage_is_recorded_before_it_is_removed_from_the_stream(upstreams: Upstreams) -> None:
    events, exchange = read_answer(make_gateway(), "chat", "chat/m")

    assert not any(event.get("usage") for event in events)
    assert exchange.usage == CHUNKS[2]["usage"]


def test_extra_parameters_of_an_upstream_reach_it(upstreams: Upstreams) -> None:
    quirks = {"RESPONSES_QUIRKS": '{"responses_takes": ["seed", "top_k"]}'}
    for gateway, expected in (
        (make_gateway(), {}),
        (make_gateway(**quirks), {"seed": 7, "top_k": 3}),
    ):
        _, exchange = read_answer(gateway, "chat", seed=7, top_k=3, min_p=0.1)

        sent = upstreams.bodies[-1]
        assert {k: sent[k] for k in ("seed", "top_k", "min_p") if k in sent} == expected
        assert exchange.loss_report.losses.keys() == {"seed", "top_k", "min_p"} - expected.keys()


@pytest.mark.parametrize("model", [None, ""])
def test_default_model_is_used_without_a_model(model: str | None, upstreams: Upstreams) -> None:
    _, exchange = read_answer(make_gateway(FORWARDER_DEFAULT_MODEL="qwen"), "responses", model)

    assert exchange.model == upstreams.bodies[0]["model"] == "qwen"


@pytest.mark.parametrize(("model", "code"), [(None, "missing_required_parameter"),
                                             (5, "invalid_type"), (["m"], "invalid_type"),
                                             ("m" * 3000, "string_above_max_length")])  # fmt: skip
def test_model_must_be_a_string(model: Any, code: str, upstreams: Upstreams) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_answer(make_gateway(), "chat", model)

    assert (refused.value.param, refused.value.code) == ("model", code)


def test_log_gets_the_beginning_of_a_long_name_of_a_model(upstreams: Upstreams) -> None:
    context = RequestContext("r", "chat", LossReport())
    with pytest.raises(InvalidRequest):
        make_gateway().stream("chat", {"model": "m" * 3000, "messages": []}, None, context)

    assert context.requested_model == "m" * 2048


@pytest.mark.parametrize(
    ("setting", "style", "model", "head"),
    [
        ("", None, "chat/m", {"reasoning_content": "Hm."}),
        ("", "auto", "chat/m", {"reasoning_content": "Hm."}),
        ("think", "auto", "chat/m", {"reasoning_content": "Hm."}),
        ("", "think", "chat/m", {"content": "<think>Hm."}),
        ("reasoning", None, "chat/m", {"reasoning": "Hm."}),
        ("reasoning", "think", "chat/m", {"content": "<think>Hm."}),
    ],
)
def test_reasoning_style_of_the_request_overrides_the_setting(
    setting: str, style: str | None, model: str, head: Json, upstreams: Upstreams
) -> None:
    events, _ = read_answer(make_gateway(FORWARDER_CHAT_REASONING=setting), "chat", model, style)

    assert events[0]["choices"][0]["delta"] == head


@pytest.mark.parametrize(
    ("setting", "style", "summary", "form"),
    [
        ("", None, None, "text"),
        ("", None, "auto", "summary"),
        ("", "auto", "concise", "summary"),
        ("summary", None, None, "summary"),
        ("summary", "auto", None, "text"),
        ("text", None, "auto", "text"),
        ("text", "summary", None, "summary"),
    ],
)
def test_responses_client_has_its_own_reasoning_styles(
    setting: str, style: str | None, summary: str | None, form: str, upstreams: Upstreams
) -> None:
    gateway = make_gateway(FORWARDER_RESPONSES_REASONING=setting)

    events, _ = read_answer(gateway, "responses", "m", style, reasoning={"summary": summary})

    reasoning = events[-1]["response"]["output"][0]
    assert bool(reasoning["summary"]) == (form == "summary")


@pytest.mark.parametrize(("client", "style"), [("chat", "summary"), ("responses", "think")])
def test_styles_are_not_mixed_up(client: str, style: str, upstreams: Upstreams) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_answer(make_gateway(), client, "m", style)

    assert refused.value.param == "X-Forwarder-Reasoning"


@pytest.mark.parametrize(
    ("model", "is_requested"),
    [
        ("gpt-5.5", True),
        ("o3", True),
        ("gpt-oss:20b", True),
        ("responses/openai/gpt-5.5", True),
        ("x-ai/grok-4", True),
        ("gpt-4.1", False),
        ("gpt-5-chat-latest", False),
        ("m", False),
    ],
)
def test_reasoning_summary_is_requested_from_reasoning_models(
    model: str, is_requested: bool, upstreams: Upstreams
) -> None:
    read_answer(make_gateway(), "chat", model)

    assert ("reasoning" in upstreams.bodies[0]) == is_requested
    assert ("include" in upstreams.bodies[0]) == is_requested


@pytest.mark.parametrize("reasons", [True, False])
def test_quirk_decides_whether_models_reason(reasons: bool, upstreams: Upstreams) -> None:
    gateway = make_gateway(RESPONSES_QUIRKS=json.dumps({"reasons": reasons}))
    for model in ("gpt-5.5", "m"):
        read_answer(gateway, "chat", model)

        assert ("reasoning" in upstreams.bodies[-1]) == reasons


NO_SEALS = {
    "message": "Encrypted content is not supported with this model.",
    "type": "invalid_request_error",
    "param": "include",
    "code": None,
}
NO_SUMMARY = {
    "message": "Unsupported parameter: 'reasoning.summary' is not supported with this model.",
    "type": "invalid_request_error",
    "param": "reasoning.summary",
    "code": "unsupported_parameter",
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("refused", [{"include": NO_SEALS}, {"reasoning": NO_SUMMARY},
    {"include": NO_SEALS, "reasoning": NO_SUMMARY}])  # fmt: skip
def test_refusal_marks_a_model_as_not_reasoning(
    refused: dict[str, Json], strict: bool, upstreams: Upstreams
) -> None:
    gateway = make_gateway(RESPONSES_PROVIDER="azure", FORWARDER_STRICT=str(strict))
    upstreams.refused = refused

    for _ in range(2):
        exchange = RequestContext(id="req_1", route="chat", loss_report=LossReport(strict=strict))
        stream = gateway.stream("chat", {**BODIES["chat"], "model": "prod"}, None, exchange)
        assert list(stream)
        assert exchange.loss_report.losses == {}

    sent_fields = [
        [name for name in ("include", "reasoning") if name in b] for b in upstreams.bodies
    ]
    assert sent_fields == [["include", "reasoning"], [], []]


def test_organization_without_summaries_keeps_encrypted_reasoning(
    upstreams: Upstreams,
) -> None:
    message = "Your organization must be verified to generate reasoning summaries."
    upstreams.refused = {"reasoning": {"message": message, "param": "reasoning.summary"}}

    gateway = make_gateway()
    read_answer(gateway, "chat", "gpt-5.5")
    read_answer(gateway, "chat", "gpt-5.5")

    assert [("reasoning" in b, "include" in b) for b in upstreams.bodies] == [
        (True, True), (False, True), (False, True)
    ]  # fmt: skip


def test_reasoning_is_reported_dropped_for_a_model_without_reasoning(upstreams: Upstreams) -> None:
    parameters = {
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
    }
    gateway = make_gateway(RESPONSES_QUIRKS='{"reasons": false}')

    _, exchange = read_answer(gateway, "responses", "responses/m", **parameters)

    assert upstreams.bodies[0]["reasoning"] == {"effort": "low"}
    assert "include" not in upstreams.bodies[0]
    assert exchange.loss_report.losses.keys() == {
        "reasoning.summary",
        "include.reasoning.encrypted_content",
    }
    strict = RequestContext(id="req_2", route="responses", loss_report=LossReport(strict=True))
    with pytest.raises(Unsupported) as refused:
        gateway.stream(
            "responses", {**BODIES["responses"], "model": "responses/m", **parameters}, None, strict
        )
    assert refused.value.param == "reasoning.summary"


@pytest.mark.parametrize(("provider", "calls"), [("xai", 0), ("openai", 1)])
def test_calls_that_the_provider_answers_do_not_reach_a_chat_client(
    provider: str, calls: int, upstreams: Upstreams
) -> None:
    item = {"type": "custom_tool_call", "call_id": "xs_call_1", "name": "x", "input": "{}"}
    upstreams.response = {**RESPONSE, "output": [item]}

    events, _ = read_answer(make_gateway(RESPONSES_PROVIDER=provider), "chat", "responses/m")

    message = fold_chat(iter([events]))["choices"][0]["message"]
    assert len(message.get("tool_calls", [])) == calls


def test_a_reference_is_resolved_where_answers_are_translated(upstreams: Upstreams) -> None:
    gateway = make_gateway()
    events, _ = read_answer(gateway, "responses")
    message = events[-1]["response"]["output"][1]
    history = [{"role": "user", "content": "hi"}, {"type": "item_reference", "id": message["id"]}]

    read_answer(gateway, "responses", input=history)

    assert upstreams.bodies[-1]["messages"][1]["content"] == "Hi"


@pytest.mark.parametrize(
    ("client", "first", "path"),
    [
        ("chat", "chat", "completions"),
        ("chat", "responses", "responses"),
        ("responses", "chat", "completions"),
        ("responses", "responses", "responses"),
    ],
)
def test_a_fallback_gets_the_request_in_its_own_protocol(
    client: str, first: str, path: str, upstreams: Upstreams
) -> None:
    second = "responses" if first == "chat" else "chat"
    gateway = make_gateway(**{f"{first.upper()}_FALLBACK": f"{second}/spare"})
    upstreams.failing = {path: 1}
    kinds = {"chat": "messages", "responses": "input"}

    events, exchange = read_answer(gateway, client, f"{first}/m")

    assert [kinds[first] in upstreams.bodies[0], kinds[second] in upstreams.bodies[1]] == [True] * 2
    assert "Hi" in json.dumps(events)
    assert (exchange.upstream, exchange.model) == (second, "spare")
    assert exchange.failed_upstreams == [first]


@pytest.mark.parametrize("is_searching", [True, False])
def test_a_fallback_that_runs_no_tools_gets_the_request_unchanged(
    is_searching: bool, upstreams: Upstreams
) -> None:
    """The first upstream needs the forwarder's search, the fallback searches itself."""
    gateway = make_gateway(
        FORWARDER_UPSTREAMS="one,two",
        ONE_BASE_URL="http://one.test/v1",
        ONE_FALLBACK="two",
        TWO_BASE_URL="http://two.test/v1",
        TWO_HOSTED_TOOLS="web_search",
        FORWARDER_WEB_SEARCH="searxng",
        FORWARDER_WEB_SEARCH_URL="http://search.test",
    )
    upstreams.failing = {"completions": 1}
    exchange = RequestContext(
        id="req_1",
        route="chat",
        loss_report=LossReport(),
        client_headers={"Idempotency-Key": "key-1"},
    )
    options: Json = {"web_search_options": {}} if is_searching else {}
    messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "hi"}]
    request = {"model": "one/m", "messages": messages, "stream": True, **options}

    list(gateway.stream("chat", dict(request), None, exchange))

    first, second = upstreams.bodies
    assert ("tools" in first) is is_searching
    assert first["messages"][0]["role"] == ("system" if is_searching else "developer")
    assert {name: second.get(name) for name in request} == {**request, "model": "m"}
    assert upstreams.keys == [None if is_searching else "key-1", "key-1"]


def test_losses_of_a_failed_upstream_are_not_reported(
    upstreams: Upstreams,
) -> None:
    upstreams.failing = {"responses": 1}

    _, exchange = read_answer(
        make_gateway(RESPONSES_FALLBACK="chat"), "chat", "responses/m", seed=1
    )

    assert upstreams.bodies[1]["seed"] == 1
    assert exchange.loss_report.losses == {}


def test_only_the_failed_choice_is_retried(upstreams: Upstreams) -> None:
    upstreams.failing = {"responses": 1}

    events, exchange = read_answer(make_gateway(RESPONSES_MAX_RETRIES="1"), "chat", n=3)

    assert {c["index"] for event in events for c in event["choices"]} == {0, 1, 2}
    assert len(upstreams.bodies) == 4
    assert exchange.retries == 1


def test_upstream_slot_is_held_until_the_request_ends(upstreams: Upstreams) -> None:
    gateway = make_gateway(CHAT_MAX_CONCURRENT="1")
    _, exchange = read_answer(gateway, "chat", "chat/m")
    with pytest.raises(Overloaded):
        read_answer(gateway, "chat", "chat/m")

    exchange.close()

    read_answer(gateway, "chat", "chat/m")


def test_unexpected_exception_becomes_an_internal_error(
    upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = make_gateway()
    monkeypatch.setattr(RequestContext, "_record_last_event", lambda self, event: 1 / 0)

    with pytest.raises(InternalError):
        read_answer(gateway, "chat", "chat/m")


def test_search_model_gets_the_search_options(upstreams: Upstreams) -> None:
    gateway = make_gateway(CHAT_PROVIDER="openai")
    search = {"type": "web_search", "search_context_size": "low"}
    for model, options, dropped in (
        ("gpt-4o-search-preview", {"search_context_size": "low"}, ["temperature"]),
        ("gpt-4o", None, ["tools.web_search"]),
    ):
        _, exchange = read_answer(gateway, "responses", model, tools=[search], temperature=0.5)
        assert upstreams.bodies[-1].get("web_search_options") == options
        assert sorted(exchange.loss_report.losses) == dropped


def test_log_probabilities_that_a_provider_does_not_give_are_named(upstreams: Upstreams) -> None:
    gateway = make_gateway(CHAT_PROVIDER="groq")
    _, exchange = read_answer(gateway, "responses", top_logprobs=2)
    assert sorted(exchange.loss_report.losses) == ["top_logprobs"]
    assert not upstreams.bodies[0].keys() & {"logprobs", "top_logprobs"}


@pytest.mark.parametrize(
    ("tool_image", "roles"), [("user", "utu"), ("inline", "ut"), ("drop", "ut")]
)
@pytest.mark.parametrize("client", ["chat", "responses"])
def test_tool_images_are_sent_as_the_profile_requires(
    client: str, tool_image: str, roles: str, upstreams: Upstreams
) -> None:
    gateway = make_gateway(
        CHAT_PROVIDER="zhipu", CHAT_QUIRKS=json.dumps({"tool_image": tool_image})
    )
    if client == "responses":
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        image = {"type": "input_image", "image_url": "https://example.org/a.png"}
        result = {"type": "function_call_output", "call_id": "c", "output": [image]}
        read_answer(gateway, "responses", input=[{"role": "user", "content": "x"}, call, result])
    else:
        function = {"name": "f", "arguments": "{}"}
        call_message = {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": function}],
        }
        part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
        tool = {"role": "tool", "tool_call_id": "c", "content": [part]}
        read_answer(
            gateway,
            "chat",
            "chat/m",
            messages=[{"role": "user", "content": "x"}, call_message, tool],
        )
    sent = upstreams.bodies[0]["messages"]
    assert "".join(m["role"][0] for m in sent if m["role"] != "assistant") == roles
    assert ("a.png" in json.dumps(sent)) is (tool_image != "drop")


# -- Ollama ---------------------------------------------------------------------------------------

OLLAMA: dict[str, Json] = {
    "ollama": {"messages": [{"role": "user", "content": "hi"}]},
    "ollama_generate": {"prompt": "hi"},
}
every_ollama = pytest.mark.parametrize("client", OLLAMA)
every_upstream_api = pytest.mark.parametrize("upstream", ["chat", "responses"])


def read_lines(gateway: Gateway, client: str, **more: Any) -> tuple[list[Json], RequestContext]:
    exchange = RequestContext(id="req_1", route=client, loss_report=LossReport())
    request = {**OLLAMA[client], "model": "m", "stream": True, **more}
    return [e for batch in gateway.stream(client, request, None, exchange) for e in batch], exchange


@every_ollama
@every_upstream_api
def test_ollama_client_is_served_by_both_upstream_apis(
    client: str, upstream: str, upstreams: Upstreams
) -> None:
    lines, exchange = read_lines(make_gateway(), client, model=f"{upstream}/m")

    texts = [line.get("response") or line.get("message", {}).get("content") for line in lines]
    assert [text for text in texts if text] == ["Hi"]
    assert {line["model"] for line in lines} == {f"{upstream}/m"}
    assert lines[-1]["done"]
    assert (exchange.upstream, exchange.model) == (upstream, "m")
    assert ("input" if upstream == "responses" else "messages") in upstreams.bodies[0]
    if upstream == "chat":
        assert exchange.token_counts == (1, 2)
        reasoning = [
            line.get("thinking") or line.get("message", {}).get("thinking") for line in lines
        ]
        assert "Hm." in reasoning


@every_ollama
def test_body_of_an_ollama_client_is_repaired_for_its_upstream(
    client: str, upstreams: Upstreams
) -> None:
    options = {"num_predict": 9, "top_k": 4, "repeat_penalty": 1.1, "num_ctx": 1}
    _, exchange = read_lines(
        make_gateway(CHAT_PROVIDER="vllm"), client, options=options, think=False
    )

    body = upstreams.bodies[0]
    assert body["max_tokens"] == 9
    assert (body["top_k"], body["repetition_penalty"]) == (4, 1.1)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert set(exchange.loss_report.losses) == {"options.num_ctx"}


@every_ollama
def test_ollama_clients_get_the_emulations_of_chat(client: str, upstreams: Upstreams) -> None:
    lines, exchange = read_lines(
        make_gateway(), client, model="responses/m", options={"stop": ["i"], "seed": 1}
    )

    texts = [line.get("response") or line.get("message", {}).get("content") for line in lines]
    assert [text for text in texts if text] == ["H"]
    assert "stop" not in upstreams.bodies[0]
    assert set(exchange.loss_report.losses) == {"options.seed"}


def test_ollama_streams_by_default() -> None:
    gateway = make_gateway()
    assert gateway.settle_stream_flag("ollama", {})
    assert gateway.settle_stream_flag("ollama_generate", {"stream": None})
    assert not gateway.settle_stream_flag("ollama", {"stream": False})


def test_ollama_requests_are_not_stored(upstreams: Upstreams, tmp_path: Path) -> None:
    gateway = make_gateway(FORWARDER_DATABASE_URL=f"sqlite:///{tmp_path}/f.db")
    lines, exchange = read_lines(gateway, "ollama", store=True)

    assert lines[-1]["done"]
    assert "store" in exchange.loss_report.losses


def test_embeddings_go_to_the_fallback_too(upstreams: Upstreams) -> None:
    upstreams.failing["embeddings"] = 1
    exchange = RequestContext(id="req_1", route="embeddings", loss_report=LossReport())
    gateway = make_gateway(CHAT_FALLBACK="responses")

    list(gateway.embed("embeddings", {"model": "m", "input": "hi"}, exchange))

    assert (exchange.failed_upstreams, exchange.upstream) == (["chat"], "responses")
    assert [body["input"] for body in upstreams.bodies] == ["hi", "hi"]


def test_replay_uses_its_own_transport_and_fetcher_and_stores_nothing(
    upstreams: Upstreams,
) -> None:
    paths: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        paths.append(request.url.path)
        if request.url.path.endswith("/files"):
            return httpx2.Response(200, json={"id": "file-1", "object": "file"})
        return httpx2.Response(200, text="".join(f"data: {json.dumps(c)}\n\n" for c in CHUNKS))

    overrides = ReplayOverrides(
        httpx2.MockTransport(answer), lambda urls: {u: Blob(b"x", "a/b", None) for u in urls}
    )
    services = make_services(overrides, CHAT_QUIRKS='{"file": "upload", "image_url": "base64"}')
    part = {"type": "input_file", "file_url": "https://a.test/x.pdf"}
    messages = [{"role": "user", "content": [part]}]

    read_answer(Gateway(services), "responses", input=messages)

    assert paths == ["/v1/files", "/v1/chat/completions"]
    assert upstreams.bodies == []
    assert isinstance(services.store, NullConversationStore)


def test_replay_with_current_upstreams_calls_them(upstreams: Upstreams) -> None:
    services = make_services(ReplayOverrides())

    read_answer(Gateway(services), "responses")

    assert len(upstreams.bodies) == 1
    assert isinstance(services.store, NullConversationStore)
