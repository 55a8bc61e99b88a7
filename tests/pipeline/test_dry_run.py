"""The dry run shows the request that would be sent, and has no side effects."""

from __future__ import annotations

import copy
import json
from typing import Any

import httpx2
import pytest

from forwarder import services
from forwarder.config.settings import Settings
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import ForwarderError, InvalidRequest, Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.middleware.media import Fetcher, UploadCache
from forwarder.pipeline.dry_run import detect_protocol, guess_file_name
from forwarder.pipeline.gateway import Gateway
from forwarder.protocols.parameters import CHAT_OVER_RESPONSES, RESPONSES_OVER_CHAT
from forwarder.services import Services
from tests.helpers.cases import Case, list_cases
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

CHAT: Json = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
RESPONSES: Json = {"model": "m", "input": "hi"}
SCHEMA: Json = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "object", "properties": {}}},
}
URL = "https://files.test/a%20b/cat.png?x=1"


class Wire:
    """Both upstreams; records posted requests and refuses them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.posted: list[tuple[str, Json]] = []
        transport = httpx2.MockTransport(self._answer)
        monkeypatch.setattr(services, "select_transport", lambda settings, heartbeat: transport)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(404, json={"error": {"message": "no such file"}})
        self.posted.append((str(request.url), json.loads(request.read())))
        return httpx2.Response(500, json={"error": {"message": "enough"}})


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(monkeypatch)


def make_services(**environment: str) -> Services:
    upstreams = {
        "CHAT_BASE_URL": "http://chat.test/v1",
        "RESPONSES_BASE_URL": "http://responses.test/v1",
    }
    return Services.build(Settings.from_env({**upstreams, **environment}))


def make_gateway(**environment: str) -> Gateway:
    return Gateway(make_services(**environment))


def make_context(strict: bool = False) -> RequestContext:
    return RequestContext("req_1", "translate", LossReport(strict=strict))


def preview(client: str, request: Json, strict: bool = False, **environment: str) -> Json:
    return preview_request(make_gateway(**environment), client, request, strict)


def preview_request(gateway: Gateway, client: str, request: Json, strict: bool = False) -> Json:
    return gateway.preview(client, copy.deepcopy(request), None, make_context(strict))


def chat(**more: Any) -> Json:
    return {**CHAT, **more}


def make_request(**more: Any) -> Json:
    return {**RESPONSES, **more}


# -- the shown request
# ------------------------------------------------------------------------------


def post_request(gateway: Gateway, wire: Wire, client: str, request: Json) -> tuple[str, Json]:
    """Return the URL and the body of the first real request."""
    body = copy.deepcopy(request)
    gateway.settle_stream_flag(client, body)
    with pytest.raises(ForwarderError):
        list(gateway.stream(client, body, None, make_context()))
    return wire.posted[0]


@check_each("case", list_cases())
@check_each("provider", ["generic", "mistral"], parts=4)
def test_shown_request_equals_the_sent_request(case: Case, provider: str, wire: Wire) -> None:
    wire.posted.clear()
    gateway = make_gateway(CHAT_PROVIDER=provider, RESPONSES_PROVIDER="openai")
    request = case.read("request.json")

    try:
        report = preview_request(gateway, case.client, request)
    except ForwarderError as refused:
        with pytest.raises(type(refused), match=".*") as caught:
            list(gateway.stream(case.client, request, None, make_context()))
        assert (caught.value.message, wire.posted) == (refused.message, [])
        return
    assert wire.posted == []
    url, body = post_request(gateway, wire, case.client, request)
    if report["would_fetch"]:  # the dry run shows a placeholder, the test has no content
        assert "<content of file-1>" in json.dumps(report["request"])
        return
    assert (report["upstream"]["url"], report["request"]) == (url, body)


@check_each(
    ("client", "request_", "environment"),
    [
        ("chat", chat(model="chat/m", vendor={"x": 1}, stream=True), {}),
        ("chat", chat(model="chat/m", max_completion_tokens=5), {"CHAT_PROVIDER": "groq"}),
        ("responses", make_request(model="responses/m", vendor=1), {}),
        ("chat", chat(model="chat/m", response_format=SCHEMA), {"CHAT_PROVIDER": "deepseek"}),
        ("chat", chat(n=3, stop="x", max_tokens=3), {}),
        ("responses", make_request(truncation="auto"), {"CHAT_PROVIDER": "minimax"}),
        ("chat", chat(), {"FORWARDER_CHAT_DEFAULT_STREAM": "true"}),
        ("chat", chat(model=None), {"FORWARDER_DEFAULT_MODEL": "chat/qwen"}),
    ],
)
def test_shown_request_includes_emulations_and_profiles(
    client: str, request_: Json, environment: dict[str, str], wire: Wire
) -> None:
    wire.posted.clear()
    gateway = make_gateway(**environment)
    report = preview_request(gateway, client, request_)

    url, body = post_request(gateway, wire, client, request_)
    assert (report["upstream"]["url"], report["request"]) == (url, body)


def test_dry_run_uses_learned_quirks(wire: Wire) -> None:
    services = make_services()
    learned_quirks = services.upstreams["chat"].learned_quirks
    learned_quirks.remember("m", {"max_tokens": "max_completion_tokens"})

    report = Gateway(services).preview(
        "responses", make_request(max_output_tokens=9), None, make_context()
    )

    assert report["request"]["max_completion_tokens"] == 9


# -- the report
# -----------------------------------------------------------------------------


def test_report_names_the_upstream_of_the_request(wire: Wire) -> None:
    report = preview("responses", make_request(model="fast"), CHAT_MODELS="fast=qwen-turbo",
                 CHAT_PROVIDER="dashscope")  # fmt: skip

    assert report["client"] == "responses"
    assert report["upstream"] == {
        "name": "chat",
        "protocol": "chat",
        "model": "qwen-turbo",
        "profile": "dashscope",
        "url": "http://chat.test/v1/chat/completions",
    }
    assert report["request"]["messages"] == [{"role": "user", "content": "hi"}]
    assert report["dispositions"]["model"]["disposition"] == "mapped"


def test_no_secret_is_shown(wire: Wire) -> None:
    report = preview(
        "responses", RESPONSES, CHAT_API_KEY="sk-secret-1", CHAT_QUERY="key=sk-secret-2",
        CHAT_HEADERS="X-Key: sk-secret-3", CHAT_QUIRKS='{"chat_path": "/here?key=sk-secret-4"}',
    )  # fmt: skip

    assert report["upstream"]["url"] == "http://chat.test/here"
    assert "sk-secret" not in json.dumps(report)


def test_report_has_the_dispositions_under_the_names_of_version_0_1_too(wire: Wire) -> None:
    report = preview("chat", chat(temperature=0.5, seed=7))

    assert report["fates"] == {
        name: {"fate": row["disposition"]} | ({"why": row["reason"]} if "reason" in row else {})
        for name, row in report["dispositions"].items()
    }


def test_every_parameter_has_the_disposition_of_its_table(wire: Wire) -> None:
    report = preview(
        "chat",
        chat(temperature=0.5, seed=7, logit_bias={}, n=2, verbosity="low", unheard=1, user=None),
    )

    assert report["dispositions"] == {
        "model": {"disposition": "carried"},
        "messages": {"disposition": "mapped", "reason": CHAT_OVER_RESPONSES["messages"].reason},
        "temperature": {"disposition": "carried"},
        "seed": {"disposition": "dropped", "reason": CHAT_OVER_RESPONSES["seed"].reason},
        "logit_bias": {"disposition": "neutral", "reason": "this value has no effect"},
        "n": {"disposition": "emulated", "reason": CHAT_OVER_RESPONSES["n"].reason},
        "verbosity": {"disposition": "mapped", "reason": CHAT_OVER_RESPONSES["verbosity"].reason},
        "unheard": {"disposition": "dropped", "reason": "neither API knows this parameter"},
    }
    assert report["dropped"].keys() == {"seed", "unheard"}
    assert report["emulated"] == {"n": CHAT_OVER_RESPONSES["n"].reason}


def test_dry_run_shows_changes_of_the_profile(wire: Wire) -> None:
    report = preview(
        "chat",
        chat(model="chat/m", user="me", max_completion_tokens=9, top_p=1),
        CHAT_PROVIDER="mistral",
    )

    dispositions = {name: row["disposition"] for name, row in report["dispositions"].items()}
    assert dispositions == {
        "model": "mapped",
        "messages": "carried",
        "user": "dropped",
        "max_completion_tokens": "mapped",
        "top_p": "carried",
    }
    assert report["dropped"] == {"user": "mistral does not take it"}


def test_unknown_parameter_is_dropped_by_path(wire: Wire) -> None:
    report = preview("responses", make_request(tools=[{"type": "web_search"}]))

    assert report["dispositions"]["tools"]["disposition"] == "mapped"
    assert report["dropped"].keys() == {"tools.web_search"}


FORMATS: list[tuple[Json, str, bool]] = [
    (SCHEMA, "deepseek", True),
    (SCHEMA, "minimax", True),
    (SCHEMA, "groq", False),
    ({"type": "json_object"}, "deepseek", False),
    ({"type": "json_object"}, "minimax", True),
    ({"type": "text"}, "minimax", False),
]


@check_each(("response_format", "provider", "emulated"), FORMATS)
def test_dry_run_shows_an_emulated_schema(
    response_format: Json, provider: str, emulated: bool, wire: Wire
) -> None:
    flat = {"type": response_format["type"], **response_format.get("json_schema", {})}

    for client, request in (
        ("chat", chat(model="chat/m", response_format=response_format)),
        ("responses", make_request(text={"format": flat})),
    ):
        report = preview(client, request, CHAT_PROVIDER=provider)
        assert ("prompt" in str(report["emulated"])) is emulated
        assert ("response_format" in report["emulated"] or "text" in report["emulated"]) is emulated


@check_each(
    ("client", "more", "emulated"),
    [
        ("chat", {"stop": ["x"]}, ["stop"]),
        ("chat", {"stop": []}, []),
        ("chat", {"n": 1}, []),
        ("chat", {"max_tokens": 15}, ["max_tokens"]),
        ("chat", {"max_completion_tokens": 16}, []),
        ("responses", {"truncation": "auto"}, ["truncation"]),
        ("responses", {"truncation": "disabled"}, []),
        ("chat", {"model": "chat/m", "n": 2, "stop": "x", "max_tokens": 3}, []),
    ],
)
def test_dry_run_lists_only_active_emulations(
    client: str, more: Json, emulated: list[str], wire: Wire
) -> None:
    report = preview(client, (chat if client == "chat" else make_request)(**more))

    assert list(report["emulated"]) == emulated
    kinds = [
        name for name, row in report["dispositions"].items() if row["disposition"] == "emulated"
    ]
    assert kinds == emulated


def test_request_of_several_choices_is_shown_once(wire: Wire) -> None:
    report = preview("chat", chat(n=3, seed=1))

    assert "n" not in report["request"]
    assert report["dropped"].keys() == {"seed"}


# -- no side effects --------------------------------------------------------------------------------


@pytest.fixture
def _no_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_call(*_: Any, **__: Any) -> Any:
        raise AssertionError("something was fetched or uploaded")

    monkeypatch.setattr(Fetcher, "fetch_all", refuse_call)
    monkeypatch.setattr(UploadCache, "get_file_id", refuse_call)


def make_image_request(**more: Any) -> Json:
    image = {"type": "input_image", "image_url": URL, **more}
    return make_request(input=[{"role": "user", "content": [image]}])


@pytest.mark.usefixtures("_no_hands")
def test_dry_run_names_urls_to_fetch(wire: Wire) -> None:
    report = preview(
        "responses", make_image_request(), CHAT_PROVIDER="ollama", FORWARDER_API_KEYS="k"
    )

    assert report["would_fetch"] == ["input[0].content[0].image_url"]
    assert report["would_upload"] == []
    [part] = report["request"]["messages"][0]["content"]
    assert part["image_url"]["url"] == f"<content of {URL}>"
    assert wire.posted == []


@pytest.mark.usefixtures("_no_hands")
def test_dry_run_names_files_to_upload(wire: Wire) -> None:
    file = {"type": "input_file", "file_url": "https://files.test/b.pdf"}
    inline_file = {"type": "input_file", "file_data": "data:application/pdf;base64,JVBERi0="}
    quirks = '{"file": "upload", "image_url": "base64"}'

    report = preview(
        "responses",
        make_request(input=[{"role": "user", "content": [file, inline_file]}]),
        CHAT_QUIRKS=quirks,
        FORWARDER_API_KEYS="k",
    )

    assert report["would_fetch"] == ["input[0].content[0].file_url"]
    assert report["would_upload"] == ["input[0].content[0]", "input[0].content[1]"]
    parts = report["request"]["messages"][0]["content"]
    assert [part["file"] for part in parts] == [{"file_id": "<the id of the uploaded file>"}] * 2


def test_dry_run_names_invalid_urls_to_fetch(wire: Wire) -> None:
    file = {"type": "input_file", "file_url": "http://[docs"}
    request = make_request(input=[{"role": "user", "content": [file]}])
    quirks = '{"file": "upload", "image_url": "base64"}'

    report = preview("responses", request, CHAT_QUIRKS=quirks, FORWARDER_API_KEYS="k")

    assert report["would_fetch"] == ["input[0].content[0].file_url"]
    assert wire.posted == []


def test_url_that_is_too_long_is_not_split() -> None:
    assert guess_file_name("https://files.test/" + "b" * 2**16) is None


def test_a_file_that_would_be_fetched_keeps_its_name(wire: Wire) -> None:
    file = {"type": "input_file", "file_url": "https://files.test/b.pdf"}

    report = preview(
        "responses",
        make_request(input=[{"role": "user", "content": [file]}]),
        FORWARDER_API_KEYS="k",
    )

    [part] = report["request"]["messages"][0]["content"]
    assert part["file"]["filename"] == "b.pdf"


def test_dry_run_refuses_urls_if_fetching_is_forbidden(wire: Wire) -> None:
    with pytest.raises(Unsupported) as refused:
        preview("responses", make_image_request(), CHAT_PROVIDER="ollama", FORWARDER_FETCH="off")

    assert refused.value.param == "input[0].content[0].image_url"


# -- refused requests -------------------------------------------------------------------------------


def test_dry_run_refuses_invalid_requests(wire: Wire) -> None:
    for name, value in (("prompt", {"id": "p"}), ("temperature", "hot"), ("input", 5)):
        with pytest.raises(ForwarderError) as refused:
            preview("responses", make_request(**{name: value}))
        assert (refused.value.status, refused.value.param) == (400, name)


def test_dry_run_in_strict_mode_refuses_dropped_parameters(wire: Wire) -> None:
    with pytest.raises(Unsupported) as refused:
        preview("chat", chat(seed=7), strict=True)

    assert refused.value.param == "seed"


def test_dry_run_refuses_too_deeply_nested_requests(wire: Wire) -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}

    with pytest.raises(InvalidRequest, match="deeply"):
        make_gateway().preview("chat", chat(model="chat/m", vendor=deep), None, make_context())


# -- detection of the protocol ----------------------------------------------------------------------


@check_each(
    ("request_", "api_name", "protocol"),
    [
        ({"messages": []}, None, "chat"),
        ({"input": ""}, None, "responses"),
        ({"input": "", "messages": []}, "chat", "chat"),
        ({}, "responses", "responses"),
    ],
)
def test_protocol_is_detected_by_fields_or_name(
    request_: Json, api_name: str | None, protocol: str
) -> None:
    assert detect_protocol(request_, api_name) == protocol


@check_each(
    ("request_", "api_name", "code"),
    [
        ({}, None, "missing_required_parameter"),
        ({"input": "", "messages": []}, None, "missing_required_parameter"),
        ({"input": ""}, "completions", "invalid_value"),
    ],
)
def test_undetectable_protocol_is_an_error(request_: Json, api_name: str | None, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        detect_protocol(request_, api_name)

    assert (refused.value.param, refused.value.code) == ("from", code)


def test_truncation_has_the_explanation_of_its_table(wire: Wire) -> None:
    report = preview("responses", make_request(truncation="auto"))

    assert report["emulated"]["truncation"] == RESPONSES_OVER_CHAT["truncation"].reason


# -- Ollama ----------------------------------------------------------------------------------------


def test_dry_run_shows_the_disposition_of_each_ollama_option() -> None:
    options = {"seed": 1, "num_ctx": 4096, "temperature": 0, "mirostat": 0}
    report = preview(
        "ollama", {**CHAT, "model": "responses/m", "options": options, "keep_alive": "5m"}
    )

    assert {name: row["disposition"] for name, row in report["dispositions"].items()} == {
        "model": "mapped",  # the client named the upstream
        "messages": "mapped",
        "keep_alive": "local",
        "options.seed": "dropped",
        "options.num_ctx": "dropped",
        "options.temperature": "mapped",
        "options.mirostat": "neutral",
    }
    assert report["dropped"].keys() == {"options.seed", "options.num_ctx"}
    assert report["dispositions"]["options.mirostat"]["reason"] == "this value has no effect"
    assert report["request"]["temperature"] == 0
